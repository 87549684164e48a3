"""encode: order, repeats, prompts, truncation, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from embedkit.errors import DataError, NonFiniteError, UserError
from embedkit.models import encode_file
from embedkit.models.encode.encoding import token_batches
from tests.helpers import tiny


def naive(model, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([model(model.prepare([text])) for text in texts]).numpy()


def test_order_and_repeats() -> None:
    model = tiny.text_encoder(normalize=False)
    texts = [*tiny.SENTENCES, *reversed(tiny.SENTENCES)]
    found = model.encode(texts, batch_tokens=12)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive(model, texts), atol=1e-5)
    assert np.array_equal(found[1], found[6])  # "the dog" twice


def test_empty_list() -> None:
    assert tiny.text_encoder().encode([]).shape == (0, 32)


def test_normalize_and_truncate() -> None:
    model = tiny.text_encoder(normalize=True)
    plain = model.encode(tiny.SENTENCES, normalize=False)
    unit = model.encode(tiny.SENTENCES)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
    cut = model.encode(tiny.SENTENCES, truncate_dim=7)
    expected = plain[:, :7] / np.linalg.norm(plain[:, :7], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    with pytest.raises(UserError, match="size 32"):
        model.encode(tiny.SENTENCES, truncate_dim=33)


def test_prompt_by_name_and_default() -> None:
    model = tiny.text_encoder(prompts={"q": "who ", "d": "the "}, default_prompt="d")
    by_hand = model.encode(["the " + text for text in tiny.SENTENCES], prompt="")
    np.testing.assert_allclose(model.encode(tiny.SENTENCES), by_hand, atol=1e-6)
    by_hand = model.encode(["who " + text for text in tiny.SENTENCES], prompt="")
    np.testing.assert_allclose(model.encode(tiny.SENTENCES, prompt="q"), by_hand, atol=1e-6)


def test_encode_is_without_dropout_and_keeps_the_mode() -> None:
    model = tiny.text_encoder(dropout=0.5).train()
    assert np.array_equal(model.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES))
    assert model.training


def test_wrong_item_and_bad_vector_are_named() -> None:
    model = tiny.text_encoder()
    with pytest.raises(DataError, match=r"inputs\[2\].*NoneType"):
        model.encode(["a", "b", None])  # type: ignore[list-item]
    row = model.prepare(["guitar"]).rows()[0][1]
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[row] = torch.nan
    with pytest.raises(NonFiniteError, match=r"inputs\[1\]"):
        model.encode(["the dog", "a guitar", "a man"])
    assert not model.training


def test_progress_counts_distinct_texts() -> None:
    seen: list[tuple[int, int]] = []
    tiny.text_encoder().encode(tiny.SENTENCES, batch_tokens=8, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


class Bar:
    """A bar of tqdm that is only written down."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, **settings: Any) -> None:
        self.settings, self.done, self.closed = settings, 0, False
        self.made.append(self)

    def update(self, count: int) -> None:
        self.done += count

    def close(self) -> None:
        self.closed = True


def test_a_bar_is_closed_at_the_end_and_on_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("embedkit.models.encode.encoding.tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [])
    model = tiny.text_encoder()
    model.encode(["a", "b", "a"], progress=True)
    model.encode([], progress=True)
    (tmp_path / "t.txt").write_text("a dog\na man\n")
    encode_file(model, tmp_path / "t.txt", tmp_path / "v.npy", progress=True)
    assert [(bar.settings["total"], bar.done, bar.closed) for bar in Bar.made] == [(2, 2, True), (None, 2, True)]
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        model.encode(["a"], progress=True)
    with pytest.raises(NonFiniteError):
        encode_file(model, tmp_path / "t.txt", tmp_path / "w.npy", progress=True)
    assert len(Bar.made) == 4 and all(bar.closed for bar in Bar.made)


def test_token_batches_cover_all_within_budget() -> None:
    costs = np.random.default_rng(0).integers(1, 40, size=200)
    batches = list(token_batches(costs, 64))
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert all(costs[batch].sum() <= 64 for batch in batches)
    assert [len(batch) for batch in token_batches(np.array([100, 3]), 10)] == [1, 1]


def test_similarity_by_hand() -> None:
    model = tiny.text_encoder()
    a, b = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[1.0, 0.0]])
    np.testing.assert_allclose(model.similarity(a, b), [[0.6], [0.0]], atol=1e-6)
    with pytest.raises(UserError, match="coordinates"):
        model.similarity(a, np.zeros((1, 3)))


def test_hash_follows_what_decides_the_vectors() -> None:
    model = tiny.text_encoder()
    before = model.hash()
    model.encode(["a dog"])
    assert model.hash() == before == tiny.text_encoder().hash()
    model.prompts["q"] = "who "
    assert model.hash() != before
    del model.prompts["q"]
    model.max_length = 9
    assert model.hash() != before
    assert tiny.text_encoder(pooling="cls").hash() != before
    assert tiny.text_encoder(seed=1).hash() != before


def test_texts_that_are_cut_are_reported_once_for_a_model_in_any_type(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.text_encoder()
    for dtype in (None, "fp64", "fp64"):
        model.encode(["dog " * 200], dtype=dtype)
    assert caplog.text.count("are cut there") == 1
