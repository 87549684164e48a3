"""Vectors in fewer bits: against sentence-transformers where ranges are given, and never by the ranges of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.errors import DataError, NonFiniteError, UserError
from embedkit.models.encode.quantization import VectorRanges, dequantize, quantize
from tests.helpers import tiny

TEXTS = ["the dog runs", "a cat", "two red lamps", "where is it", "a huge house by the sea", "no", "yes it is", "eight"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.text_encoder().eval()


def test_codes_are_the_nearest_of_256_steps() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 6)).astype(np.float32)
    ranges = VectorRanges.learn([vectors[:20], vectors[20:]])
    codes = quantize(vectors, "uint8", ranges)
    for row in range(50):
        for place in range(6):
            low, high = float(vectors[:, place].min()), float(vectors[:, place].max())
            exact = (float(vectors[row, place]) - low) / (high - low) * 255
            assert abs(int(codes[row, place]) - exact) <= 0.5 + 1e-3
    assert np.array_equal(quantize(vectors, "int8", ranges).astype(int), codes.astype(int) - 128)
    assert np.abs(dequantize(codes, "uint8", ranges) - vectors).max() <= ranges.step.max() / 2 * 1.001
    beyond = quantize(vectors * 10, "uint8", ranges)
    assert beyond.min() == 0 and beyond.max() == 255


def test_codes_find_the_nearest_decoded_and_hubs_by_their_own_products() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((count, 64)).astype(np.float32) for count in (1000, 50)]
    vectors, queries = (block / np.linalg.norm(block, axis=1, keepdims=True) for block in rows)
    ranges = VectorRanges.learn([vectors])
    codes, own = quantize(vectors, "uint8", ranges), quantize(queries, "uint8", ranges)

    def best(first: np.ndarray, second: np.ndarray) -> list[list[int]]:
        return np.argsort(-(first.astype(np.float32) @ second.astype(np.float32).T), axis=1)[:, :10].tolist()

    def recall(found: list[list[int]]) -> float:
        pairs = zip(best(queries, vectors), found, strict=True)
        return float(np.mean([len(set(exact) & set(row)) / 10 for exact, row in pairs]))

    assert recall(best(queries, ranges.lowest + ranges.step * codes)) > 0.95
    assert recall(best(queries, ranges.lowest + ranges.step * ((codes ^ 128).view(np.int8).astype(int) + 128))) > 0.95
    hubs = best(own, codes)
    assert recall(hubs) < 0.2
    different = [len({document for row in found for document in row}) for found in (hubs, best(queries, vectors))]
    assert different[0] < 60 < 250 < different[1]


def test_signs_are_those_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers.util.quantization")
    vectors = np.random.default_rng(0).standard_normal((30, 24)).astype(np.float32)
    vectors[3] = 0
    for precision in ("binary", "ubinary"):
        theirs = library.quantize_embeddings(vectors, precision)
        ours = quantize(vectors, precision)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    ranges = VectorRanges.learn([vectors])
    theirs = library.quantize_embeddings(vectors, "uint8", ranges=np.stack([ranges.lowest, ranges.highest]))
    # theirs cut where ours round
    assert (np.abs(quantize(vectors, "uint8", ranges).astype(int) - theirs.astype(int)) <= 1).mean() > 0.95


def test_a_code_does_not_depend_on_the_other_texts_of_a_call(model: Any) -> None:
    ranges = VectorRanges.learn([model.encode(TEXTS)])
    together = model.encode(TEXTS, precision="int8", ranges=ranges)
    assert together.dtype == np.int8
    for row, text in enumerate(TEXTS):
        alone = model.encode(text, precision="int8", ranges=ranges)
        assert np.abs(alone.astype(int) - together[row].astype(int)).max() <= 1  # products differ in their last bits
    assert np.array_equal(model.encode(TEXTS, precision="ubinary"), np.packbits(model.encode(TEXTS) > 0, axis=1))


def test_ranges_are_saved_with_the_model(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8 vectors need the range of each coordinate"):
        model.encode(TEXTS, precision="int8")
    other = tiny.text_encoder().eval()
    other.vector_ranges = VectorRanges.learn([other.encode(TEXTS)])
    embedkit.save(other, tmp_path / "model")
    again = embedkit.load(tmp_path / "model", device="cpu")
    assert again.hash() == other.hash()
    assert again.vector_ranges.same(other.vector_ranges)
    assert again.encode(TEXTS, precision="int8").shape == (len(TEXTS), other.dim)
    with pytest.raises(UserError, match=f"ranges of {other.dim} coordinates, and vectors of 4"):
        again.encode(TEXTS, precision="int8", truncate_dim=4)


def test_truncation_comes_first(model: Any) -> None:
    short = model.encode(TEXTS, truncate_dim=4)
    ranges = VectorRanges.learn([short])
    codes = model.encode(TEXTS, truncate_dim=4, precision="uint8", ranges=[ranges.lowest, ranges.highest])
    assert np.array_equal(codes, quantize(short, "uint8", ranges))


def test_files(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    embedkit.save(model, "model")
    Path("t.txt").write_text("\n".join(TEXTS))
    Path("q.txt").write_text("\n".join(TEXTS[:2]))
    assert main(["encode", "model", "t.txt", "v.npy", "--precision", "int8", "--device", "cpu"]) == 0
    assert "ranges of the coordinates, learnt from these 8 rows, in" in capsys.readouterr().out
    ranges = VectorRanges.load("v.ranges.json")
    vectors = model.encode(TEXTS)
    assert np.array_equal(ranges.lowest, vectors.min(axis=0)) and ranges.rows == 8
    assert np.array_equal(np.load("v.npy"), quantize(vectors, "int8", ranges))
    words = [
        "encode",
        "model",
        "q.txt",
        "q.parquet",
        "--precision",
        "int8",
        "--ranges",
        "v.ranges.json",
        "--device",
        "cpu",
    ]
    assert main([*words, "--device", "cpu"]) == 0
    import pyarrow.parquet as pq

    column = np.array(pq.read_table("q.parquet")["embedding"].to_pylist())
    assert np.array_equal(column, np.load("v.npy")[:2])
    assert main(["encode", "model", "t.txt", "b.npy", "--precision", "binary", "--device", "cpu"]) == 0
    assert np.array_equal(np.load("b.npy"), quantize(vectors, "binary"))
    assert not Path("b.ranges.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int4"], "unknown precision 'int4'; did you mean 'int8'"),
        (["--ranges", "v.ranges.json"], "float32 vectors have no ranges"),
        (["--precision", "int8", "--ranges", "nothing.json"], "no such file of ranges"),
        (["--precision", "int8", "--ranges", "t.txt"], "t.txt: is no file of ranges"),
    ],
)
def test_bad_settings(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("a dog")
    assert main(["encode", "model", "t.txt", *words]) == 2
    assert message in capsys.readouterr().err


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(NonFiniteError):
        quantize(np.array([[np.nan]]), "ubinary")
    with pytest.raises(NonFiniteError):
        VectorRanges.learn([np.array([[np.inf]])])
    with pytest.raises(DataError, match="no vectors"):
        VectorRanges.learn([])
    with pytest.raises(DataError, match="lowest value is above"):
        VectorRanges(np.array([1.0]), np.array([0.0]))
    with pytest.raises(DataError, match="shape"):
        VectorRanges.of([[1.0, 2.0]])
    constant = VectorRanges.learn([np.array([[0.5, 1.0], [0.5, 2.0]])])
    assert quantize(np.array([[0.5, 2.0]]), "uint8", constant).tolist() == [[0, 255]]
