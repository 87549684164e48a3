"""Sequences and vectors in evaluation: classes, neighbours, odd rows, clusters, and the steps that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from embedkit.data.builtin import sentences as builtin
from embedkit.errors import DataError
from embedkit.evaluation import evaluate
from embedkit.evaluation.core.inputs import EncodedVector, item_key
from embedkit.models import FeatureEncoder, SequenceEncoder

ROWS = list(builtin.rows("series-train"))[:240]


class Spectra:
    """Each series by the strengths of its waves: what a good encoder would find."""

    def encode(self, series: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.abs(np.fft.rfft(x - x.mean(axis=0), 64, axis=0)).reshape(-1) for x in series])


class Last:
    """Each series by its last step."""

    def encode(self, series: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.concatenate([x[-1], x[-2]]) for x in series]).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    series = [np.array(row["anchor"], np.float32) for row in ROWS]
    split = np.where(np.arange(240) < 160, "train", "test")
    np.savez(
        tmp_path / "series.npz", x=np.concatenate(series), x_offsets=np.cumsum([0, *map(len, series)]),
        label=np.array([row["label"] for row in ROWS]), split=split,
    )  # fmt: skip
    return tmp_path / "series.npz"


COLUMNS = {"columns": {"x": "text", "label": "label"}}


def test_classes_neighbours_and_odd_rows_of_series(file: Path) -> None:
    report = evaluate(Spectra(), "own-classification", file, settings={**COLUMNS, "neighbours": 5}, resamples=0)
    task = report.tasks["series"]
    assert task.score > 85 and task.metrics["knn_accuracy"] > 85
    plain = evaluate(SequenceEncoder(2, dim=8, hidden=8), "own-classification", file, settings=COLUMNS, resamples=0)
    assert 0 <= plain.main <= 100
    odd = evaluate(Spectra(), "own-anomaly", file, settings={**COLUMNS, "normal": "0"}, resamples=0)
    assert odd.main > 85
    space = evaluate(Spectra(), "own-space", file, settings=COLUMNS, resamples=0).tasks["series"]
    assert space.metrics["between_share"] > 0.3


def test_retrieval_of_vectors_by_vectors_and_of_sequences(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((30, 6)).astype(np.float32)
    queries = documents + 1.5 * rng.standard_normal((30, 6)).astype(np.float32)
    documents[7], queries[9] = documents[3], queries[8]  # one document of two queries, one query with two answers
    np.savez(tmp_path / "v.npz", query=queries, document=documents)
    report = evaluate(FeatureEncoder(6), data=tmp_path / "v.npz", resamples=0)
    task, different = report.tasks["v"], [row for row in range(30) if row != 9]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries[different], np.delete(documents, 7, 0))]
    cosines = unit[0] @ unit[1].T
    place = {row: row - (row > 7) for row in range(30) if row != 7} | {7: 3}
    gains = []
    for n, row in enumerate(different):
        right = {place[row]} | ({place[9]} if row == 8 else set())
        ranked = [document in right for document in np.argsort(-cosines[n])[:10]]
        discounts = 1 / np.log2(np.arange(2, 12))
        gains.append(np.dot(ranked, discounts) / discounts[: len(right)].sum())
    assert report.suite == "own-retrieval" and task.score == pytest.approx(100 * np.mean(gains), abs=1e-9)
    assert 20 < task.score < 90 and task.worst[0]["query"].startswith(str(tmp_path / "v.npz:"))
    np.savez(tmp_path / "same.npz", anchor=queries, positive=documents)  # the hash is that of the rows, not of the file
    again = evaluate(FeatureEncoder(6), data=tmp_path / "same.npz", resamples=0)
    hashes = [one.settings["data"][name]["sha256"] for one, name in ((report, "v"), (again, "same"))]
    assert hashes[0] == hashes[1]
    rows = [{"query": x[:2].reshape(2, 1).tolist(), "positive": x[:2].reshape(2, 1).tolist()} for x in queries[:5]]
    model = SequenceEncoder(1, dim=4, hidden=4)
    assert evaluate(model, "own-retrieval", rows, resamples=0).main == 100


def test_columns_of_vectors_where_texts_are_read_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", query=np.eye(3), positive=np.eye(3), negatives=np.ones((3, 1, 3)), score=np.ones(3))
    with pytest.raises(DataError, match="negatives of vectors are not read; leave the column out"):
        evaluate(FeatureEncoder(3), "own-retrieval", tmp_path / "v.npz", resamples=0)
    settings = {"columns": {"query": "sentence1", "positive": "sentence2", "score": "score"}}
    with pytest.raises(DataError, match="is ndarray, not text; name a column of texts"):
        evaluate(FeatureEncoder(3), "own-sts", tmp_path / "v.npz", settings=settings, resamples=0)


def test_vectors_go_the_same_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    x = rng.standard_normal((60, 5)) + 6 * np.eye(5)[label]
    np.savez(tmp_path / "v.npz", x=x, label=label)
    model = FeatureEncoder(5)
    for suite, settings in (("own-classification", {}), ("own-anomaly", {"normal": "0"})):
        report = evaluate(model, suite, tmp_path / "v.npz", settings={**COLUMNS, **settings}, resamples=0)
        assert report.main > 95, suite


def test_the_steps_that_follow_are_told_by_ridge_regression(file: Path) -> None:
    task = evaluate(Last(), "own-forecast", file, settings={"columns": {"x": "text"}, "horizon": 2}, resamples=50)
    result = task.tasks["series"]
    series = [np.array(row["anchor"], np.float32) for row in ROWS]
    x = Last().encode([one[:-2] for one in series]).astype(np.float64)
    y = np.stack([one[-2:].reshape(-1) for one in series]).astype(np.float64)
    centre, spread = x[:160].mean(axis=0), x[:160].std(axis=0)
    ridge = Ridge(alpha=result.details["strength"]).fit((x[:160] - centre) / spread, y[:160])
    error = ((ridge.predict((x[160:] - centre) / spread) - y[160:]) ** 2).mean()
    total = ((y[160:] - y[160:].mean(axis=0)) ** 2).mean()
    assert result.score == pytest.approx(100 * (1 - error / total), abs=1e-6)
    assert result.metrics["mse"] == pytest.approx(error, abs=1e-8)
    last = np.stack([np.tile(one[-3], 2) for one in series[160:]])
    assert result.metrics["mse_last"] == pytest.approx(((last - y[160:]) ** 2).mean(), rel=1e-6)
    assert result.metrics["mse"] < result.metrics["mse_last"] and result.samples is not None


def test_what_is_no_sequence_or_too_short_is_told_with_its_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", x=np.eye(5))
    with pytest.raises(DataError, match=r"v\.npz:1: a forecast reads sequences of vectors"):
        evaluate(Last(), "own-forecast", tmp_path / "v.npz", settings={"columns": {"x": "text"}})
    np.savez(tmp_path / "s.npz", x=np.ones((14, 2)), x_offsets=np.array([0, 4, 8, 11, 14]))
    with pytest.raises(DataError, match=r"s\.npz:[34]: the sequence has 3 steps; give more than horizon 3"):
        evaluate(Last(), "own-forecast", tmp_path / "s.npz", settings={"columns": {"x": "text"}, "horizon": 3})


def test_a_vector_and_a_sequence_of_the_same_numbers_are_two_inputs() -> None:
    numbers = np.arange(4, dtype=np.float32).tobytes()
    assert item_key(EncodedVector(numbers)) != item_key(EncodedVector(numbers, width=2))
