"""Rules where libraries differ: zero vectors, ties, prompts of the sides, thresholds, copies in an index, few shots."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import paired_cosine_distances

from embedkit.evaluation import Report, evaluate, open_suite
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import as_ties, cosine_pairs, spearman
from embedkit.evaluation.core.task import Request
from embedkit.evaluation.tasks.pairs import best_thresholds
from embedkit.retrieval.approximate import FaissIndex
from embedkit.retrieval.exact import exact_top_k
from tests.evaluation.toys import BagOfWords, Fixed, sentences, sts_rows, write_tsv


class Unknown(BagOfWords):
    """Words with an "o" are unknown and add nothing, as in a static model: some texts are zero vectors."""

    def encode(self, inputs: Sequence[str], **options: Any) -> np.ndarray:
        known = [" ".join(word for word in text.split() if "o" not in word) for text in inputs]
        return np.array([super(Unknown, self).encode([text])[0] if text else np.zeros(self.dim) for text in known])


def _zero_rows() -> tuple[list[str], list[str], list[float]]:
    rows = [("house", "cat", 1.0), ("dog", "stone", 4.0), ("cat", "tree", 0.5), ("tree bread", "tree", 4.5)]
    rows += [(a, b, score) for _, score, a, b in sts_rows(20)]
    return [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]


@pytest.mark.parametrize("rule", ["senteval", "scikit-learn"])
def test_zero_vectors_of_sts_follow_the_rule_of_the_suite(rule: str) -> None:
    first, second, gold = _zero_rows()
    model = Unknown(16)
    a, b = model.encode(first), model.encode(second)
    assert (~a.any(axis=1) & ~b.any(axis=1)).any()  # two zero vectors beside each other are among them
    cosines = 1 - paired_cosine_distances(a, b)  # MTEB's main score
    if rule == "senteval":
        cosines = np.where(a.any(axis=1) & b.any(axis=1), cosines, 0.0)
    data = {"sentence1": first, "sentence2": second, "score": gold}
    report = evaluate(model, "own-sts", data, settings={"zero_vectors": rule}, resamples=0)
    assert report.main == pytest.approx(100 * spearman(gold, cosines.astype(np.float32)), abs=1e-9)
    count = report.tasks["data"].details["pairs_with_zero_vector"]
    assert count >= 2
    (note,) = [note for note in report.notes if "zero vector" in note]
    assert f"{count} pairs" in note
    assert ("SentEval" if rule == "senteval" else "MTEB") in note


@pytest.mark.parametrize(("suite", "rule"), [("sts", "senteval"), ("sts-mteb", "scikit-learn")])
def test_the_suite_that_says_mteb_has_mtebs_rule(suite: str, rule: str, tmp_path: Path) -> None:
    write_tsv(tmp_path / "stsb.tsv", ("sentence1", "sentence2", "score"), list(zip(*_zero_rows(), strict=True)))
    assert open_suite(suite, tmp_path, ["stsb"]).tasks[0].settings.zero_vectors == rule


@pytest.mark.parametrize("suite", ["pair-classification", "mteb-pairs", "own-pairs"])
def test_zero_vectors_of_pairs_are_mtebs(suite: str, tmp_path: Path) -> None:
    first, second, gold = _zero_rows()
    labels = [int(score > 2) for score in gold]
    model = Unknown(16)
    cosines = 1 - paired_cosine_distances(model.encode(first), model.encode(second))
    rows = list(zip(first, second, labels, strict=True))
    name = {"pair-classification": "mrpc", "mteb-pairs": "twitterurlcorpus", "own-pairs": "mine"}[suite]
    path = write_tsv(tmp_path / f"{name}.tsv", ("sentence1", "sentence2", "label"), rows)
    own = suite == "own-pairs"
    report = evaluate(model, suite, path if own else tmp_path, None if own else [name], resamples=0)
    expected = 100 * average_precision_score(labels, np.round(cosines, 6))
    assert report.tasks[name].metrics["cosine_ap"] == pytest.approx(expected, abs=1e-9)
    assert any("zero vector" in note and "MTEB" in note for note in report.notes)


@pytest.mark.parametrize("seed", range(5))
def test_cosine_and_dot_of_unit_vectors_have_one_average_precision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = sentences(60, seed)
    vectors = {text: rng.standard_normal(384) for text in texts}
    unit = {text: (v / np.linalg.norm(v)).astype(np.float32) for text, v in vectors.items()}
    pairs = [(text, text, int(rng.integers(2))) for text in texts[:30]]  # equal texts on both sides of the label
    pairs += [(a, b, int(rng.integers(2))) for a, b in zip(texts[:30], texts[30:], strict=True)]
    data = {key: [pair[n] for pair in pairs] for n, key in enumerate(("sentence1", "sentence2", "label"))}
    metrics = evaluate(Fixed(unit), "own-pairs", data, resamples=0).tasks["data"].metrics
    assert metrics["cosine_ap"] == metrics["dot_ap"]
    cosines = np.round(cosine_pairs(*(np.stack([unit[pair[n]] for pair in pairs]) for n in (0, 1))), 6)
    assert metrics["cosine_ap"] == pytest.approx(100 * average_precision_score(data["label"], cosines), abs=1e-9)


def test_ties_keep_their_places_and_separate_values_stay_apart() -> None:
    values = np.array([0.3, 0.3 + 2e-7, 0.9, 0.3 + 1e-3, -1.0])
    tied = as_ties(values, 4e-7)
    assert tied[0] == tied[1] == values[1]
    assert tied[2:].tolist() == values[2:].tolist()
    assert as_ties(np.zeros(0), 1e-6).shape == (0,)


def test_best_thresholds_are_mtebs_and_it_is_said_where_they_are_shown() -> None:
    prediction, gold = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([0, 1, 1, 1, 1, 1])
    best = best_thresholds(prediction, gold)
    assert (best["accuracy"], best["f1"]) == (pytest.approx(4 / 6), pytest.approx(0.8))
    data = {"sentence1": sentences(6, 1), "sentence2": sentences(6, 2), "label": gold.tolist()}
    report = evaluate(BagOfWords(), "own-pairs", data, resamples=0)
    assert [line.split(":")[0] for line in report.definitions] == ["max_accuracy", "max_f1"]
    assert all("'yes to all' and 'no to all' are not tried" in line for line in report.definitions)
    assert Report.from_json(report.to_json()).definitions == report.definitions


class Prompted(BagOfWords):
    """Prompts change what a text means: the words of the prompt are in the text."""

    def __init__(self, prompts: dict[str, str]) -> None:
        super().__init__(24)
        self.prompts = prompts

    def encode(self, inputs: Sequence[str], prompt: str | None = None, **options: Any) -> np.ndarray:
        self.prompts_used.append(prompt)
        head = self.prompts.get("default", "") if prompt is None else self.prompts.get(prompt, prompt)
        return super().encode([head + text for text in inputs])


FAQ = [{"query": a, "positive": b} for a, b in zip(sentences(20, 1), sentences(20, 2), strict=True)]


def _ndcg(model: Prompted, settings: dict[str, str] | None = None, prompt: str | None = None) -> Report:
    return evaluate(model, "own-retrieval", FAQ, settings=settings, prompt=prompt, resamples=0)


@pytest.mark.parametrize("side", ["document", "passage", "corpus"])
def test_a_models_prompts_for_queries_and_documents_are_used_and_told(side: str) -> None:
    prompts = {"query": "cat dog ", side: "river stone "}
    report = _ndcg(Prompted(prompts))
    by_hand = _ndcg(Prompted(prompts), {"query_prompt": "cat dog ", "document_prompt": "river stone "})
    assert report.main == by_hand.main
    assert report.main != _ndcg(Prompted({})).main
    assert report.tasks["data"].details["prompts"] == {"query": "cat dog ", "document": "river stone "}
    assert "data: prompts: query 'cat dog ', document 'river stone '" in report.notes
    assert "river stone" in str(report)


def test_an_empty_prompt_is_a_prompt() -> None:
    prompts = {"default": "cat dog ", "query": "cat dog "}
    model = Prompted(prompts)
    report = _ndcg(model, {"query_prompt": "query", "document_prompt": ""})
    assert "" in model.prompts_used
    assert report.main == _ndcg(Prompted({"query": "cat dog "})).main
    assert report.main != _ndcg(Prompted(prompts)).main  # documents under the default prompt
    assert report.tasks["data"].details["prompts"] == {"query": "cat dog ", "document": ""}


def test_the_order_of_prompts_is_setting_option_model() -> None:
    embed = Embedder(Prompted({"query": "q "}), prompt="p ")
    assert embed.prompt_of("s ", "query") == "s "
    assert embed.prompt_of("", "query") == ""
    assert embed.prompt_of(None, "query") == "p "
    assert Embedder(Prompted({"query": "q "})).prompt_of(None, "query") == "query"
    assert Embedder(Prompted({"query": "q "})).prompt_of(None, "document") is None
    assert Embedder(BagOfWords()).prompt_of(None, "query") is None


def test_prompts_of_the_sides_reach_reranking(tmp_path: Path) -> None:
    texts = sentences(9, 4)
    rows = [{"query": texts[n], "positive": [texts[n + 1]], "negative": [texts[n + 2]]} for n in range(0, 9, 3)]
    (tmp_path / "askubuntu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = Prompted({"query": "cat ", "document": "dog "})
    report = evaluate(model, "reranking", tmp_path, resamples=0)
    assert {"cat ", "dog "} <= set(model.prompts_used)
    assert any("prompts: query 'cat '" in note for note in report.notes)


def test_two_sides_with_one_text_are_two_vectors() -> None:
    embed = Embedder(Prompted({"query": "cat ", "document": "dog "}))
    embed.prepare([Request(["tree"], side="query"), Request(["tree"], side="document")])
    assert embed.encoded == 2
    assert not np.array_equal(embed(["tree"], side="query"), embed(["tree"], side="document"))


def test_copies_do_not_hide_the_other_vectors_from_an_index() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    others = rng.standard_normal((500, 32)).astype(np.float32)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    copies = np.repeat(rng.standard_normal((1, 32)).astype(np.float32), 1000, axis=0)
    vectors = np.concatenate([others, copies / np.linalg.norm(copies[0])])
    scores, places = FaissIndex(vectors, "HNSW16").search(others, 10)
    assert (places[:, 0] == np.arange(500)).mean() > 0.99  # each finds itself; 0.00 with the copies in the graph
    _, exact = exact_top_k(others, [(0, vectors)], 10, len(vectors))
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(places, exact, strict=True)]) > 9.5
    scores, places = FaissIndex(vectors, "HNSW16", np.arange(1500)).search(vectors[-1:], 10)
    assert places[0].tolist() == list(range(1499, 1489, -1))  # copies come back together, the preferred first
    assert np.ptp(scores[0]) == 0


def test_an_index_that_finds_few_is_told_beside_the_score() -> None:
    pytest.importorskip("faiss")
    texts = [f"{a} {b}" for a, b in zip(sentences(400, 5), sentences(400, 6), strict=True)]
    data = [{"query": text, "positive": text} for text in dict.fromkeys(texts)]
    poor = evaluate(BagOfWords(), "own-retrieval", data, settings={"index": "IVF64,Flat"}, resamples=0)
    recall = poor.tasks["data"].details["index_recall"]
    assert recall < 95
    assert any(f"finds {recall:.1f} % of the true nearest documents" in note for note in poor.notes)
    flat = evaluate(BagOfWords(), "own-retrieval", data, settings={"index": "Flat"}, resamples=0)
    assert not any("nearest documents" in note for note in flat.notes)
    exact = evaluate(BagOfWords(), "own-retrieval", data, settings={"index": "exact"}, resamples=0)  # the note's remedy
    assert exact.main >= poor.main


def test_more_shots_than_a_class_has_rows_are_told_without_a_librarys_warning(tmp_path: Path) -> None:
    rows = [(f"{word} {n}", word, split) for word in ("cat", "dog") for n in range(12) for split in ("train", "test")]
    data = {key: [row[n] for row in rows] for n, key in enumerate(("text", "label", "split"))}
    settings = {"shots": [1, 5, 50], "draws": 2, "folds": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluate(BagOfWords(), "own-classification", data, settings=settings, resamples=0)
    assert report.tasks["data"].metrics["accuracy_50_shot"] == 100
    assert any("50 shots are more than the 12 rows of the smallest class" in note for note in report.notes)
