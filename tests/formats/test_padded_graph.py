"""The module that is exported as an ONNX graph, before any export: its vectors are the model's, or it is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.model import LoraConfig
from embedkit.errors import MissingExtraError, ModelError
from embedkit.formats.onnx import dual_graph, text_graph
from embedkit.formats.onnx.image_graph import ImageGraph
from embedkit.formats.onnx.text_graph import PaddedEncoder, need_onnx, padded, quiet_exporter
from embedkit.models.heads.layers import Dense
from embedkit.models.modules.adapters import add_lora
from tests.helpers import dual, tiny

TEXTS = tiny.SENTENCES
TEMPLATE = {"prompts": {"t": "{} means [MASK] ."}, "default_prompt": "t"}


def graph_vectors(model: Any, wider: int = 0) -> np.ndarray:
    """Vectors of `TEXTS` by the module, over a batch with `wider` places of padding more than it needs."""
    graph = PaddedEncoder(model).float().eval()
    ids, mask = padded(model.prepare(TEXTS), model.encoder)
    ids, mask = (torch.nn.functional.pad(x, (0, wider)) for x in (ids, mask))
    with torch.no_grad():
        return graph(ids, mask).numpy()


@pytest.mark.parametrize(
    "pooling",
    ["cls", "max", "mean", "last-token", "weighted-mean", "mean-sqrt-len", "first-last", "embedding-last", "last-two",
     "cls+mean", "max+last-token+weighted-mean"],
)  # fmt: skip
@pytest.mark.parametrize("wider", [0, 5])
def test_each_pooling_over_a_padded_batch(pooling: str, wider: int) -> None:
    model = tiny.text_encoder(pooling=pooling, normalize=False)
    np.testing.assert_allclose(graph_vectors(model, wider), model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet", "modernbert", "t5", "albert"])
def test_each_family(family: str) -> None:
    model = tiny.text_encoder(family)
    np.testing.assert_allclose(graph_vectors(model, 3), model.encode(TEXTS), atol=1e-4)


def test_the_mask_token_of_a_template() -> None:
    model = tiny.text_encoder(pooling="mask", normalize=False, **TEMPLATE)
    np.testing.assert_allclose(graph_vectors(model, 3), model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_layers_of_use_are_in_the_graph_and_those_of_training_are_not(normalize: bool) -> None:
    dense = [Dense(32, 16, "gelu"), Dense(16, 4, train_only=True), Dense(16, 8, "identity")]
    model = tiny.text_encoder(dense=dense, normalize=normalize)
    np.testing.assert_allclose(graph_vectors(model), model.encode(TEXTS), atol=1e-5)


def test_the_model_itself_is_not_changed_by_being_copied() -> None:
    model = tiny.text_encoder()
    before, way = model.encode(TEXTS), model.way()
    graph = PaddedEncoder(model)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(model.encode(TEXTS), before)
    assert model.way() == way == "packed"


def test_a_padded_batch_has_zeros_where_no_token_is() -> None:
    model = tiny.text_encoder()
    inputs = model.prepare(["the dog", "a man is playing guitar", ""])
    ids, mask = padded(inputs, model.encoder)
    assert ids.shape == mask.shape == (3, max(map(len, inputs.rows())))
    for row, line, seen in zip(inputs.rows(), ids.tolist(), mask.tolist(), strict=True):
        assert line[: len(row)] == row
        assert seen == [1] * len(row) + [0] * (len(line) - len(row))
        assert set(line[len(row) :]) <= {model.encoder.config.pad_token_id}


# --- refused ---------------------------------------------------------------------------------------------------------


def test_adapters_must_be_merged_first() -> None:
    pytest.importorskip("peft")
    model = tiny.text_encoder()
    add_lora(model, LoraConfig(rank=2, targets=["query"]))
    with pytest.raises(ModelError, match="the model has adapters; save and load it first, which merges them"):
        PaddedEncoder(model)
    pair = dual.dual("bert", "vit")
    add_lora(pair.image, LoraConfig(rank=2, targets="all-linear"))
    with pytest.raises(ModelError, match="the model has adapters"):
        ImageGraph(pair, normalize=True)


def test_a_pooling_without_the_prompt_has_no_graph() -> None:
    with pytest.raises(ModelError, match="one graph cannot express the pooling leaving the prompt out"):
        PaddedEncoder(tiny.text_encoder(pool_prompt=False))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "mask", "template_bias": {"when": "always"}, **TEMPLATE}, "the bias of its template"),
        ({"soft_prompt": {"length": 2}}, "it has a soft prompt in every layer"),
    ],
)
def test_what_one_graph_cannot_say_is_said_before_anything_is_written(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"one graph cannot express this model: {words}") as caught:
        text_graph.write(tiny.text_encoder(**settings), tmp_path)
    assert caught.value.remedy == "save it as an embedkit folder"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_each_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))
    with pytest.raises(MissingExtraError, match=rf"ONNX export needs the package '{package}'.*embedkit\[onnx\]"):
        need_onnx()


# --- dual encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "image"), [("bert", "vit"), ("clip", "open_clip-vit"), ("siglip", "siglip")])
@pytest.mark.parametrize("normalize", [True, False])
def test_both_graphs_of_a_dual_encoder(text: str, image: str, normalize: bool) -> None:
    model = dual.dual(text, image)
    model.normalize = normalize
    words = dual_graph._TextGraph(model).eval()
    pictures = ImageGraph(model, normalize).eval()
    ids, mask = padded(model.text.prepare(dual.CAPTIONS), model.text.encoder)
    with torch.no_grad():
        np.testing.assert_allclose(words(ids, mask).numpy(), model.encode(dual.CAPTIONS), atol=1e-4)
        pixels = model.pixels(model.prepare(dual.images(4)))
        np.testing.assert_allclose(pictures(pixels).numpy(), model.encode(dual.images(4)), atol=1e-5)


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [True, False])
def test_the_exporters_loggers_are_as_before(fails: bool) -> None:
    import logging
    import warnings

    names = ("torch.onnx", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with quiet_exporter():
                warnings.warn("noise")
                assert {logging.getLogger(name).level for name in names} == {logging.ERROR}
                if fails:
                    raise KeyboardInterrupt
            warnings.warn("heard")
    except KeyboardInterrupt:
        assert fails
    else:
        assert [str(one.message) for one in told] == ["heard"]
    assert {name: logging.getLogger(name).level for name in names} == before
