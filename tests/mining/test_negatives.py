"""The negatives are those of a naive statement over the whole similarity matrix, for every combination of settings."""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.errors import DataError
from embedkit.retrieval import nearest
from embedkit.retrieval.nearest import nearest_candidates
from embedkit.retrieval.vectors import Vectors

DIM = 24


def tables(seed: int, whole: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Pairs and a corpus with repeated texts, ids, groups and several positives, and vectors of pairs and corpus.

    With `whole` the vectors hold eighths of small whole numbers, so that many scores are equal, exactly.
    """
    draw = np.random.default_rng(seed)
    corpus = [{"id": f"d{i}", "text": f"text {i % 50}" + " " * (i % 3), "group": f"g{i % 17}"} for i in range(60)]
    pairs = []
    for number in range(45):
        anchor = int(draw.integers(30))
        target = int(draw.integers(60))
        pairs.append({
            "anchor": f"anchor {anchor}" if anchor else "text 7", "positive": corpus[target]["text"].strip(),
            "positive_id": corpus[int(draw.integers(60))]["id"] if number % 4 == 0 else corpus[target]["id"],
            "group": f"g{draw.integers(40)}",
        })  # fmt: skip

    def vectors(count: int) -> np.ndarray:
        if whole:
            return draw.integers(-3, 4, (count, DIM)).astype(np.float32) / 8
        return draw.standard_normal((count, DIM)).astype(np.float32)

    return pairs, corpus, vectors(len(pairs)), vectors(len(corpus))


def clean(text: str) -> str:
    return " ".join(text.split())


def exact_scores(queries: np.ndarray, documents: np.ndarray, cosine: bool) -> np.ndarray:
    """All similarities (Q, C), each a sum without any rounding but the last, so that equal vectors score alike."""
    if cosine:
        queries, documents = (
            (array.astype(float) / np.linalg.norm(array.astype(float), axis=1, keepdims=True)).astype(np.float32)
            for array in (queries, documents)
        )
    rows, columns = queries.astype(float).tolist(), documents.astype(float).tolist()
    return np.array([[math.fsum(map(operator.mul, q, d)) for d in columns] for q in rows])


def oracle(
    pairs: list[dict[str, Any]], corpus: list[dict[str, Any]], matrix: np.ndarray, settings: dict[str, Any]
) -> dict[str, list[str]]:
    """Anchor -> its eligible texts in order, by the whole similarity matrix (pairs, corpus)."""
    firsts = [i for i, row in enumerate(corpus) if clean(row["text"]) not in {clean(r["text"]) for r in corpus[:i]}]
    by_text = {clean(corpus[i]["text"]): i for i in firsts}
    result = {}
    for anchor in dict.fromkeys(row["anchor"] for row in pairs):
        own = [i for i, row in enumerate(pairs) if row["anchor"] == anchor]
        scores = matrix[own[0]]
        never = {clean(anchor)} | {clean(pairs[i]["positive"]) for i in own}
        ids, groups = {pairs[i]["positive_id"] for i in own}, {pairs[i]["group"] for i in own}
        never |= {clean(row["text"]) for row in corpus if row["id"] in ids or row["group"] in groups}
        positive = min(scores[by_text[clean(pairs[i]["positive"])]] for i in own)
        rest = sorted((i for i in firsts if clean(corpus[i]["text"]) not in never), key=lambda i: (-scores[i], i))
        low = settings.get("range_min", 0)
        high = settings.get("range_max") or low + 100
        fits = []
        for i in rest[low:high]:
            score = scores[i]
            if settings.get("absolute_margin") is not None and score + settings["absolute_margin"] > positive:
                continue
            relative = settings.get("relative_margin")
            if relative is not None and score > positive - abs(positive) * relative:
                continue
            if settings.get("max_score") is not None and score > settings["max_score"]:
                continue
            if settings.get("min_score") is not None and score < settings["min_score"]:
                continue
            fits.append(corpus[i]["text"])
        result[anchor] = fits
    return result


def per_anchor(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {row["anchor"]: row["negatives"] for row in rows}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("whole", [True, False], ids=["ties", "real"])
def test_every_combination_of_settings(similarity: str, whole: bool) -> None:
    pairs, corpus, queries, documents = tables(3, whole)
    if similarity == "cosine" and whole:
        documents[:20] = documents[20:40]  # equal vectors, so that cosines are equal to the last bit
    bounds = (0.12, -0.1) if similarity == "cosine" else ((0.3, -0.2) if whole else (2.0, -1.5))
    choices = {
        "range_min": (0, 2), "range_max": (None, 9), "absolute_margin": (None, 0.05), "relative_margin": (None, 0.1),
        "max_score": (None, bounds[0]), "min_score": (None, bounds[1]), "sampling": ("top", "random", "temperature"),
    }  # fmt: skip
    matrix = exact_scores(queries, documents, similarity == "cosine")
    compared = short = 0
    for number, values in enumerate(itertools.product(*choices.values())):
        settings: dict[str, Any] = dict(zip(choices, values, strict=True)) | {"num_negatives": 3}
        if settings["sampling"] != "top":
            settings["seed"] = number
        if settings["sampling"] == "temperature":
            settings["temperature"] = 0.1
        expected = oracle(pairs, corpus, matrix, settings)

        def mine(settings: dict[str, Any] = settings, number: int = number) -> embedkit.MiningResult:
            return embedkit.mine(
                pairs, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, as_list=True,
                similarity=similarity, block_size=(7, 16, 64, 16_384)[number % 4], **settings,
            )  # fmt: skip

        if not any(expected.values()):
            with pytest.raises(DataError, match="no negatives are left"):
                mine()
            continue
        found = mine()
        lists = per_anchor(found.rows)
        assert set(lists) == set(expected)
        for anchor, fits in expected.items():
            compared, short = compared + 1, short + (len(fits) < 3)
            if settings["sampling"] == "top":
                assert lists[anchor] == fits[:3], settings
            else:
                assert len(lists[anchor]) == min(3, len(fits)), settings
                assert lists[anchor] == [text for text in fits if text in set(lists[anchor])], settings
        assert found.report.negatives == sum(min(3, len(fits)) for fits in expected.values())
        assert found.report.too_few == sum(len(fits) < 3 for fits in expected.values())
        assert found.report.without == sum(not fits for fits in expected.values())
    assert compared > 3000 and 100 < short < compared - 100  # the settings bite, and not always


@pytest.mark.parametrize("sampling", ["top", "random", "temperature"])
def test_no_block_size_and_no_repetition_changes_the_output(sampling: str) -> None:
    pairs, corpus, queries, documents = tables(5, whole=False)
    extra = {"top": {}, "random": {"seed": 4}, "temperature": {"seed": 4, "temperature": 0.2}}[sampling]
    outputs = [
        embedkit.mine(pairs, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, sampling=sampling,
                      output_scores=True, relative_margin=0.02, block_size=size, **extra).rows
        for size in (1, 2, 13, 59, 60, 61, 16_384, 16_384)
    ]  # fmt: skip
    assert all(rows == outputs[0] for rows in outputs)


def test_scores_of_wide_vectors_are_the_same_bits_for_any_block() -> None:
    draw = np.random.default_rng(1)
    anchors = Vectors(draw.standard_normal((50, 384)).astype("f4"), "a", unit=True)
    candidates = Vectors(draw.standard_normal((3000, 384)).astype("f4"), "c", unit=True)
    truth = anchors.rows(slice(None)).astype(float) @ candidates.rows(slice(None)).astype(float).T
    results = []
    for size in (64, 1000, 2999, 5000):
        found = sorted(
            nearest_candidates(anchors, candidates, np.full(50, 40), block_size=size), key=lambda one: one[0]
        )
        results.append(found)
        for anchor, places, scores in found:
            np.testing.assert_array_equal(places, np.argsort(-truth[anchor], kind="stable")[:40])
            np.testing.assert_allclose(scores, truth[anchor][places], rtol=0, atol=1e-12)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert first[1].tobytes() == second[1].tobytes() and first[2].tobytes() == second[2].tobytes()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bfloat16_products_find_the_same_candidates(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Clusters so narrow that bfloat16 cannot order them, and vectors of any length."""
    draw = np.random.default_rng(2)
    centres = draw.standard_normal((30, 64))
    documents = centres[draw.integers(30, size=5000)] + 0.02 * draw.standard_normal((5000, 64))
    queries = centres[:12] + 0.02 * draw.standard_normal((12, 64))
    anchors = Vectors((queries * scale).astype("f4"), "a", unit=False)
    candidates = Vectors(documents.astype("f4"), "c", unit=False)
    needs = np.arange(1, 25, 2)
    results = []
    searches = []
    original = nearest.TopK

    def spy(*arguments: Any, **options: Any) -> Any:
        searches.append((options["dtype"], len(arguments[0])))
        return original(*arguments, **options)

    monkeypatch.setattr(nearest, "TopK", spy)
    for coarse in (True, False):
        monkeypatch.setattr(nearest, "cpu_has_bf16", lambda coarse=coarse: coarse)
        found = sorted(nearest_candidates(anchors, candidates, needs, block_size=999), key=lambda one: one[0])
        results.append([(places.tobytes(), scores.tobytes()) for _, places, scores in found])
    assert results[0] == results[1]
    truth = anchors.rows(slice(None)).astype(float) @ candidates.rows(slice(None)).astype(float).T
    assert [np.frombuffer(places, int).tolist() for places, _ in results[0]] == [
        np.argsort(-row, kind="stable")[:need].tolist() for row, need in zip(truth, needs, strict=True)
    ]
    kinds = [kind for kind, _ in searches]
    assert kinds[0] == "bf16" and "fp32" in kinds  # some could not be told apart, and were searched once more


def test_equal_vectors_beyond_the_spare_room_come_in_their_order() -> None:
    """More ties at the last rank than are looked at first: the search widens until it is certain."""
    documents = np.zeros((700, 8), np.float32)
    documents[:, 0] = 1
    documents[650, 0] = 2
    anchors = Vectors(np.eye(8, dtype=np.float32)[:2], "a", unit=False)
    found = {a: places for a, places, _ in nearest_candidates(
        anchors, Vectors(documents, "c", unit=False), np.array([5, 3]), block_size=100)}  # fmt: skip
    assert found[0].tolist() == [650, 0, 1, 2, 3] and found[1].tolist() == [0, 1, 2]


def test_a_random_draw_depends_on_seed_and_anchor_alone() -> None:
    pairs, corpus, queries, documents = tables(7, whole=False)
    settings: dict[str, Any] = {"corpus": corpus, "corpus_vectors": documents, "sampling": "random", "as_list": True}
    every = per_anchor(embedkit.mine(pairs, anchor_vectors=queries, seed=1, **settings).rows)
    other = per_anchor(embedkit.mine(pairs, anchor_vectors=queries, seed=2, **settings).rows)
    assert every != other
    for size in (1, 20):  # an anchor keeps its draw when others go, as long as its own pairs stay
        names = list(dict.fromkeys(row["anchor"] for row in pairs))[:size]
        numbers = [number for number, row in enumerate(pairs) if row["anchor"] in names]
        part = embedkit.mine([pairs[n] for n in numbers], anchor_vectors=queries[numbers], seed=1, **settings).rows
        assert per_anchor(part) == {name: every[name] for name in names}


def test_temperature_draws_in_proportion_to_the_scores() -> None:
    """Over many anchors with one vector the first of two candidates is drawn as often as the softmax says."""
    count = 4000
    pairs = [{"anchor": f"anchor {i}", "positive": "right"} for i in range(count)]
    corpus = [{"text": "right"}, {"text": "near"}, {"text": "far"}]
    found = embedkit.mine(
        pairs, corpus=corpus, anchor_vectors=np.ones((count, 1)), corpus_vectors=np.array([[0.9], [0.5], [0.3]]),
        similarity="dot", num_negatives=1, sampling="temperature", temperature=0.2,
    )  # fmt: skip
    share = np.mean([row["negative_1"] == "near" for row in found.rows])
    chance = 1 / (1 + np.exp((0.3 - 0.5) / 0.2))
    assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / count)


def test_the_positives_are_the_candidates_without_a_corpus() -> None:
    rows = [
        {"anchor": "a", "positive": "p1", "group": "x"}, {"anchor": "b", "positive": "p2", "group": "x"},
        {"anchor": "c", "positive": "p3", "group": "y"}, {"anchor": "c", "positive": " p1 ", "group": "y"},
        {"anchor": "d", "positive": "p4", "group": "z"},
    ]  # fmt: skip
    vectors = np.eye(5) + 0.1
    found = embedkit.mine(rows, anchor_vectors=vectors, corpus_vectors=vectors, num_negatives=2, as_list=True)
    lists = {(row["anchor"], row["positive"]): set(row["negatives"]) for row in found.rows}
    assert lists == {  # p1 is of the groups x and y
        ("a", "p1"): {"p3", "p4"}, ("b", "p2"): {"p3", "p4"}, ("c", "p3"): {"p2", "p4"},
        ("c", " p1 "): {"p2", "p4"}, ("d", "p4"): lists[("d", "p4")],
    }  # fmt: skip
    assert found.report.candidates == 4 and found.report.anchors == 4


def test_likely_false_negatives_are_counted_before_the_margins() -> None:
    rows = [{"anchor": "a", "positive": "p"}, {"anchor": "b", "positive": "q"}]
    corpus = ["p", "q", "r", "s"]
    queries, documents = np.eye(2), np.array([[0.5, 0.1], [0.1, 0.9], [0.8, 0.2], [0.2, 0.3]])
    settings: dict[str, Any] = {"anchor_vectors": queries, "corpus_vectors": documents, "similarity": "dot"}
    found = embedkit.mine(rows, corpus=corpus, num_negatives=1, absolute_margin=0.0, **settings)
    assert found.report.false_negatives == 0.5  # r above p for a; none above q for b
    assert [row["negative_1"] for row in found.rows] == ["s", "s"]
    assert found.report.rejections == {"absolute_margin": 1}


def test_pairs_that_repeat_keep_their_place_in_the_vectors() -> None:
    rows = [{"anchor": a, "positive": p} for a, p in (("a", "p"), ("a", "p "), ("b", "q"), ("c", "r"))]
    documents = np.array([[1.0, 0], [9.0, 9], [0.6, 0.8], [0.8, 0.6]])
    found = embedkit.mine(rows, anchor_vectors=np.eye(4)[:, :2] + 0.01, corpus_vectors=documents, num_negatives=1)
    assert found.report.repeats == 1 and found.rows[0]["negative_1"] == "r" and len(found.rows) == 3


def test_lists_of_positives_and_of_ids_in_one_row() -> None:
    """A vector an anchor row, whatever its number of positives; every id of a row counts."""
    rows = [
        {"query": "a", "pos": ["p", "q"], "positive_ids": ["1", "2"]},
        {"query": "b", "pos": ["r"], "positive_ids": ["3", "5"]},
    ]
    corpus = [{"id": str(i), "text": text} for i, text in enumerate(["n", "p", "q in other words", "r", "s", "t"])]
    queries, documents = np.eye(2), np.array([[0.5, 0.4], [0.9, 0.8], [0.8, 0.7], [0.7, 0.9], [0.6, 0.5], [0.4, 0.95]])
    found = embedkit.mine(rows, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, similarity="dot",
                          num_negatives=2, as_list=True, output_scores=True)  # fmt: skip
    assert [(row["anchor"], row["positive"], row["negatives"], row["scores"]) for row in found.rows] == [
        ("a", "p", ["r", "s"], [0.9, 0.7, 0.6]), ("a", "q", ["r", "s"], [0.8, 0.7, 0.6]),
        ("b", "r", ["p", "q in other words"], [0.9, 0.8, 0.7]),
    ]  # fmt: skip
    assert found.rows[0]["group"] == found.rows[1]["group"]
    margin = embedkit.mine(rows, corpus=corpus, anchor_vectors=queries, corpus_vectors=documents, similarity="dot",
                           num_negatives=1, absolute_margin=0.15, as_list=True)  # fmt: skip
    assert [row["negatives"] for row in margin.rows] == [["s"], ["s"], ["q in other words"]]  # below the lower of two
