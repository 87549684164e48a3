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
from embedkit.models.modules.fused_lora import LowRank, add_fused_lora, is_updated, read_directly
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


def test_a_layer_under_two_names_takes_no_adapter() -> None:
    """peft's adapter would act under the first name alone, until the merge."""
    model = nn.Module()
    model.encoder = nn.ModuleDict({"one": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    model.encoder["again"] = model.encoder["one"]
    with pytest.raises(ModelError, match=r"model\.lora\.targets: the layer one is again too"):
        add_lora(model, LoraConfig(rank=2, targets=["one"]))
    model.encoder = nn.ModuleDict({"one": nn.Sequential(nn.Linear(4, 4))})
    model.encoder["again"] = model.encoder["one"]  # the adapter is within what both names stand for
    add_lora(model, LoraConfig(rank=2, targets=["0"]))
    stirred(model, ".lora_")
    rows = torch.ones(1, 4)
    assert torch.equal(model.encoder["one"](rows), model.encoder["again"](rows))


def test_running_means_are_saved_with_an_adapter() -> None:
    model, plain = nn.Module(), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model.encoder = copy.deepcopy(plain)
    add_lora(model, LoraConfig(rank=2, targets=["2"]))
    stirred(model, ".lora_")
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    model.encoder.train()(rows)
    plain.load_state_dict(merged_state(model.encoder))
    torch.testing.assert_close(plain.eval()(rows), model.encoder.eval()(rows))
    assert plain[1].running_mean.abs().max() > 0


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


@pytest.mark.parametrize("family", ["open_clip-vit", "open_clip-resnet", "clip", "timm-vit"])
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


# matrices that are read and not called --------------------------------------------------------------------------------


class _Pixels(nn.Module):
    """A module over small pictures in the place of an image tower."""

    size = (32, 32)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) -> (N, D)."""
        return self.encoder(pixels)


class _Patches(nn.Module):
    """torch's own encoder over patches of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 16)."""
        return self.layer(self.patches(pixels).flatten(2).transpose(1, 2)).mean(1)


def _timm(kind: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    if kind == "swin-v2":
        model = timm.models.swin_transformer_v2.SwinTransformerV2(
            img_size=32, patch_size=4, embed_dim=16, depths=(1,), num_heads=(2,), window_size=4, num_classes=0
        )
    else:
        made = {"eva": timm.models.eva.Eva, "beit": timm.models.beit.Beit}[kind]
        model = made(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    dual.spread(model)
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm):  # some start at zero, which switches their block off
            nn.init.ones_(layer.weight)
    return model


READERS: dict[str, Any] = {
    "torch-encoder-layer": _Patches, "eva": lambda: _timm("eva"), "beit": lambda: _timm("beit"),
    "swin-v2": lambda: _timm("swin-v2"),
}  # fmt: skip


@pytest.mark.parametrize("family", [*READERS, *dual.IMAGES])
def test_every_adapter_of_an_image_tower_acts_in_training_and_in_use(family: str) -> None:
    """The vectors in use are those of training, and a layer that had a gradient before has one in its adapter: no
    kernel passes over an adapter."""
    torch.manual_seed(0)
    tower: Any = _Pixels(READERS[family]()) if family in READERS else dual.image_tower(family)
    fresh = copy.deepcopy(tower.encoder).eval()
    pixels = torch.randn(2, 3, *tower.size, generator=torch.Generator().manual_seed(0))
    linear = {n: layer.weight for n, layer in tower.encoder.named_modules() if isinstance(layer, nn.Linear)}
    plain = tower.eval()(pixels)
    active = torch.autograd.grad(plain.square().sum(), list(linear.values()), allow_unused=True)
    used = [n for n, g in zip(linear, active, strict=True) if g is not None and float(g.abs().max()) > 1e-6]
    add_lora(tower, LoraConfig(rank=2))
    stirred(tower, ".lora_B")
    updates = [module for module in tower.modules() if isinstance(module, LowRank)]
    with torch.no_grad():
        for update in updates:
            update.b.normal_(std=0.2)
    tower.train()
    for module in tower.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    trained = tower(pixels)
    trained.square().sum().backward()
    modules = dict(tower.encoder.named_modules())
    second = [
        modules[n].parametrizations["weight"][0].b if is_updated(modules[n]) else modules[n].lora_B["default"].weight
        for n in used
    ]
    assert second and all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in second)
    with torch.inference_mode():
        vectors = tower.eval()(pixels)
    torch.testing.assert_close(vectors, trained.detach(), atol=1e-5, rtol=1e-5)
    assert float((vectors - plain.detach()).abs().max()) > 1e-3
    fresh.load_state_dict(merged_state(tower.encoder))
    tower.encoder = fresh
    with torch.inference_mode():
        torch.testing.assert_close(tower(pixels), vectors, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "clip", "siglip"])
def test_adapters_of_a_text_tower_act_in_training_and_in_use(family: str) -> None:
    model = dual.text_tower(family) if family in ("clip", "siglip") else tiny.text_encoder(family, dropout=0.0)
    texts = ["a red lamp", "two dogs run in the green park"]
    plain = model.encode(texts, normalize=False)
    add_lora(model, LoraConfig(rank=2))
    stirred(model, ".lora_B")
    trained = model.train()(model.prepare(texts)).detach().numpy()
    used = model.encode(texts, normalize=False)
    np.testing.assert_allclose(used, trained, atol=1e-5)
    assert np.abs(used - plain).max() > 1e-3


def test_which_layers_are_read_directly() -> None:
    assert read_directly(_Pixels(_Patches())) == {"layer.linear1", "layer.linear2"}
    assert read_directly(_Pixels(_timm("eva"))) == {"blocks.0.attn.qkv", "blocks.1.attn.qkv"}
    assert read_directly(dual.image_tower("open_clip-resnet")) == {
        f"attnpool.{name}_proj" for name in ("q", "k", "v", "c")
    }
    assert read_directly(dual.image_tower("clip")) == set()


def test_looking_for_them_leaves_a_tower_as_it_was() -> None:
    tower = dual.image_tower("open_clip-resnet").train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.requires_grad_(False)
    read_directly(tower)
    assert tower.training and all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in tower.parameters())
    assert not any(module._forward_hooks for module in tower.modules())


def test_dropout_before_a_matrix_that_is_read_is_refused() -> None:
    with pytest.raises(ModelError, match=r"attnpool\..*reads its matrix and has no input to drop from; set it to 0"):
        add_lora(dual.image_tower("open_clip-resnet"), LoraConfig(rank=2, dropout=0.1))
