"""Layers fused for encoding: the numbers of transformers' own, in what they can be, and left alone elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedkit.formats.transformers.encoder import new_encoder
from embedkit.models import TextEncoder
from embedkit.models.encode.encoding import workers_for
from embedkit.models.execution import fused
from embedkit.models.execution.fused import FusedLayer, QuickLinear, for_encoding
from embedkit.models.execution.int8 import _LOWEST, Int8Product, quantize_tokens_
from embedkit.system.cpu import cpu_has_avx512, cpu_has_bf16, cpu_has_int8

from ..helpers import tiny

TEXTS = ["a red lamp", "two dogs ran over the wet grass behind the house", "why", "the cat sat", "a red dog", ""]
KINDS = ["bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "data2vec-text"]
avx512 = pytest.mark.skipif(not cpu_has_avx512(), reason="this CPU has no AVX-512")


def encoder_of(kind: str, **settings: Any) -> TextEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = {"hidden_size": 64, "intermediate_size": 128, **settings}
        encoder = new_encoder(tiny.config(kind, **size))
        tiny.spread(encoder)
    return TextEncoder(encoder, tiny.tokenizer())


def plain(model: TextEncoder, texts: list[str]) -> np.ndarray:
    """Vectors by transformers' own layers, each text alone."""
    model.eval()
    with torch.no_grad():
        rows = [model(model.prepare([text]), packing="padded")[0] for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs of fused layers."""
    found: list[int] = []
    original = FusedLayer.__call__
    monkeypatch.setattr(FusedLayer, "__call__", lambda *a, **k: found.append(1) or original(*a, **k))
    return found


@avx512
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_fused_layers_compute_what_transformers_does(kind: str, activation: str, calls: list[int]) -> None:
    model = encoder_of(kind, hidden_act=activation)
    np.testing.assert_allclose(model.encode(TEXTS), plain(model, TEXTS), atol=2e-6)
    assert len(calls) >= model.encoder.config.num_hidden_layers


@avx512
def test_another_activation_is_not_fused(calls: list[int]) -> None:
    model = encoder_of("bert", hidden_act="gelu_new")
    np.testing.assert_allclose(model.encode(TEXTS), plain(model, TEXTS), atol=2e-6)
    assert not calls


@avx512
@pytest.mark.parametrize("packing", ["buckets", "padded"])
def test_other_ways_run_the_layers_of_transformers(packing: str) -> None:
    model = encoder_of("bert")
    model.packing = packing
    np.testing.assert_allclose(model.encode(TEXTS), plain(model, TEXTS), atol=2e-6)


@avx512
def test_the_model_itself_is_left_as_it_is() -> None:
    model = encoder_of("bert")
    quick = for_encoding(model)
    assert any(type(module) is QuickLinear or "forward" in vars(module) for module in quick.modules())
    assert not any(type(module) is QuickLinear or "forward" in vars(module) for module in model.modules())
    assert all(a is b for a, b in zip(model.parameters(), quick.parameters(), strict=True))


def test_hooks_see_every_input_in_one_thread() -> None:
    model = encoder_of("bert")
    assert workers_for(model) == min(torch.get_num_threads(), 8)
    sizes = []
    layer = model.encoder.encoder.layer[0].intermediate.dense
    handle = layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-2]))
    assert workers_for(model) == 1
    model.encode(TEXTS)
    handle.remove()
    assert sum(sizes) == model.prepare(TEXTS).tokens


@avx512
def test_a_layer_that_somebody_changed_runs_as_it_is() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 3.0

    model = encoder_of("bert")
    before = model.encode(TEXTS)
    model.encoder.encoder.layer[1].output.dense.__class__ = Scaled
    after = model.encode(TEXTS)
    assert not np.allclose(before, after, atol=1e-3)
    np.testing.assert_allclose(after, plain(model, TEXTS), atol=2e-6)


@pytest.mark.parametrize("dtype", [None, pytest.param("bf16", marks=pytest.mark.skipif(not cpu_has_bf16(), reason=""))])
def test_hidden_states_are_recorded_once_however_often_one_encodes(dtype: str | None) -> None:
    model = encoder_of("bert")
    model.pooling = "first-last"
    first = model.encode(TEXTS, dtype=dtype)
    assert np.array_equal(model.encode(TEXTS, dtype=dtype), first)
    if dtype is None:
        np.testing.assert_allclose(first, plain(model, TEXTS), atol=2e-6)
        np.testing.assert_allclose(model.encode(TEXTS), first, atol=0)


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no 8-bit products")
@pytest.mark.parametrize("peaks", [None, torch.rand(96) * 5 + 0.1])
def test_an_8_bit_product_ends_with_activation_or_residual(peaks: torch.Tensor | None) -> None:
    linear, x, residual = nn.Linear(96, 70), torch.randn(9, 96).relu_(), torch.randn(9, 70)
    one = Int8Product([linear], peaks)
    right = one(x).clone()
    kept = x.clone()
    assert torch.equal(one.product(x, "gelu"), torch.nn.functional.gelu(right)) and torch.equal(x, kept)
    assert torch.equal(one.product(x, "relu"), right.relu())
    assert torch.allclose(one.product(x, residual=residual), right + residual, atol=1e-6)
    assert torch.allclose(one.product(x, before="relu"), right, atol=1e-6)  # x is overwritten here


def test_what_comes_from_an_activation_needs_no_minimum() -> None:
    x = torch.nn.functional.gelu(torch.randn(50, 96) * 2)
    q, scale = quantize_tokens_(x.clone(), lowest=_LOWEST["gelu"])
    other, same = quantize_tokens_(x.clone())
    assert torch.equal(q, other) and torch.equal(scale, same)
    low = torch.full((1, 96), -0.16)  # nothing but GELU's lowest values
    q, scale = quantize_tokens_(low.clone(), lowest=_LOWEST["gelu"])
    assert torch.allclose((q.float() - 128) * scale, low, atol=0.001)


def test_gelu_never_comes_below_its_lowest() -> None:
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    assert torch.nn.functional.gelu(x).min() >= _LOWEST["gelu"]
    assert fused._activation(nn.GELU("tanh")) is None and fused._activation(nn.GELU()) == "gelu"
