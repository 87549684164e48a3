"""Decoders of TSDAE and DenoSent: against sentence-transformers, torch's decoder layer, and each text by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import ModelError, RecipeError
from embedkit.formats import load
from embedkit.methods.denosent import DenoSent
from embedkit.methods.mlm import MaskedWords
from embedkit.methods.tsdae import DenoisingAutoEncoder
from embedkit.models.execution.plan import Plan
from embedkit.models.heads.decoder import DecoderLayer, FromVector, embedded
from embedkit.training import train
from tests.helpers import tiny
from tests.methods import toys

DAMAGED = ["a man guitar", "dog", "two running in the green with a dog", "sings"]


def lengths_of(inputs: Any) -> dict[str, torch.Tensor]:
    return {"target": torch.from_numpy(inputs.costs)}


def restored(method: Any, model: Any, parts: Any, z: torch.Tensor, texts: list[str] = toys.TEXTS) -> torch.Tensor:
    """The decoder's loss of all texts, given their vectors."""
    inputs = model.prepare(texts)
    batch = toys.batch({"target": z}, len(texts), lengths=lengths_of(inputs))
    loss: torch.Tensor = method.local_terms("target", z, inputs, batch, model, parts)["restored"]
    return loss


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_tsdae_is_the_loss_of_sentence_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    st = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = toys.encoder(family, pooling="cls", normalize=False)
    MaskedWords().adapt(model)
    nn.init.normal_(model.double().mask_head.bias)
    model.save(tmp_path / "model")
    theirs = st.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    name = None if tied else str(tmp_path / "model")
    peer = losses.DenoisingAutoEncoderLoss(theirs, name, tie_encoder_decoder=tied).double().train()
    model = load(tmp_path / "model").double().train()
    method = DenoisingAutoEncoder(tied=tied, weight=2.0)
    parts = method.parts(model).double().train()
    for layer, cross in zip(peer.decoder.base_model.encoder.layer, parts["cross"].cross, strict=True):
        layer = layer.crossattention
        for own, its in ((cross.value, layer.self.value), (cross.output, layer.output.dense)):
            nn.init.normal_(its.bias, std=0.1)
            own.load_state_dict(its.state_dict())
        cross.norm.load_state_dict(layer.output.LayerNorm.state_dict())
    damaged, whole = (dict(theirs.preprocess(texts)) for texts in (DAMAGED, toys.TEXTS))
    wanted = 2.0 * peer([damaged, whole], None)
    wanted.backward()
    z = method.embed(model, parts, model.prepare(DAMAGED))
    found = restored(method, model, parts, z)
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-7)
    gradients = {name: p.grad for name, p in theirs.transformers_model.named_parameters() if p.grad is not None}
    mine = {name: p.grad for name, p in model.encoder.named_parameters() if p.grad is not None}
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    gradient = parts["cross"].cross[0].value.weight.grad
    assert float(gradient.norm()) > 1e-6


def test_words_are_deleted_at_the_rate_and_the_target_is_whole() -> None:
    texts = [" ".join(f"w{i}" for i in range(200))] * 50 + ["one"]
    rows = [{"anchor": text} for text in texts]
    views = DenoisingAutoEncoder(rate=0.6).views(rows, np.random.default_rng)
    kept = [len(text.split()) for text in views["anchor"].inputs[:-1]]
    assert np.mean(kept) / 200 == pytest.approx(0.4, abs=0.02)
    assert views["anchor"].inputs[-1] == "one" and views["target"].inputs == texts
    assert len(set(kept)) > 1
    assert DenoisingAutoEncoder(rate=0.0).views(rows, np.random.default_rng)["anchor"].inputs == texts


def test_a_text_of_one_token_has_nothing_to_be_guessed() -> None:
    model = toys.encoder()
    model.prepare = lambda texts: toys.Inputs.of([[2], [2, 5, 3]][-len(texts) :])
    method = DenoisingAutoEncoder()
    parts = method.parts(model).double()
    z = torch.randn(2, 32, dtype=torch.float64)
    both, one = restored(method, model, parts, z, ["", "a"]), restored(method, model, parts, z[1:], ["a"])
    assert both.item() == pytest.approx(one.item(), rel=1e-12)
    nothing = method.local_terms("target", z[:1], toys.Inputs.of([[2]]), toys.batch({"target": z}, 1), model, parts)
    assert nothing["restored"].item() == 0


def test_a_decoder_layer_is_that_of_torch_with_a_memory_of_one() -> None:
    torch.manual_seed(1)
    peer = nn.TransformerDecoderLayer(12, 3, dim_feedforward=20, dropout=0.0, batch_first=True).double()
    layer = DecoderLayer(memory=12, size=12, heads=3, inner=20, dropout=0.0).double()
    for vector in (p for p in peer.parameters() if p.dim() == 1):
        nn.init.normal_(vector)
    layer.projection.weight.data, layer.projection.bias.data = (
        peer.self_attn.in_proj_weight,
        peer.self_attn.in_proj_bias,
    )
    layer.cross.value.weight.data = peer.multihead_attn.in_proj_weight[24:]
    layer.cross.value.bias.data = peer.multihead_attn.in_proj_bias[24:]
    for own, its in ((layer.output, peer.self_attn.out_proj), (layer.cross.output, peer.multihead_attn.out_proj),
                     (layer.inner, peer.linear1), (layer.outer, peer.linear2), (layer.attention_norm, peer.norm1),
                     (layer.cross.norm, peer.norm2), (layer.norm, peer.norm3)):  # fmt: skip
        own.load_state_dict(its.state_dict())
    plan = Plan.of(np.array([2, 5, 5]))
    states, memory = torch.randn(12, 12).double(), torch.randn(3, 12).double()
    found = layer(states, memory, plan)
    wanted = [peer(x[None], z[None, None])[0] for x, z in zip(states.split([2, 5, 5]), memory, strict=True)]
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-10, atol=1e-12)


def test_attention_dropout_drops_whole_heads_of_a_token() -> None:
    torch.manual_seed(0)
    block = FromVector(memory=8, size=8, heads=4, attention_dropout=0.5).train()
    block.output, block.norm = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    value = block.value(torch.ones(1, 8)).detach()
    given = block(torch.zeros(500, 8), torch.ones(1, 8), torch.zeros(500, dtype=torch.int64)) / (2 * value)
    heads = given.detach().unflatten(1, (4, 2))
    assert torch.allclose(heads[..., 0], heads[..., 1], atol=1e-5)
    assert set(heads.round().unique().tolist()) == {0.0, 1.0}
    assert float(heads.mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(block.eval()(torch.zeros(1, 8), torch.ones(1, 8), torch.zeros(1, dtype=torch.int64)), value)


def test_denosent_restores_every_token_from_the_other_vector_and_its_own_detached_embeddings() -> None:
    model = toys.encoder("bert", pooling="cls")
    method = DenoSent(layers=2, inner=48, noise=0.0, dropout=0.0)
    parts = method.parts(model).double().train()
    z = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    found = restored(method, model, parts, z)
    total, count = torch.zeros((), dtype=torch.float64), 0
    words = model.encoder.get_input_embeddings().weight
    for row, vector in zip(model.prepare(toys.TEXTS).rows(), z, strict=True):
        x = embedded(model.encoder, toys.Inputs.of([row])).detach()
        for layer in parts["decoder"]:
            x = layer(x, vector[None], Plan.of(np.array([len(row)])))
        total = total + F.cross_entropy(parts["head"](x, words), torch.tensor(row), reduction="sum")
        count += len(row)
    assert found.item() == pytest.approx(7.0 * total.item() / count, rel=1e-10)
    places = model.encoder.embeddings.position_embeddings.weight
    (mine, words_mine, unused) = torch.autograd.grad(found, (z, words, places), allow_unused=True)
    assert unused is None  # what the decoder reads is detached
    (known, words_known) = torch.autograd.grad(7.0 * total / count, (z, words))
    torch.testing.assert_close(mine, known, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(words_mine, words_known, rtol=1e-8, atol=1e-12)  # through the output layer alone
    noisy = DenoSent(layers=2, inner=48, noise=0.5, dropout=0.0)
    torch.manual_seed(0)
    parts["noise"] = nn.Dropout(0.5)
    assert restored(noisy, model, parts, z).item() != pytest.approx(found.item(), rel=1e-3)


@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_which_wording_is_restored_from_which_vector(fidelity: str) -> None:
    method = DenoSent(fidelity=fidelity)
    rows = [{"anchor": "x", "positive": "back"}, {"anchor": "y", "positive": None}]
    views = method.views(rows, np.random.default_rng)
    assert views["positive"].inputs == ["back", "y"]
    assert views["target"].inputs == (["back", "y"] if fidelity == "code" else ["x", "y"])
    outputs = {name: torch.full((2, 1), float(i)) for i, name in enumerate(("anchor", "positive", "target"))}
    seen = method.project(outputs, toys.batch(outputs, 2), nn.ModuleDict())
    assert seen["target"] is outputs["anchor" if fidelity == "code" else "positive"]
    terms = (method.objective or {})["terms"]
    known = (7.0, 5.0, 0.05) if fidelity == "code" else (1.0, 1.0, 0.03)
    assert (method.weight, terms[0]["weight"], terms[0]["temperature"]) == known
    assert DenoSent(weight=2.0, fidelity=fidelity).weight == 2.0


@pytest.mark.parametrize("name", ["tsdae", "denosent"])
def test_the_decoder_is_not_in_the_saved_model(tmp_path: Path, name: str) -> None:
    result = train(name, output=tmp_path, smoke=True)
    saved = {key for file in result.output.rglob("*.safetensors") for key in load_file(file)}
    assert saved and not [key for key in saved if "cross" in key or "decoder" in key or "noise" in key]
    assert load(result.output).encode(["a dog"]).shape == (1, 32)
    assert load_recipe(name, smoke=True).method.name == name


def test_what_cannot_be_restored_is_refused() -> None:
    with pytest.raises(ModelError, match="a decoder cannot be made of distilbert"):
        DenoisingAutoEncoder().parts(tiny.text_encoder("distilbert"))
    with pytest.raises(ModelError, match="a decoder cannot be made of t5"):
        DenoSent().parts(tiny.text_encoder("t5"))
    with pytest.raises(RecipeError, match="rate is 1"):
        DenoisingAutoEncoder(rate=1.0)
