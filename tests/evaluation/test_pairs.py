"""Pair classification, bitext, reranking and clustering against scikit-learn and plain loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, v_measure_score

from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.tasks.pairs import best_thresholds
from tests.evaluation.toys import WORDS, BagOfWords, Fixed, sentences, write_tsv


def _pairs(count: int = 80) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(0)
    rows = []
    for text in sentences(count, 5):
        label = int(rng.integers(2))
        words = text.split()
        other = " ".join(rng.permutation(words)[:-1]) if label else " ".join(rng.choice(WORDS, len(words)))
        rows.append((text, other, label))
    return rows


def _distances(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "cosine": np.array([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]),
        "dot": np.array([x @ y for x, y in zip(a, b, strict=True)]),
        "euclidean": -np.sqrt(((a - b) ** 2).sum(1)),
        "manhattan": -np.abs(a - b).sum(1),
    }


def test_pair_classification_takes_the_best_similarity(tmp_path: Path) -> None:
    rows = _pairs()
    write_tsv(tmp_path / "mrpc.tsv", ("sentence1", "sentence2", "label"), rows)
    result = evaluate(BagOfWords(8), "pair-classification", tmp_path, resamples=50).tasks["mrpc"]
    model, gold = BagOfWords(8), np.array([row[2] for row in rows])
    a, b = (model.encode([row[i] for row in rows]).astype(np.float64) for i in (0, 1))
    for name, values in _distances(a, b).items():  # to six digits: what rounding alone tells apart is a tie
        rounded = np.round(values / np.abs(values).max(), 6)
        assert result.metrics[f"{name}_ap"] == pytest.approx(100 * average_precision_score(gold, rounded))
    assert result.score == max(result.metrics[f"{name}_ap"] for name in ("cosine", "dot", "euclidean", "manhattan"))
    assert len(result.worst) == 5 and {row["gold"] for row in result.worst} <= {"0", "1"}
    low, high = result.interval
    assert low < result.score < high


@pytest.mark.parametrize("seed", range(10))
def test_thresholds_never_cut_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, gold = np.round(rng.standard_normal(40), 1), rng.integers(0, 2, 40)
    cuts = [
        (low + high) / 2
        for low, high in zip(*(np.unique(prediction)[s] for s in (slice(-1), slice(1, None))), strict=True)
    ]
    found = best_thresholds(prediction, gold)
    assert found["accuracy"] == pytest.approx(max(accuracy_score(gold, prediction > cut) for cut in cuts))
    assert found["f1"] == pytest.approx(max(f1_score(gold, prediction > cut) for cut in cuts))


def test_one_row_of_lists_is_read_as_mteb_stores_it(tmp_path: Path) -> None:
    rows = _pairs(30)
    write_tsv(tmp_path / "flat" / "mrpc.tsv", ("sentence1", "sentence2", "label"), rows)
    folder = tmp_path / "hub" / "mteb" / "twitterurlcorpus-pairclassification"
    folder.mkdir(parents=True)
    record = {name: [row[i] for row in rows] for i, name in enumerate(("sent1", "sent2", "labels"))}
    (folder / "test.jsonl").write_text(json.dumps(record))
    one = evaluate(BagOfWords(), "pair-classification", tmp_path / "flat", resamples=0).main
    two = evaluate(BagOfWords(), "mteb-pairs", tmp_path / "hub", ["twitterurlcorpus"], resamples=0).main
    assert one == two


def test_bitext_f1_is_scikit_learns_weighted_one(tmp_path: Path) -> None:
    first = sentences(50, 1)
    second = [" ".join([*text.split()[1:], "winter"]) for text in first]
    folder = tmp_path / "bitext"
    folder.mkdir()
    (folder / "fra-eng.jsonl").write_text(
        "".join(json.dumps({"sentence1": a, "sentence2": b}) + "\n" for a, b in zip(first, second, strict=True))
    )
    result = evaluate(BagOfWords(6), "bitext", tmp_path, ["fra-eng"], resamples=0).tasks["fra-eng"]
    model = BagOfWords(6)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (model.encode(first), model.encode(second)))
    chosen = (a @ b.T).argmax(axis=1)
    assert result.score == pytest.approx(100 * f1_score(np.arange(50), chosen, average="weighted", zero_division=0))
    assert result.metrics["accuracy"] == pytest.approx(100 * (chosen == np.arange(50)).mean())
    assert 5 < result.metrics["accuracy"] < 95
    wrong = [row for row in range(50) if chosen[row] != row]
    assert [row["query"] for row in result.worst] == [first[row] for row in wrong[:5]]
    assert [row["found first"] for row in result.worst] == [second[chosen[row]] for row in wrong[:5]]


def _reranking(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "askubuntu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_reranking_is_mean_average_precision(tmp_path: Path) -> None:
    texts = sentences(90, 2)
    rows = [
        {"query": texts[i], "positive": texts[i + 1 : i + 3], "negative": texts[i + 3 : i + 9]} for i in range(0, 81, 9)
    ]
    rows.append({"query": "alone", "positive": [], "negative": ["a cat"]})
    report = evaluate(BagOfWords(), "reranking", _reranking(tmp_path, rows), resamples=0)
    model, values = BagOfWords(), []
    for row in rows[:-1]:
        query, *candidates = model.encode([row["query"], *row["positive"], *row["negative"]])
        scores = [query @ c / np.linalg.norm(query) / np.linalg.norm(c) for c in candidates]
        values.append(average_precision_score([1] * 2 + [0] * 6, scores))
    assert report.scores["askubuntu"] == pytest.approx(100 * np.mean(values), abs=1e-6)
    assert report.notes == ["askubuntu: 1 queries lack positives or negatives, left out"]


def test_reranking_ties_count_against_the_model(tmp_path: Path) -> None:
    rows = [{"query": "q", "positive": ["p"], "negative": ["n", "far"]}]
    table = {"q": [1.0, 0.0], "p": [1.0, 1.0], "n": [1.0, 1.0], "far": [0.0, 1.0]}
    report = evaluate(Fixed(table), "reranking", _reranking(tmp_path, rows), resamples=0)
    assert report.scores["askubuntu"] == 50.0
    assert report.tasks["askubuntu"].worst == [{"query": "q", "found first": "n", "wanted": "p", "value": "0.500"}]
    with pytest.raises(NonFiniteError, match="every candidate has the same score"):
        evaluate(Fixed(table | {"far": [2.0, 2.0]}), "reranking", tmp_path)


def test_clustering_is_v_measure_of_mini_batch_k_means(tmp_path: Path) -> None:
    texts = sentences(120, 4)
    rows = [(text, text.split()[0], "test") for text in texts]
    write_tsv(tmp_path / "banking77.tsv", ("text", "label", "split"), rows)
    result = evaluate(BagOfWords(), "clustering", tmp_path).tasks["banking77"]
    labels = [row[1] for row in rows]
    means = MiniBatchKMeans(len(set(labels)), batch_size=500, n_init="auto", random_state=42)
    assert result.score == pytest.approx(100 * v_measure_score(labels, means.fit_predict(BagOfWords().encode(texts))))
    assert result.interval is None


def test_clustering_of_several_sets_is_their_mean(tmp_path: Path) -> None:
    sets = []
    for seed in (1, 2):
        texts = sentences(40, seed)
        sets.append({"sentences": texts, "labels": [text.split()[0] for text in texts]})
    (tmp_path / "banking77.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sets))
    result = evaluate(BagOfWords(), "clustering", tmp_path).tasks["banking77"]
    assert len(result.details["sets"]) == 2
    assert result.score == pytest.approx(np.mean(result.details["sets"]))


@pytest.mark.parametrize(
    ("suite", "file", "text", "said"),
    [
        ("pair-classification", "mrpc.tsv", "sentence1\tsentence2\tlabel\na\tb\t2\n", "must hold 0 and 1"),
        ("pair-classification", "mrpc.tsv", "sentence1\tsentence2\tlabel\na\tb\t1\n", "must hold 0 and 1"),
        ("reranking", "askubuntu.jsonl", '{"query": "q", "positive": 5, "negative": []}', "a list of texts"),
        ("reranking", "askubuntu.jsonl", '{"query": "q", "positive": ["p"], "negative": []}', "no query has"),
        ("clustering", "banking77.tsv", "text\tlabel\na\tx\nb\tx\n", "fewer than two labels"),
        ("clustering", "banking77.jsonl", '{"sentences": ["a", "b"], "labels": [1]}', "2 sentences and 1 labels"),
    ],
)
def test_unusable_rows_are_refused(tmp_path: Path, suite: str, file: str, text: str, said: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=said):
        open_suite(suite, tmp_path)
