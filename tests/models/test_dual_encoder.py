"""A dual encoder is its two towers and projections: against numpy, for texts, images and lists of both."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import DataError, ModelError
from embedkit.models.encode.encoding import token_batches
from embedkit.models.modules.dual import DualEncoder, Projection
from tests.helpers import dual

TEXTS = ["a photo of a cat", "the dog", "", "two children in the park", "the dog"]


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return dual.dual("bert", "open_clip-vit")


# --- projections -----------------------------------------------------------------------------------------------------


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("bias", [True, False])
def test_projections_are_their_formulas(bias: bool) -> None:
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    for kind, sizes in (("linear", [(4, 6)]), ("mlp", [(5, 6), (4, 5)])):
        layer = Projection(kind, 6, 4, bias=bias)
        assert [tuple(part.weight.shape) for part in layer.layers] == sizes
        expected = x
        for place, part in enumerate(layer.layers):
            shift = part.bias.detach().numpy() if bias else 0.0
            expected = (gelu(expected) if place else expected) @ part.weight.detach().numpy().T + shift
        np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)
    same = torch.from_numpy(x)
    assert Projection("none", 6, 6)(same) is same


def test_a_projection_starts_at_the_scale_of_its_inputs() -> None:
    torch.manual_seed(0)
    layer = Projection("linear", 400, 300, bias=True)
    assert layer.layers[0].weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert layer.layers[0].bias.abs().sum() == 0
    assert Projection(**layer.spec()).spec() == layer.spec()


@pytest.mark.parametrize(
    ("settings", "message"),
    [(("linaer", 6, 4), "unknown projection 'linaer'; did you mean 'linear'"),
     (("none", 6, 4), "vectors of size 6 need a projection to 4")],
)  # fmt: skip
def test_projections_that_cannot_be(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Projection(*settings)


# --- vectors ---------------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_texts_go_through_the_text_tower_and_its_projection(model: DualEncoder) -> None:
    inner = model.text.encode(TEXTS, normalize=False)
    expected = inner @ model.projection("text").layers[0].weight.detach().numpy().T
    np.testing.assert_allclose(model.encode(TEXTS, normalize=False), expected, atol=1e-4)
    np.testing.assert_allclose(model.encode(TEXTS), unit(expected), atol=1e-5)


def test_images_are_normalised_by_channel_before_the_image_tower(model: DualEncoder) -> None:
    pictures = dual.images(3)
    known = model.preprocess
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (known.mean, known.std))
    pixels = np.stack([(known(picture) / np.float32(255) - mean) / std for picture in pictures])
    with torch.no_grad():
        expected = model.projection("image")(model.image(torch.from_numpy(pixels))).numpy()
    np.testing.assert_allclose(model.encode(pictures, normalize=False), expected, atol=1e-4)
    np.testing.assert_allclose(model.encode(pictures), unit(expected), atol=1e-5)


@pytest.mark.parametrize("order", ["tittii", "iiittt", "ti", "it"])
def test_a_mixed_list_is_each_at_its_place(model: DualEncoder, order: str) -> None:
    texts, pictures = iter(TEXTS), iter(dual.images(4))
    items = [next(texts) if kind == "t" else next(pictures) for kind in order]
    found = model.encode(items)
    for vector, item in zip(found, items, strict=True):
        np.testing.assert_allclose(vector, model.encode([item])[0], atol=1e-5)


def test_texts_and_images_are_not_prepared_together(model: DualEncoder) -> None:
    with pytest.raises(DataError, match="texts and images in one list; prepare them apart, or use encode"):
        model.prepare(["a cat", dual.images(1)[0]])


@pytest.mark.parametrize("dim", [1, 5, 16])
def test_cut_vectors_are_of_unit_length_again(model: DualEncoder, dim: int) -> None:
    items = [*TEXTS, *dual.images(2)]
    whole = model.encode(items, normalize=False)
    np.testing.assert_allclose(model.encode(items, truncate_dim=dim), unit(whole[:, :dim]), atol=1e-4)


def test_the_scale_is_no_part_of_the_vectors_but_of_the_hash(model: DualEncoder) -> None:
    other = dual.dual("bert", "open_clip-vit")
    assert other.hash() == model.hash()
    assert model.log_scale == pytest.approx(math.log(1 / 0.07))  # CLIP's start
    other.scale = 20.0
    assert other.log_scale == pytest.approx(math.log(20.0))
    np.testing.assert_array_equal(other.encode(TEXTS), model.encode(TEXTS))
    assert other.spec()["scale"] == 20.0


def test_similarities_of_texts_and_images(model: DualEncoder) -> None:
    pictures = dual.images(2)
    expected = model.encode(TEXTS) @ model.encode(pictures).T
    np.testing.assert_allclose(model.similarity(TEXTS, pictures), expected, atol=1e-5)


# --- parts that do not belong together -------------------------------------------------------------------------------


def test_sizes_of_towers_projections_and_images_must_agree(model: DualEncoder) -> None:
    text, image = model.text, model.image
    linear = Projection("linear", text.dim, 8)
    with pytest.raises(ModelError, match="the towers end in 8 and 16 coordinates"):
        DualEncoder(text, image, linear, Projection("none", 16, 16), model.preprocess)
    wrong = dataclasses.replace(model.preprocess, size=(48, 48))
    with pytest.raises(ModelError, match=r"images of \(48, 48\) for a tower of \(32, 32\)"):
        DualEncoder(text, image, model.projection("text"), model.projection("image"), wrong)


def test_dropout_of_both_towers_is_set() -> None:
    model = dual.dual("bert", "vit")
    model.set_dropout(0.3)
    rates = {name.split(".")[0]: part.p for name, part in model.named_modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {"text": 0.3, "image": 0.3}
    with pytest.raises(ModelError, match="the towers have no dropout"):
        dual.dual("static", "open_clip-resnet").set_dropout(0.3)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 7, 20, 1000])
@pytest.mark.parametrize("most", [None, 1, 3])
def test_batches_keep_to_both_limits_and_lose_nothing(budget: int, most: int | None) -> None:
    costs = np.random.default_rng(budget).integers(1, 12, 40)
    batches = list(token_batches(costs, budget, most))
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    for batch in batches:
        assert len(batch) == 1 or costs[batch].sum() <= budget  # a longer single one is a batch of its own
        assert most is None or len(batch) <= most
    flat = costs[np.concatenate(batches)]
    assert (np.diff(flat) <= 0).all()  # the longest first
    for batch, following in itertools.pairwise(batches):  # none is closed early
        assert len(batch) == most or costs[batch].sum() + costs[following[0]] > budget


def test_no_inputs_make_no_batches() -> None:
    assert list(token_batches(np.zeros(0, dtype=np.int64), 10)) == []
