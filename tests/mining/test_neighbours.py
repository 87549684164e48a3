"""Positives, paraphrases and bitext against naive statements over the whole similarity matrix, and against peers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.errors import DataError, UserError
from embedkit.mining.neighbours.bitext import margin_scores

DIM = 16


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def vectors(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)))


def table(count: int, word: str = "text") -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def numbers(rows: list[dict[str, Any]], *names: str) -> list[tuple[int, ...]]:
    return [tuple(int(row[name].split()[1]) for name in names) for row in rows]


@pytest.mark.parametrize("settings", [
    {}, {"top_k": 3}, {"top_k": 2, "max_pairs": 17}, {"min_score": 0.2, "max_score": 0.5},
    {"top_k": 5, "block_size": 7},
], ids=str)  # fmt: skip
def test_paraphrases(settings: dict[str, Any]) -> None:
    array = vectors(60, 1)
    matrix = array.astype(float) @ array.astype(float).T
    top_k = settings.get("top_k", 59)
    near = {i: sorted((j for j in range(60) if j != i), key=lambda j: -matrix[i, j])[:top_k] for i in range(60)}
    pairs = {(min(i, j), max(i, j)) for i, several in near.items() for j in several}
    low, high = settings.get("min_score", -2), settings.get("max_score", 2)
    expected = sorted((p for p in pairs if low <= matrix[p] <= high), key=lambda p: -matrix[p])
    expected = expected[: settings.get("max_pairs", 10**6)]
    found = embedkit.mine_paraphrases(table(60), vectors=array, output_scores=True, **settings)
    assert numbers(found.rows, "anchor", "positive") == expected
    np.testing.assert_allclose([row["score"] for row in found.rows], [matrix[p] for p in expected], atol=2e-6)
    assert found.report.pairs == len(expected) and sum(found.report.histogram["pairs"]) == len(expected)


def test_paraphrases_are_those_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers.util")
    import torch

    array = vectors(300, 2)
    theirs = library.paraphrase_mining_embeddings(torch.from_numpy(array), top_k=4, max_pairs=250)
    ours = embedkit.mine_paraphrases(table(300), vectors=array, top_k=4, max_pairs=250)
    assert numbers(ours.rows, "anchor", "positive") == [(i, j) for _, i, j in theirs]


def test_equal_texts_are_one_or_pairs_by_setting() -> None:
    texts, array = ["a cat", "a  cat", "a dog", "a cat"], vectors(4, 3)
    array[1] = array[3] = array[0]
    dropped = embedkit.mine_paraphrases(texts, vectors=array).rows
    assert dropped == [{"anchor": "a cat", "positive": "a dog"}]
    rows = embedkit.mine_paraphrases(texts, vectors=array, equal_texts="keep", min_score=0.99).rows
    assert [(row["anchor"], row["positive"]) for row in rows] == [
        ("a cat", "a  cat"), ("a cat", "a cat"), ("a  cat", "a cat")]  # fmt: skip


def laser(x: np.ndarray, y: np.ndarray, k: int, margin: str, direction: str) -> list[tuple[int, int, float]]:
    """Margins by plain loops: the mean over k neighbours each way, the best candidate of each row."""
    matrix = x.astype(float) @ y.astype(float).T
    near = [sorted(range(len(y)), key=lambda j: -matrix[i, j])[:k] for i in range(len(x))]
    back = [sorted(range(len(x)), key=lambda i: -matrix[i, j])[:k] for j in range(len(y))]
    a = [np.mean([matrix[i, j] for j in near[i]]) for i in range(len(x))]
    b = [np.mean([matrix[i, j] for i in back[j]]) for j in range(len(y))]
    rule = {"ratio": lambda s, m: s / m, "distance": lambda s, m: s - m, "absolute": lambda s, m: s}[margin]

    def score(i: int, j: int) -> float:
        return float(rule(matrix[i, j], (a[i] + b[j]) / 2))

    forward = [(i, max(near[i], key=lambda j: score(i, j))) for i in range(len(x))]
    backward = [(max(back[j], key=lambda i: score(i, j)), j) for j in range(len(y))]
    pairs = {"forward": forward, "backward": backward, "intersection": [p for p in forward if p in backward],
             "max": [*forward, *backward]}[direction]  # fmt: skip
    ranked = sorted(((*p, score(*p)) for p in pairs), key=lambda one: (-one[2], one[0], one[1]))
    if direction != "max":
        return ranked
    result: list[tuple[int, int, float]] = []
    for one in ranked:
        if all(one[0] != other[0] and one[1] != other[1] for other in result):
            result.append(one)
    return result


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
@pytest.mark.parametrize("direction", ["max", "intersection", "forward", "backward"])
@pytest.mark.parametrize("top_k", [1, 4])
def test_bitext(margin: str, direction: str, top_k: int) -> None:
    draw = np.random.default_rng(4)
    base = np.abs(draw.standard_normal((40, DIM)))  # all means above 0
    x, y = unit(base), unit(base[draw.permutation(40)[:33]] + 0.3 * np.abs(draw.standard_normal((33, DIM))))
    expected = laser(x, y, top_k, margin, direction)
    found = embedkit.mine_bitext(
        table(40), table(33, "satz"), source_vectors=x, target_vectors=y, margin=margin, direction=direction,
        top_k=top_k, output_scores=True, block_size=9,
    )  # fmt: skip
    assert numbers(found.rows, "anchor", "positive") == [(i, j) for i, j, _ in expected]
    np.testing.assert_allclose([row["score"] for row in found.rows], [s for *_, s in expected], atol=2e-6)
    half = sorted(s for *_, s in expected)[len(expected) // 2]
    some = embedkit.mine_bitext(table(40), table(33, "satz"), source_vectors=x, target_vectors=y, margin=margin,
                                direction=direction, top_k=top_k, min_score=half)  # fmt: skip
    assert len(some.rows) == sum(s >= half for *_, s in expected)


def test_a_ratio_to_a_mean_below_zero_counts_for_nothing() -> None:
    assert margin_scores(np.array([0.5, 0.5, -0.5]), np.array([0.25, -0.1, -0.1]), "ratio").tolist() == [
        2.0, -np.inf, -np.inf]  # fmt: skip


@pytest.mark.parametrize("with_corpus", [False, True])
def test_bands_as_scincl_has_them(with_corpus: bool) -> None:
    """Positives of the ranks 2 to 4, hard negatives of 10 and 11, easy ones from behind these; zipped to triplets."""
    texts, array = table(50), vectors(50, 5)
    corpus = [*texts[::-1], "text 50 ", "other 51"] if with_corpus else texts
    candidates = np.concatenate([array[::-1], vectors(2, 6)]) if with_corpus else array
    extra = {"corpus": corpus, "corpus_vectors": candidates} if with_corpus else {}
    settings: dict[str, Any] = {"positive_ranks": "2:5", "negative_ranks": "10:12", "easy_negatives": 3}
    found = embedkit.mine_positives(texts, vectors=array, **extra, **settings)
    matrix = array.astype(float) @ candidates.astype(float).T
    easy = {}
    for row in found.rows:
        i = texts.index(row["anchor"])
        near = sorted((j for j in range(len(corpus)) if corpus[j] != texts[i]), key=lambda j, i=i: -matrix[i, j])
        near_texts = [corpus[j] for j in near]
        assert row["positive"] in near_texts[2:5]
        assert [row["negative_1"], row["negative_2"]] == near_texts[10:12]
        drawn = [row[f"negative_{n}"] for n in (3, 4, 5)]
        assert len(set(drawn)) == 3 and set(drawn) <= set(near_texts[12:])
        easy[row["anchor"]] = drawn
    assert len(found.rows) == 150 and len({tuple(one) for one in easy.values()}) > 40
    triplets = embedkit.mine_positives(texts, vectors=array, **extra, **settings, one_per_row=True).rows
    assert len(triplets) == 250
    wide = {(row["anchor"], row["positive"]): row for row in found.rows}
    for number, row in enumerate(triplets):
        place = number % 5
        positives = [p for a, p in wide if a == row["anchor"]]
        one = wide[row["anchor"], row["positive"]]
        assert row["positive"] == positives[place % 3] and row["negative"] == one[f"negative_{place + 1}"]
    other = embedkit.mine_positives(texts, vectors=array, **extra, **settings, seed=1).rows
    assert [r["negative_1"] for r in other] == [r["negative_1"] for r in found.rows]
    assert [r["negative_3"] for r in other] != [r["negative_3"] for r in found.rows]


def test_easy_negatives_are_drawn_with_equal_chances_until_none_is_left() -> None:
    texts, array = table(12), vectors(12, 7)
    counts = np.zeros(12)
    for seed in range(300):
        for row in embedkit.mine_positives(texts, vectors=array, easy_negatives=2, seed=seed).rows[:1]:
            counts[[int(row[f"negative_{n}"].split()[1]) for n in (1, 2)]] += 1
    rest = counts[counts > 0]
    assert len(rest) == 10 and np.abs(rest - 60).max() < 5 * np.sqrt(60)
    all_rows = embedkit.mine_positives(texts, vectors=array, easy_negatives=20).rows
    assert all(row["negative_10"] is not None and row["negative_11"] is None for row in all_rows)


def test_the_lowest_score_of_positives_and_ids() -> None:
    texts = [{"id": f"d{i}", "text": f"text {i}"} for i in range(20)]
    corpus = [{"id": f"d{i}", "text": f"other {i}"} for i in range(20)]
    array = vectors(20, 8)
    matrix = array @ array.T
    np.fill_diagonal(matrix, -2)  # the text with the same id is the text itself
    low = float(np.median(matrix.max(axis=1))) + 1e-4
    found = embedkit.mine_positives(texts, corpus=corpus, vectors=array, corpus_vectors=array, min_score=low)
    expected = [(i, int(matrix[i].argmax())) for i in range(20) if matrix[i].max() >= low]
    assert numbers(found.rows, "anchor", "positive") == expected
    assert found.report.counts["texts without a positive"] == 20 - len(expected) > 0


def test_a_model_gives_what_its_vectors_give() -> None:
    class Model:
        prompts: dict[str, str] = {"query": "q: ", "document": "d: "}

        def encode(self, texts: list[str], prompt: str = "") -> np.ndarray:
            return np.array([[len(prompt + text), text.count("a"), text.count("o") + 1.0] for text in texts])

    texts = ["a cat", "an owl", "a good dog", "banana", "rain on a roof"]
    array = Model().encode(texts)
    assert embedkit.mine_paraphrases(texts, Model()).rows == embedkit.mine_paraphrases(texts, vectors=array).rows
    asked = Model().encode(texts, "q: ")
    found = embedkit.mine_positives(texts, Model(), corpus=texts[::-1])
    assert found.rows == embedkit.mine_positives(
        texts, vectors=asked, corpus=texts[::-1], corpus_vectors=Model().encode(texts[::-1], "d: ")
    ).rows  # fmt: skip


def test_mistakes_are_one_line() -> None:
    texts, array = table(5), vectors(5, 9)
    both = {"source_vectors": array, "target_vectors": array}
    for call, expected in (
        (lambda: embedkit.mine_paraphrases(texts, vectors=array, top_k=5), "top_k is 5, and there are 4 texts"),
        (lambda: embedkit.mine_paraphrases(texts, vectors=array, min_score=1.5), "no pair is left (min_score=1.5)"),
        (lambda: embedkit.mine_paraphrases(texts, vectors=array, min_score=0.5, max_score=0.1), "min_score is above"),
        (lambda: embedkit.mine_paraphrases(texts), "vectors: neither a model nor all vectors are given"),
        (lambda: embedkit.mine_paraphrases(texts, object(), vectors=array), "all vectors are given, so that"),
        (lambda: embedkit.mine_paraphrases(texts, vectors=array[:3]), "3 vectors for 5 rows of the corpus"),
        (lambda: embedkit.mine_paraphrases(["a"], vectors=array[:1]), "there is one text"),
        (lambda: embedkit.mine_paraphrases(texts, vectors=array, topk=3), "did you mean 'top_k'"),
        (lambda: embedkit.mine_paraphrases(texts, vectors=array, prompt="q"), "a prompt is for a model"),
        (lambda: embedkit.mine_bitext(texts, texts, **both, top_k=6), "top_k is 6, and there are 5 texts"),
        (lambda: embedkit.mine_bitext(texts, texts, **both, margin="cosine"), "'cosine' is no choice"),
        (lambda: embedkit.mine_bitext(texts, texts, source_vectors=array, target_vectors=array[:, :3]),
         "3 numbers a vector, and 16"),
        (lambda: embedkit.mine_positives(texts, vectors=array, positive_ranks="3"), "'3' is no range of ranks"),
        (lambda: embedkit.mine_positives(texts, vectors=array, positive_ranks="3:5"), "is 3:5, and a text"),
        (lambda: embedkit.mine_positives(texts, vectors=array, negative_ranks="0:3"), "begin at 1"),
        (lambda: embedkit.mine_positives(texts, vectors=array, seed=3), "nothing is drawn"),
        (lambda: embedkit.mine_positives(texts, vectors=array, one_per_row=True), "there are no negatives"),
        (lambda: embedkit.mine_positives(texts, vectors=array, corpus_column="x"), "there is no corpus"),
    ):  # fmt: skip
        with pytest.raises((UserError, DataError)) as caught:
            call()  # type: ignore[no-untyped-call]
        assert expected in str(caught.value), str(caught.value)


def test_ties_come_in_the_order_of_the_texts() -> None:
    array = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    rows = embedkit.mine_paraphrases(table(4), vectors=array).rows
    assert numbers(rows, "anchor", "positive") == [*itertools.combinations(range(3), 2), (0, 3), (1, 3), (2, 3)]
