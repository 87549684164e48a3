"""Encoding in other types: the same model, the same vectors to a stated error, no text that depends on its batch."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import embedkit
from embedkit.errors import UserError
from embedkit.formats.transformers.encoder import new_encoder
from embedkit.models import TextEncoder
from embedkit.models.execution import dtypes
from embedkit.models.execution.int8 import InputRecord, Int8Linear, Int8Product, quantize_tokens_
from embedkit.system.cpu import cpu_has_bf16, cpu_has_int8

from ..helpers import tiny

TEXTS = ["a red lamp", "two dogs ran over the wet grass behind the house", "why", "the cat sat"]
int8 = pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no 8-bit products")
bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16 products")


@pytest.fixture
def model(tmp_path: Path) -> TextEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = new_encoder(tiny.config("bert", hidden_size=64, intermediate_size=128))
        tiny.spread(encoder)
    TextEncoder(encoder, tiny.tokenizer()).save(tmp_path / "model")
    loaded = embedkit.load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, TextEncoder)
    return loaded


def test_tokens_have_their_own_scales() -> None:
    x = torch.randn(50, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 50)[:, None]
    q, scale = quantize_tokens_(x.clone())
    back = (q.double() - 128) * scale.double()
    assert (back - x.double()).abs().le(scale.double() * 0.501).all()
    assert torch.equal(q.int().sub(128).abs().amax(1), torch.full((50,), 127, dtype=torch.int32))


def test_a_token_of_zeros_stays_zero() -> None:
    q, scale = quantize_tokens_(torch.zeros(2, 64))
    assert q.eq(128).all() and scale.isfinite().all()


@int8
@pytest.mark.parametrize("peaks", [None, torch.rand(96) * 5])
@pytest.mark.parametrize("bias", [True, False])
def test_the_products_are_those_of_the_rounded_numbers(peaks: torch.Tensor | None, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 70, bias=bias)
    x = torch.randn(5, 7, 96)
    layer = Int8Linear(linear, Int8Product([linear], peaks))
    divisors = torch.ones(96) if peaks is None else (peaks.clamp(min=1e-5) / linear.weight.abs().amax(0)).sqrt()
    weight = (linear.weight * divisors).double()
    scale = weight.abs().amax(1, keepdim=True) / 127
    q, tokens = quantize_tokens_((x * divisors.reciprocal()).reshape(-1, 96))
    right = ((q.double() - 128) * tokens) @ ((weight / scale).round() * scale).T
    right = right + linear.bias.double() if bias else right
    output = layer(x)
    assert output.shape == (5, 7, 70) and output.dtype == torch.float32
    assert torch.allclose(output.reshape(-1, 70).double(), right, rtol=1e-3, atol=2e-3)


@int8
def test_layers_of_one_input_share_a_product_and_others_do_not_see_it() -> None:
    layers = [nn.Linear(64, size, bias=size != 80) for size in (64, 80, 96)]
    product = Int8Product(layers)
    first, second, third = (
        Int8Linear(layer, product, start) for layer, start in zip(layers, (0, 64, 144), strict=True)
    )
    for _ in range(2):
        x, other = torch.randn(5, 64), torch.randn(5, 64)
        for layer, quick in zip(layers, (first, second, third), strict=True):
            assert (quick(x) - layer(x)).abs().max() < 0.05
        assert (second(other) - layers[1](other)).abs().max() < 0.05  # one alone, then another input
        assert (second(x) - layers[1](x)).abs().max() < 0.05
        assert (second(x.clone()) - layers[1](x)).abs().max() < 0.05


def test_groups_are_the_layers_that_always_see_one_input() -> None:
    q, k, v, o = (nn.Linear(64, 64) for _ in range(4))
    x = torch.randn(3, 64)
    with InputRecord([q, k, v, o]) as record:
        for _ in range(2):
            o(q(x) + k(x) + v(x))
    assert record.groups() == [(q, k, v), (o,)]
    with InputRecord([q, k, v, o]) as record:
        q(x), k(x), o(x + 1)
        q(x + 2), v(x)
    assert sorted(map(len, record.groups())) == [1, 1, 1, 1]
    assert not q._forward_pre_hooks


@int8
def test_int8_vectors_are_near_and_do_not_depend_on_the_batch(model: TextEncoder) -> None:
    whole = model.encode(TEXTS, dtype="int8")
    assert np.sum(whole * model.encode(TEXTS), axis=1).min() > 0.99
    assert not np.array_equal(whole, model.encode(TEXTS))
    for text, vector in zip(TEXTS, whole, strict=True):
        assert np.allclose(model.encode(text, dtype="int8"), vector, atol=1e-6)


@int8
def test_threads_may_share_a_model(model: TextEncoder) -> None:
    quick = model.at_dtype("int8")
    texts = [[f"the {word} dog {n}" for n in range(20)] for word in ("red", "big", "small", "green")]
    right = [quick.encode(part) for part in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for vectors, wanted in zip(pool.map(quick.encode, texts), right, strict=True):
                assert np.allclose(vectors, wanted, atol=1e-5)


@bf16
def test_bf16_encodes_as_a_model_loaded_in_bf16(model: TextEncoder, tmp_path: Path) -> None:
    loaded = embedkit.load(tmp_path / "model", device="cpu", dtype="bf16")
    assert np.array_equal(model.encode(TEXTS, dtype="bf16"), loaded.encode(TEXTS))
    assert model.at_dtype("bf16").hash() == loaded.hash()


@pytest.mark.parametrize("name", ["fp64", pytest.param("bf16", marks=bf16), pytest.param("int8", marks=int8)])
def test_the_model_itself_does_not_change(model: TextEncoder, name: str) -> None:
    before, vectors = copy.deepcopy(model.state_dict()), model.encode(TEXTS)
    model.train()
    model.encode(TEXTS, dtype=name)
    assert model.training and model.dtype == torch.float32
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert np.array_equal(model.encode(TEXTS), vectors)


@pytest.mark.parametrize("name", ["fp64", pytest.param("int8", marks=int8)])
def test_settings_and_weights_that_change_later_are_used(model: TextEncoder, name: str) -> None:
    first = model.encode(TEXTS, dtype=name)
    model.pooling = "cls"
    second = model.encode(TEXTS, dtype=name)
    assert not np.allclose(first, second, atol=1e-3)
    with torch.no_grad():
        next(m for m in model.encoder.modules() if type(m) is nn.Linear).weight.mul_(-2.0)
    third = model.encode(TEXTS, dtype=name)
    assert not np.allclose(second, third, atol=1e-3)
    assert np.sum(third * model.encode(TEXTS), axis=1).min() > 0.99


@int8
def test_a_model_in_int8_says_so_and_is_saved_as_what_it_was(model: TextEncoder, tmp_path: Path) -> None:
    quick = embedkit.load(tmp_path / "model", device="cpu", dtype="int8")
    assert quick.describe()["dtype"] == "int8" and quick.hash() != model.hash()
    quick.save(tmp_path / "saved")
    assert embedkit.load(tmp_path / "saved", device="cpu").hash() == model.hash()
    with pytest.raises(UserError, match="loaded in int8.*load it without"):
        quick.encode(TEXTS, dtype="fp64")


@pytest.mark.parametrize(("name", "flag"), [("bf16", "cpu_has_bf16"), ("int8", "cpu_has_int8")])
def test_emulated_types_are_refused(model: TextEncoder, monkeypatch: pytest.MonkeyPatch, name: str, flag: str) -> None:
    monkeypatch.setattr(dtypes, flag, lambda: False)
    with pytest.raises(UserError, match=f"no {name} instructions.*use one of fp32.*auto"):
        model.encode(TEXTS, dtype=name)


def test_fp16_is_refused_on_a_cpu_and_unknown_names_too(model: TextEncoder) -> None:
    with pytest.raises(UserError, match="no fp16 instructions"):
        model.encode(TEXTS, dtype="fp16")
    with pytest.raises(UserError, match="unknown dtype 'int9'.*int8"):
        model.encode(TEXTS, dtype="int9")


class TestAuto:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        monkeypatch.setattr(dtypes, "_REPORTS", set())
        return tmp_path / "home"

    def test_it_takes_the_fastest_and_keeps_it(
        self, model: TextEncoder, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        fastest = dtypes.native_dtypes(torch.device("cpu"))[-1]
        choice = dtypes.Choice(fastest, 2.0, 0.999, 0.99)
        calls = []
        monkeypatch.setattr(dtypes, "_measure", lambda *_: calls.append(1) or (choice, True))
        for _ in range(3):
            assert np.array_equal(model.encode(TEXTS, dtype="auto"), model.encode(TEXTS, dtype=fastest))
        assert len(calls) == 1
        assert fastest in (home / ".cache/embedkit/dtypes.json").read_text()
        assert caplog.text.count("2.0 x the speed of fp32") == 1

    def test_what_is_measured_beside_other_work_is_not_kept(
        self, model: TextEncoder, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dtypes, "_measure", lambda *_: (dtypes.Choice("fp32", 1.0, 1.0, 1.0), False))
        model.encode(TEXTS, dtype="auto")
        assert not (home / ".cache").exists()

    def test_the_measurement_compares_native_types_alone(self, model: TextEncoder) -> None:
        choice, _ = dtypes._measure(model, dtypes.linear_layers(model))
        assert choice.dtype in dtypes.native_dtypes(torch.device("cpu"))
        assert choice.factor >= 1.0 and 0.98 < choice.lowest <= choice.cosine < 1.00001

    def test_int8_is_taken_where_it_is_faster_by_a_tenth(self) -> None:
        assert dtypes._best({"fp32": 3.0, "bf16": 1.05, "int8": 1.0}) == "bf16"
        assert dtypes._best({"fp32": 3.0, "bf16": 1.2, "int8": 1.0}) == "int8"
        assert dtypes._best({"fp32": 1.0, "bf16": 1.2, "int8": 1.1}) == "fp32"

    @pytest.mark.parametrize("content", ["", "[]", '{"a": {"dtype": "int8"}}', "not json"])
    def test_a_file_that_cannot_be_read_is_written_anew(self, model: TextEncoder, home: Path, content: str) -> None:
        file = home / ".cache" / "embedkit" / "dtypes.json"
        file.parent.mkdir(parents=True)
        file.write_text(content)
        assert model.encode(TEXTS, dtype="auto").shape == (4, model.dim)
