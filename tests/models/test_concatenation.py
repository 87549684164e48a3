"""Several encoders as one: vectors side by side, in every way that a model is used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import embedkit
from embedkit.config.recipe import ModelConfig
from embedkit.data.builtin import tokenizer
from embedkit.errors import ModelError, UserError
from embedkit.factory import build
from embedkit.models import StaticEncoder
from embedkit.models.base import Model
from embedkit.models.encode.file_encoding import encode_file
from tests.helpers import dual, tiny

TEXTS = ["a dog runs", "two cats", "the sea", "a dog runs"]


def members() -> list[Model]:
    first = tiny.text_encoder("bert").eval()
    first.prompts = {"query": "two "}
    return [first, StaticEncoder(tokenizer(), dim=6).eval()]


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def naive(models: list[Model], weights: list[float], texts: list[str], scaled: bool) -> np.ndarray:
    """The statement in float64: a row of numbers for each text."""
    rows = []
    for text in texts:
        parts = [np.float64(model.encode([text], normalize=False)[0]) for model in models]
        parts = [part / np.sqrt((part**2).sum()) for part in parts] if scaled else parts
        rows.append(np.concatenate([w * part for w, part in zip(weights, parts, strict=True)]))
    return np.stack(rows)


@pytest.mark.parametrize("scaled", [True, False])
def test_vectors_are_those_of_the_members_side_by_side(scaled: bool) -> None:
    models, weights = members(), [1.0, 0.3]
    both = embedkit.fuse(models, weights=weights, unit=scaled, device="cpu")
    expected = naive(models, weights, TEXTS, scaled)
    assert both.dim == expected.shape[1]
    np.testing.assert_allclose(both.encode(TEXTS, normalize=False), expected, atol=1e-6)
    np.testing.assert_allclose(both.encode(TEXTS), unit(expected), atol=1e-6)
    np.testing.assert_allclose(both.encode(TEXTS, truncate_dim=5), unit(expected[:, :5]), atol=1e-6)
    np.testing.assert_array_equal(both.encode(TEXTS[0]), both.encode(TEXTS)[0])


def test_the_cosine_is_the_mean_of_cosines_by_squared_weights() -> None:
    models, weights = members(), np.array([1.0, 0.3])
    both = embedkit.fuse(models, weights=list(weights), device="cpu")
    cosines = [model.similarity(TEXTS, TEXTS) for model in models]
    expected = np.average(cosines, axis=0, weights=weights**2)
    np.testing.assert_allclose(both.similarity(TEXTS, TEXTS), expected, atol=1e-6)


def test_each_member_uses_its_own_prompts() -> None:
    models = members()
    both = embedkit.fuse(models, device="cpu")
    expected = np.hstack([models[0].encode(TEXTS, prompt="query"), models[1].encode(TEXTS)])
    np.testing.assert_allclose(both.encode_query(TEXTS, normalize=False), expected, atol=1e-6)
    with pytest.raises(UserError, match="unknown prompt 'passage'; did you mean|unknown prompt 'passage'; known"):
        both.encode(TEXTS, prompt="passage")


def test_a_saved_one_is_read_back_as_it_was(tmp_path: Path) -> None:
    both = embedkit.fuse(members(), weights=[2.0, 1.0], normalize=False, device="cpu")
    nested = embedkit.fuse([both, StaticEncoder(tokenizer(), dim=3)], device="cpu")
    for name, model in (("both", both), ("nested", nested)):
        again = embedkit.load(model.save(tmp_path / name), device="cpu")
        assert again.hash() == model.hash()
        np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    encode_file(both, _lines(tmp_path), tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), both.encode(TEXTS))
    other = embedkit.fuse(members(), weights=[1.0, 1.0], normalize=False, device="cpu")
    assert other.hash() != both.hash()


def _lines(folder: Path) -> Path:
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return folder / "texts.txt"


def test_dual_encoders_put_images_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    models = [dual.dual("static", "timm-convnext").eval(), dual.dual("bert", "open_clip-vit").eval()]
    both = embedkit.load(embedkit.fuse(models, device="cpu").save(tmp_path / "both"), device="cpu")
    items = [np.full((40, 60, 3), 90, dtype=np.uint8), "a dog runs"]
    expected = np.hstack([unit(model.encode(items, normalize=False)) for model in models])
    np.testing.assert_allclose(both.encode(items, normalize=False), expected, atol=1e-6)
    with pytest.raises(ModelError, match="some of the models take images and some do not; put text encoders together"):
        embedkit.fuse([models[0], *members()], device="cpu")


def test_static_encoders_leave_for_sentence_transformers_as_one_table(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    models: list[Model] = [StaticEncoder(tokenizer(), dim=dim).eval() for dim in (6, 4)]
    both = embedkit.fuse(models, weights=[1.0, 0.5], unit=False, device="cpu")
    theirs = library.SentenceTransformer(str(embedkit.export(both, tmp_path / "st")), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), both.encode(TEXTS), atol=1e-6)
    with pytest.raises(ModelError, match="no module for the vectors of several encoders side by side"):
        embedkit.export(embedkit.fuse(models, device="cpu"), tmp_path / "scaled")
    with pytest.raises(ModelError, match="no module for the vectors of several encoders side by side"):
        embedkit.export(embedkit.fuse(members(), unit=False, device="cpu"), tmp_path / "mixed")


def test_what_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="1 model, and there is nothing to put beside it; name two or more"):
        embedkit.fuse(members()[:1], device="cpu")
    with pytest.raises(ModelError, match="weights: 1 weights for 2 models; give one for each model"):
        embedkit.fuse(members(), weights=[1.0], device="cpu")
    with pytest.raises(ModelError, match=r"weights: weights are \[1.0, 0.0\]; give positive numbers"):
        embedkit.fuse(members(), weights=[1.0, 0.0], device="cpu")
    both = embedkit.fuse(members(), device="cpu")
    with pytest.raises(ModelError, match="has no tokens of its own"):
        both.prepare(TEXTS)
    with pytest.raises(ModelError, match="train one of its models, then fuse again"):
        both(TEXTS)
    folder = both.save(tmp_path / "both")
    with pytest.raises(ModelError, match="is a concatenation model; name one of the 2 that it is made of"):
        build(ModelConfig(name=str(folder)))
    with pytest.raises(ModelError, match="belong to one member; leave them out"):
        embedkit.load(folder, pooling="cls")
    shutil.rmtree(folder / "member-2")
    with pytest.raises(ModelError, match=r"member-2/embedkit.json: file is missing; the model folder is incomplete"):
        embedkit.load(folder)
