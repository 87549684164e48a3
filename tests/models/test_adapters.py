"""Low-rank adapters: peft's on linear layers, our own on fused attention, merged and saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedkit.config.model import LoraConfig
from embedkit.errors import ModelError
from embedkit.models.modules.adapters import add_lora, has_adapters, merged_state
from embedkit.models.modules.fused_lora import LowRank, add_fused_lora, is_updated
from tests.helpers import dual, tiny

peft = pytest.importorskip("peft")


def stirred(module: nn.Module, part: str) -> None:
    """Random values for the trainable parts of the adapters, which start as no change at all."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if part in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


# peft -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["all-linear", ["query", "value"]])
def test_an_adapted_encoder_is_pefts(targets: Any) -> None:
    """Equal names, shapes and vectors to a model that peft adapts by itself."""
    model = tiny.text_encoder("bert", dropout=0.0)
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=6.0, target_modules=targets), copy.deepcopy(model.encoder)
    )
    add_lora(model, LoraConfig(rank=3, alpha=6.0, targets=targets))
    ours = model.encoder
    trained = {name: p.shape for name, p in ours.named_parameters() if p.requires_grad}
    assert trained == {name: p.shape for name, p in theirs.named_parameters() if p.requires_grad}
    stirred(ours, ".lora_")
    stirred(theirs, ".lora_")
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=ids).last_hidden_state, theirs.eval()(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-5
        )


def test_merging_adds_the_product_of_the_factors() -> None:
    model = tiny.text_encoder("bert")
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    add_lora(model, LoraConfig(rank=2, alpha=8.0, targets=["query"]))
    stirred(model, ".lora_")
    merged = merged_state(model.encoder)
    assert merged.keys() == before.keys()
    for name, layer in model.encoder.named_modules():
        if name.endswith("query"):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            wanted = before[f"{name}.weight"] + (8.0 / 2) * b @ a
            torch.testing.assert_close(merged[f"{name}.weight"], wanted.detach(), atol=1e-6, rtol=1e-6)
    untouched = [name for name in before if "query" not in name]
    assert all(torch.equal(merged[name], before[name]) for name in untouched)


def test_a_model_without_adapters() -> None:
    model = tiny.text_encoder("bert")
    assert not has_adapters(model.encoder)
    state = merged_state(model.encoder)
    assert state.keys() == model.encoder.state_dict().keys()


def test_heads_stay_trainable_and_the_rest_is_frozen() -> None:
    from embedkit.models.modules.text import Dense

    model = tiny.text_encoder("bert", dense=[Dense(32, 32)])
    add_lora(model, LoraConfig(rank=2))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert trained == {"dense"}
    assert has_adapters(model.encoder)


def test_targets_that_are_no_layer() -> None:
    with pytest.raises(ModelError, match=r"model\.lora\.targets: adapters do not fit"):
        add_lora(tiny.text_encoder("bert"), LoraConfig(targets=["nothing"]))
    with pytest.raises(ModelError, match=r"lora\.targets: no layer has such a name; try all-linear"):
        add_lora(dual.image_tower("open_clip-vit"), LoraConfig(targets=["nothing"]))


# fused attention ------------------------------------------------------------------------------------------------------


def test_an_update_of_three_parts_is_three_updates() -> None:
    """Query, key and value share one matrix; each has factors of its own."""
    torch.manual_seed(0)
    weight = torch.randn(12, 5, dtype=torch.float64)
    update = LowRank(weight, 3, LoraConfig(rank=2, alpha=6.0)).double()
    assert torch.equal(update(weight), weight)  # B starts at zero
    with torch.no_grad():
        update.b.normal_()
    wanted = torch.cat([weight[4 * k : 4 * k + 4] + 3.0 * update.b[k] @ update.a[k] for k in range(3)])
    torch.testing.assert_close(update(weight), wanted)


def test_fused_attention_equals_adapted_linear_layers() -> None:
    """`torch.nn.MultiheadAttention` with our update is the attention over three linear layers with peft's."""
    torch.manual_seed(1)
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    holder = nn.ModuleDict({"attn": layer})
    parts = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q", "k", "v", "o")}).double()
    with torch.no_grad():
        for k, name in enumerate(("q", "k", "v")):
            parts[name].weight.copy_(layer.in_proj_weight[8 * k : 8 * k + 8])
            parts[name].bias.copy_(layer.in_proj_bias[8 * k : 8 * k + 8])
        parts["o"].load_state_dict(layer.out_proj.state_dict())
    config = LoraConfig(rank=2, alpha=4.0)
    assert add_fused_lora(holder, config) == ["attn"]
    adapted = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q", "k", "v", "o"]), parts
    ).eval()
    fused, out = layer.parametrizations["in_proj_weight"][0], layer.out_proj.parametrizations["weight"][0]
    with torch.no_grad():
        for k, name in enumerate(("q", "k", "v")):
            fused.b[k].normal_()
            adapted[name].lora_A["default"].weight.copy_(fused.a[k])
            adapted[name].lora_B["default"].weight.copy_(fused.b[k])
        out.b.normal_()
        adapted["o"].lora_A["default"].weight.copy_(out.a[0])
        adapted["o"].lora_B["default"].weight.copy_(out.b[0])
    adapted.double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    heads = [adapted[name](x).unflatten(-1, (2, 4)).transpose(1, 2) for name in ("q", "k", "v")]
    wanted = adapted["o"](nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, x, x, need_weights=False)[0], wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("targets", "updated"),
    [("all-linear", 2), (["in_proj"], 1), (["out_proj"], 1), (["attn"], 2), (["mlp"], 0)],
)
def test_which_matrices_a_target_names(targets: Any, updated: int) -> None:
    holder = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)})
    found = add_fused_lora(holder, LoraConfig(rank=2, targets=targets))
    assert found == (["attn"] if updated else [])
    assert sum(is_updated(module) for module in holder.modules()) == updated
    frozen = [name for name, p in holder.named_parameters() if name.endswith("original") and p.requires_grad]
    assert frozen == []


def test_dropout_before_a_fused_matrix_is_refused() -> None:
    holder = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)})
    with pytest.raises(ModelError, match=r"lora\.dropout: fused attention has no input to drop from; set it to 0"):
        add_fused_lora(holder, LoraConfig(rank=2, dropout=0.1))


@pytest.mark.parametrize("family", ["open_clip-vit", "clip", "timm-vit"])
def test_an_adapted_image_tower_merges_to_equal_vectors(family: str, tmp_path: Path) -> None:
    from embedkit.formats import load

    model = dual.dual("bert", family)
    start = model.encode(dual.images(2))
    add_lora(model.image, LoraConfig(rank=2))
    np.testing.assert_allclose(model.encode(dual.images(2)), start, atol=1e-6)  # no change before training
    stirred(model.image, ".lora_B")
    with torch.no_grad():
        for module in model.image.modules():
            if isinstance(module, LowRank):
                module.b.normal_(std=0.2)
    vectors = model.encode(dual.images(2))
    assert np.abs(vectors - start).max() > 1e-3
    trained = [name for name, p in model.image.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name or name.endswith((".a", ".b")) for name in trained)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert not has_adapters(again.image.encoder)
    np.testing.assert_allclose(again.encode(dual.images(2)), vectors, atol=1e-5)
