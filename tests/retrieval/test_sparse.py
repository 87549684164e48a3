"""Sparse indexes: what they find, against all products in float64; sparse files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import load_npz

import embedkit
from embedkit.cli.app import main
from embedkit.errors import UserError
from embedkit.models.heads.sparse_code import SparseCode
from embedkit.retrieval import sparse as module
from embedkit.retrieval.index import Index
from tests.helpers import tiny

TEXTS = [f"{a} {b} {c}" for a in ("a", "the", "two") for b in ("red", "small", "huge") for c in ("dog", "lamp", "sea")]


@pytest.fixture(scope="module")
def model() -> Any:
    encoder = tiny.text_encoder().eval()
    torch.manual_seed(0)
    encoder.dense.append(SparseCode(encoder.hidden_size, 4 * encoder.hidden_size, k=5).eval())
    return encoder


@pytest.mark.parametrize("block", [4, 65_536])
def test_the_nearest_rows_are_those_of_float64_and_of_equal_ones_the_first(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_ROWS", block)
    rows = [*TEXTS, *TEXTS]  # each twice
    index = embedkit.build_index(rows, tmp_path / "ix", model, sparse=True)
    documents = model.encode(rows, normalize=True).astype(float)
    assert index.vectors.shape == documents.shape and index.settings.codes == []
    assert np.array_equal(index.vectors[3:6], documents[3:6].astype(np.float32))
    assert np.array_equal(index.vectors[7], documents[7].astype(np.float32))
    queries = ["a red dog", "the sea"]
    for query in queries:
        hits = index.search(query, k=5)
        vector = index.encode([query])[0].astype(float)
        scores = [sum(a * b for a, b in zip(vector, row, strict=True)) for row in documents]
        order = sorted(range(len(rows)), key=lambda n: (-round(scores[n], 12), n))[:5]
        assert [hit.place for hit in hits] == order
        assert [hit.score for hit in hits] == pytest.approx([scores[n] for n in order], rel=1e-12)
    again = Index(tmp_path / "ix", model=model)
    again.check()
    assert again.search("a red dog", k=1)[0].text == "a red dog"
    assert not (tmp_path / "ix" / "vectors.npy").exists()


def test_a_sparse_index_has_the_bytes_of_its_numbers_and_no_codes(model: Any, tmp_path: Path) -> None:
    index = embedkit.build_index(TEXTS, tmp_path / "ix", model, sparse=True)
    assert len(np.load(tmp_path / "ix" / module.NAMES[0])) <= 5 * len(TEXTS)
    with pytest.raises(UserError, match="a sparse index has no int8 search"):
        index.search("a dog", method="int8")
    with pytest.raises(UserError, match="a sparse index has no codes"):
        embedkit.build_index(TEXTS, tmp_path / "other", model, sparse=True, codes=["uint8"])


def test_the_commands_write_and_search_sparse_vectors(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save("codes")
    Path("texts.txt").write_text("\n".join(TEXTS))
    assert main(["encode", "codes", "texts.txt", "--sparse"]) == 0
    assert np.array_equal(load_npz("texts.npz").toarray(), model.encode(TEXTS))
    assert main(["encode", "codes", "texts.txt", "texts.npy", "--sparse"]) == 2
    assert main(["encode", "codes", "texts.txt", "other.npz", "--precision", "int8"]) == 2
    assert not Path("other.npz").exists()
    assert main(["index", "texts.txt", "ix", "--model", "codes", "--sparse"]) == 0
    assert main(["search", "ix", "the huge lamp", "-k", "1"]) == 0
    out = capsys.readouterr().out
    assert "numbers in ix, sparse; search it" in out and "the huge lamp" in out.splitlines()[-1]


def test_encode_gives_a_sparse_tensor_as_sentence_transformers_names_it(model: Any) -> None:
    codes = model.encode(TEXTS[:3], convert_to_sparse_tensor=True)
    assert codes.is_sparse and torch.equal(codes.to_dense(), torch.from_numpy(model.encode(TEXTS[:3])))
    assert model.encode(TEXTS[0], convert_to_sparse_tensor=True).shape == (model.dim,)
