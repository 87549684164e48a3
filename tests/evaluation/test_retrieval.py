"""Retrieval measures against pytrec_eval, the collection's checks, and the whole task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.errors import DataError, NonFiniteError, UserError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.measures.ranking import evaluate_run, ranking_metrics, tie_rate
from tests.evaluation.toys import BagOfWords, sentences

CUTOFFS = (1, 3, 5, 10, 100)
TREC = {"ndcg_cut": "ndcg", "map_cut": "map", "recall": "recall", "P": "precision", "success": "hit_rate"}


def _random_case(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Graded judgements, some of unknown documents, some negative; scores with ties, some closer than float32."""
    qrels, run = {}, {}
    for query in ("q1", "q2"):
        documents = [str(i) for i in rng.permutation(150)[: int(rng.integers(1, 40))]]
        judged = rng.choice([*documents, "x1", "x2"], min(len(documents), int(rng.integers(1, 12))), replace=False)
        qrels[query] = {str(d): int(rng.integers(-1, 4)) for d in judged}
        scores = np.round(rng.standard_normal(len(documents)), 1) + 1e-9 * rng.integers(0, 3, len(documents))
        run[query] = dict(zip(documents, map(float, scores), strict=True))
    return qrels, run


def test_a_thousand_random_graded_cases_equal_pytrec_eval() -> None:
    trec = pytest.importorskip("pytrec_eval")
    measures = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in TREC} | {"recip_rank"}
    rng = np.random.default_rng(0)
    for _ in range(500):  # two queries each
        qrels, run = _random_case(rng)
        wanted = trec.RelevanceEvaluator(qrels, measures).evaluate(run)
        found = evaluate_run(qrels, run, CUTOFFS)
        for query in qrels:
            for theirs, ours in TREC.items():
                for k in CUTOFFS:
                    assert abs(wanted[query][f"{theirs}_{k}"] - found[query][f"{ours}@{k}"]) < 1e-6
            assert abs(wanted[query]["recip_rank"] - found[query]["mrr@100"]) < 1e-6


def test_gain_is_linear_and_mrr_is_cut() -> None:
    found = evaluate_run({"q": {"a": 1, "b": 3}}, {"q": {"a": 2.0, "b": 1.0}}, (1, 10))["q"]
    assert found["ndcg@10"] == pytest.approx(0.79671, abs=1e-5)
    assert evaluate_run({"q": {"b": 1}}, {"q": {"a": 2.0, "b": 1.0}}, (1, 10))["q"]["mrr@1"] == 0


def test_ties_have_one_order_under_every_cutoff() -> None:
    for relevant, rank in (("a", 3), ("b", 2), ("c", 1)):  # trec_eval: of equal scores the later id comes first
        found = evaluate_run({"q": {relevant: 1}}, {"q": dict.fromkeys("abc", 0.5)}, (1, 2, 3))["q"]
        assert found["mrr@3"] == pytest.approx(1 / rank)
        for k in (1, 2):
            assert found[f"mrr@{k}"] == pytest.approx(1 / rank if rank <= k else 0)
            assert found[f"hit_rate@{k}"] == (rank <= k)


def test_a_query_without_relevant_documents_counts_as_zero() -> None:
    found = ranking_metrics(np.zeros((2, 3)), [[0], []], (1, 3))
    assert all((values == 0).all() for values in found.values())


def test_tie_rate_counts_equal_neighbours() -> None:
    assert tie_rate(np.array([[3.0, 3.0, 1.0], [3.0, 2.0, 1.0]])) == 0.25
    assert tie_rate(np.array([[3.0, 3.0], [3.0, 2.0]])) == 0.5
    assert tie_rate(np.array([[3.0], [3.0]])) == 0.0


def test_only_queries_with_a_run_and_judgements_count() -> None:
    found = evaluate_run({"q": {"a": 1}, "silent": {"a": 1}}, {"stranger": {"a": 1.0}, "q": {"a": 1.0}}, (1,))
    assert found == {"q": dict.fromkeys(("ndcg@1", "map@1", "mrr@1", "recall@1", "precision@1", "hit_rate@1"), 1.0)}


def collection(folder: Path, **changes: Any) -> Path:
    """A small collection in BEIR's form; a query's relevant documents share its words."""
    texts = sentences(60, 3)
    parts: dict[str, Any] = {
        "corpus": [{"_id": f"d{i}", "title": text.split()[0], "text": text} for i, text in enumerate(texts)],
        "queries": [{"_id": f"q{i}", "text": " ".join(texts[i].split()[:3])} for i in range(12)],
        "qrels": [(f"q{i}", f"d{(i * step + step - 1) % 60}", step) for i in range(12) for step in (1, 2)],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in parts[name]))
    (folder / "qrels").mkdir(exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in parts["qrels"])]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_task_equals_pytrec_eval_over_all_scores(tmp_path: Path, similarity: str) -> None:
    trec = pytest.importorskip("pytrec_eval")
    folder = collection(tmp_path / "scifact")
    report = evaluate(
        BagOfWords(), "retrieval", tmp_path, ["scifact"], settings={"similarity": similarity, "block": 7}, resamples=50
    )
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    documents = BagOfWords().encode([f"{row['title']} {row['text']}" for row in corpus])
    asked = BagOfWords().encode([row["text"] for row in queries])
    if similarity == "cosine":
        documents /= np.linalg.norm(documents, axis=1, keepdims=True)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    run = {
        query["_id"]: {row["_id"]: float(score) for row, score in zip(corpus, documents @ vector, strict=True)}
        for query, vector in zip(queries, asked, strict=True)
    }
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, value = line.split("\t")
        qrels.setdefault(query, {})[document] = int(value)
    found = trec.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.100", "recall.5"}).evaluate(run)
    metrics = report.tasks["scifact"].metrics
    for theirs, ours in (("ndcg_cut_10", "ndcg@10"), ("map_cut_100", "map@100"), ("recall_5", "recall@5")):
        wanted = 100 * np.mean([row[theirs] for row in found.values()])
        assert metrics[ours] == pytest.approx(wanted, abs=1e-4)
    assert report.scores["scifact"] == metrics["ndcg@10"]
    low, high = report.tasks["scifact"].interval
    assert low < metrics["ndcg@10"] < high


def test_identical_ids_can_be_ignored(tmp_path: Path) -> None:
    rows = [{"_id": name, "text": text} for name, text in (("a", "red cat"), ("b", "red dog"), ("c", "blue cow"))]
    collection(tmp_path / "scifact", corpus=rows, queries=rows[:1], qrels=[("a", "b", 1)])
    for ignored, wanted in ((False, 0.0), (True, 100.0)):
        settings = {"ignore_identical_ids": ignored, "main": "hit_rate@1"}
        assert evaluate(BagOfWords(), "retrieval", tmp_path, ["scifact"], settings=settings).main == wanted


def test_prompts_go_to_their_side(tmp_path: Path) -> None:
    collection(tmp_path / "scifact")
    model = BagOfWords()
    settings = {"query_prompt": "query", "document_prompt": "passage"}
    evaluate(model, "retrieval", tmp_path, ["scifact"], settings=settings, resamples=0)
    assert model.prompts_used == ["query", "passage"]


def test_an_approximate_index_says_what_it_missed(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    collection(tmp_path / "scifact")
    for index in ("Flat", "IVF4,Flat"):
        report = evaluate(BagOfWords(), "retrieval", tmp_path, ["scifact"], settings={"index": index}, resamples=0)
        recall = report.tasks["scifact"].metrics["index_recall"]
        assert recall == 100.0 if index == "Flat" else 0 < recall < 100


def test_mismatched_ids_are_reported_by_name(tmp_path: Path) -> None:
    qrels = [("q1", "d1", 1), ("q2", "gone", 1), ("stranger", "d1", 1)]
    collection(tmp_path / "scifact", qrels=qrels)
    opened = open_suite("retrieval", tmp_path, ["scifact"])
    assert opened.tasks[0].notes == [
        "scifact: 1 judged queries have no text and are left out: 'stranger'",
        "scifact: 1 judged documents are not in the corpus and cannot be found: 'gone'",
        "scifact: 2 queries, the protocol has 300: not comparable",
    ]
    report = opened.run(BagOfWords())
    assert report.tasks["scifact"].details["queries"] == 2
    assert report.tasks["scifact"].metrics["hit_rate@100"] == 50.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corpus": [{"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"}]}, r"corpus\.jsonl:2: the id 'd1' stands"),
        ({"queries": [{"_id": "q1", "text": "a"}, {"_id": "q1", "text": "b"}]}, r"queries\.jsonl:2: the id 'q1'"),
        ({"corpus": [{"_id": True, "text": "a"}]}, "'_id' holds True, not text"),
        ({"corpus": [{"_id": "d1", "text": None}]}, "'text' holds None"),
        ({"queries": [{"_id": "q1", "text": ""}]}, "query 'q1' has no text"),
        ({"queries": []}, "empty"),
        ({"qrels": []}, "no judgements"),
        ({"qrels": [("q1", "d1", "much")]}, r"test\.tsv:2: the judgement 'much'"),
        ({"qrels": [("q1", "d1", 1), ("q1", "d1", 2)]}, r"test\.tsv:3: two different judgements"),
        ({"qrels": [("q1", "d1")]}, "2 cells"),
        ({"qrels": [("none", "d1", 1)]}, "no query has a judgement"),
        ({"qrels": [("q1", "d1", 0)]}, "no judged document of the corpus is relevant"),
    ],
)
def test_bad_collections_are_refused_by_place(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    collection(tmp_path / "scifact", **changes)
    with pytest.raises(DataError, match=said):
        open_suite("retrieval", tmp_path, ["scifact"])


def test_missing_collections_and_measures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file corpus\.jsonl"):
        open_suite("retrieval", tmp_path, ["scifact"])
    with pytest.raises(DataError, match="needs local files"):
        open_suite("retrieval", None, ["scifact"])
    collection(tmp_path / "scifact")
    with pytest.raises(UserError, match="no measure 'ndcg@7'"):
        open_suite("retrieval", tmp_path, ["scifact"], settings={"main": "ndcg@7"})
    with pytest.raises(UserError, match="cutoffs.*name 10 once, it stands there twice"):
        open_suite("retrieval", tmp_path, ["scifact"], settings={"cutoffs": [10, 10]})
    with pytest.raises(UserError, match="task 'scifact' is named twice; name it once"):
        open_suite("retrieval", tmp_path, ["scifact", "scifact"])


def test_bad_vectors_never_give_a_score(tmp_path: Path) -> None:
    collection(tmp_path / "scifact")

    class Sick(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            vectors = super().encode(inputs)
            return np.where(np.arange(len(vectors))[:, None] == 3, np.nan, vectors) if len(vectors) > 20 else vectors

    class Dead(BagOfWords):
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            return np.ones((len(inputs), 4), dtype=np.float32)

    for model in (Sick(), Dead()):
        with pytest.raises(NonFiniteError):
            evaluate(model, "retrieval", tmp_path, ["scifact"])
