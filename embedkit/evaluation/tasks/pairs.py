"""Pair classification, bitext mining and reranking, as MTEB defines them (Muennighoff et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from embedkit.data.schema.roles import named_role
from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import (
    Array,
    Samples,
    ZeroRule,
    as_ties,
    average_precision_statistic,
    cosine_pairs,
    unit_rows,
    zero_vector_note,
)
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.core.worst import worst_pairs, worst_queries
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.tables import content_hash, of_two_values, open_table
from embedkit.evaluation.measures.ranking import ranking_metrics
from embedkit.evaluation.mteb.parts import MtebPart, one_split
from embedkit.retrieval.exact import array_blocks, exact_top_k


def best_thresholds(prediction: Array, gold: Array) -> dict[str, float]:
    """Accuracy and F1 (with its precision and recall) at the best threshold between two different predictions.

    Examples
    --------
    >>> scores = best_thresholds(np.array([0.9, 0.8, 0.3]), np.array([1, 0, 0]))
    >>> scores["accuracy"], scores["f1"]
    (1.0, 1.0)
    """
    order = np.argsort(-prediction, kind="stable")
    ranked, hits = prediction[order], np.cumsum(gold[order])
    cuts = np.flatnonzero(ranked[1:] < ranked[:-1])  # a threshold never separates equal predictions
    sizes, true_positives = cuts + 1, hits[cuts].astype(np.float64)
    positives, total = float(gold.sum()), len(gold)
    accuracy = (true_positives + (total - positives) - (sizes - true_positives)) / total
    precision, recall = true_positives / sizes, true_positives / max(positives, 1)
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros(len(cuts)), where=true_positives > 0)
    if not len(cuts):
        return {"accuracy": 0.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    best = int(f1.argmax())
    return {
        "accuracy": float(accuracy.max()), "f1": float(f1[best]),
        "precision": float(precision[best]), "recall": float(recall[best]),
    }  # fmt: skip


class PairSettings(TaskSettings):
    """``zero_vectors``: what the cosine with a zero vector is, see `embedkit.evaluation.core.stats.ZeroRule`.

    Examples
    --------
    >>> PairSettings().zero_vectors
    'senteval'
    """

    zero_vectors: ZeroRule = "senteval"


_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Similarities nearer than this to one another, relative to the lengths of the vectors, are ties: what float32 leaves
open for a product of one vector with itself."""

_THRESHOLDS = (
    "the best over thresholds between two different similarities, as MTEB defines it; 'yes to all' and 'no to all' are "
    "not tried, so it can be below them"
)


@TASKS.add("pair-classification")
class PairClassificationTask(Task):
    """Average precision x 100 of the similarity for "these two belong together", the best of four similarities.

    Data: columns ``sentence1``, ``sentence2`` and ``label`` (0 or 1), a row a pair or one row of lists. Metrics are
    given for cosine, dot product, Euclidean and Manhattan distance, and as ``max_*`` over them. Similarities that
    differ by no more than float32 rounds are ties.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"sentence1": ["cat", "a"], "sentence2": ["dog", "boat"], "label": [1, 0]}
    >>> opening = Opening(Table(cells, [1, 2], "pairs"), "test")
    >>> task = PairClassificationTask(TaskConfig(name="pairs", kind="pair-classification"), opening)
    >>> task.score(Embedder(lengths)).metrics["cosine_ap"]
    100.0
    """

    settings_type = PairSettings
    definitions: ClassVar[Mapping[str, str]] = {"max_accuracy": _THRESHOLDS, "max_f1": _THRESHOLDS}

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder).exploded()
        if config.own and "label" not in self.settings.columns.values() and "label" not in table.columns:
            table = table.renamed({name: "label" for name in table.columns if named_role(name) == "score"})
        table = self.own_table(table, {"anchor": "sentence1", "positive": "sentence2", "label": "label"})
        self.first, self.second = table.texts("sentence1"), table.texts("sentence2")
        self.gold = np.array(table.numbers("label")).astype(np.int64)
        if set(self.gold.tolist()) != {0, 1}:
            what = "column 'label' must hold 0 and 1"
            raise DataError(what, where=table.source, remedy="number the labels so, and give rows of both")
        self.source = table.source
        self.expect_rows(len(self.gold))

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Pairs of texts with labels or scores that are all 0 or 1."""
        if not {"anchor", "positive"} <= set(look.roles):
            return None
        role = next((role for role in ("label", "score") if role in look.roles), None)
        if role is None or not of_two_values(look.cells(role)):
            return None
        return f"pairs of texts that belong together or not (column {look.roles[role]!r}: 1 or 0)"

    @property
    def data(self) -> dict[str, Any]:
        """Source, pairs and the hash of texts and labels."""
        digest = content_hash(self.first, self.second, self.gold.tolist())
        return {"source": self.source, "rows": len(self.gold), "sha256": digest}

    def requests(self) -> list[Request]:
        """Both sides."""
        return [Request([*self.first, *self.second])]

    def as_mteb(self) -> list[MtebPart]:
        """mteb's pair classification."""
        from mteb.abstasks.pair_classification import AbsTaskPairClassification

        data = one_split(sentence1=self.first, sentence2=self.second, labels=self.gold.tolist())
        return [MtebPart(AbsTaskPairClassification, "PairClassification", "t2t", "max_ap", ("text",), data)]

    def score(self, embed: Embedder) -> TaskResult:
        """Average precision, best accuracy and best F1 by similarity."""
        a, b = (embed(texts).astype(np.float64) for texts in (self.first, self.second))
        rule = self.settings.zero_vectors
        lengths = [max(float(np.linalg.norm(v, ord=p, axis=1).max()) for v in (a, b)) for p in (1, 2)]
        scales = {"cosine": 1.0, "dot": lengths[1] ** 2, "euclidean": lengths[1], "manhattan": lengths[0]}
        similarities = {
            "cosine": cosine_pairs(a, b, rule),
            "dot": (a * b).sum(axis=1),
            "euclidean": -np.linalg.norm(a - b, axis=1),
            "manhattan": -np.abs(a - b).sum(axis=1),
        }
        similarities = {name: as_ties(values, _ROUNDING * scales[name]) for name, values in similarities.items()}
        if np.ptp(similarities["cosine"]) == 0:
            raise NonFiniteError("all pairs have the same similarity", where=f"task {self.name}")
        metrics: dict[str, float] = {}
        weights = np.ones(len(self.gold))
        for name, values in similarities.items():
            part = {"ap": average_precision_statistic({"gold": self.gold, "prediction": values})(weights)}
            part |= best_thresholds(values, self.gold)
            metrics |= {f"{name}_{key}": 100 * value for key, value in part.items()}
        for key in ("ap", "accuracy", "f1"):
            metrics[f"max_{key}"] = max(metrics[f"{name}_{key}"] for name in similarities)
        best = max(similarities, key=lambda name: metrics[f"{name}_ap"])
        samples = Samples("average_precision", {"gold": self.gold, "prediction": similarities[best]})
        zeros, remarks = zero_vector_note(a, b, rule)
        details = {
            "pairs": len(self.gold), "positives": int(self.gold.sum()), "best_similarity": best,
            "pairs_with_zero_vector": zeros, "definitions": dict(self.definitions),
        }  # fmt: skip
        notes = [*self.notes, *(f"{self.name}: {words}" for words in remarks)]
        worst = worst_pairs(self.first, self.second, self.gold, similarities[best])
        return TaskResult(
            self.name, "max_ap", metrics["max_ap"], metrics, samples, details=details, notes=notes, worst=worst
        )


@TASKS.add("bitext")
class BitextTask(Task):
    """F1 x 100 of finding, for each sentence of one language, its translation by cosine.

    Data: columns ``sentence1`` and ``sentence2``, row by row translations. F1 is weighted by sentence, as in MTEB: a
    translation that is chosen for m sentences counts 2 / (m + 1) where it is right.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"sentence1": ["it rains", "yes"], "sentence2": ["il pleut", "oui"]}
    >>> opening = Opening(Table(cells, [1, 2], "fr-en"), "test")
    >>> BitextTask(TaskConfig(name="fr-en", kind="bitext"), opening).score(Embedder(lengths)).metrics
    {'f1': 100.0, 'accuracy': 100.0}
    """

    hub_type = "bitext-mining"

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        self.first, self.second = table.texts("sentence1"), table.texts("sentence2")
        self.source = table.source
        self.expect_rows(len(self.first))

    @property
    def data(self) -> dict[str, Any]:
        """Source, pairs and the hash of the texts."""
        return {"source": self.source, "rows": len(self.first), "sha256": content_hash(self.first, self.second)}

    def requests(self) -> list[Request]:
        """Both languages."""
        return [Request([*self.first, *self.second])]

    def score(self, embed: Embedder) -> TaskResult:
        """F1 and accuracy."""
        first, second = unit_rows(embed(self.first)), unit_rows(embed(self.second))
        scores, places = exact_top_k(first, array_blocks(second, 4096), 1, len(second))
        if len(scores) > 1 and np.ptp(scores) == 0 and len(np.unique(places)) == 1:
            raise NonFiniteError("every sentence has the same nearest neighbour", where=f"task {self.name}")
        nearest = places[:, 0]
        right = nearest == np.arange(len(first))
        value = 2 * right / (1 + np.bincount(nearest, minlength=len(second))[: len(first)])
        metrics = {"f1": 100 * float(value.mean()), "accuracy": 100 * float(right.mean())}
        samples = Samples("mean", {"value": value})
        worst = worst_queries(self.first, right.astype(float), [self.second[n] for n in nearest], self.second)
        return TaskResult(self.name, "f1", metrics["f1"], metrics, samples, details={"pairs": len(first)},
                          notes=list(self.notes), worst=worst)  # fmt: skip


@TASKS.add("reranking")
class RerankingTask(Task):
    """MAP x 100 of ordering the candidates of each query by cosine; also MRR@10 and nDCG@10.

    Data: columns ``query`` (text), ``positive`` and ``negative`` (lists of texts). Equal scores are ordered against
    the model: negatives first, as MTEB's document ids have it. Queries without a positive or a negative are left out.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"query": ["cat"], "positive": [["pet"]], "negative": [["an aeroplane", "by"]]}
    >>> opening = Opening(Table(cells, [1], "pets"), "test")
    >>> RerankingTask(TaskConfig(name="pets", kind="reranking"), opening).score(Embedder(lengths)).metrics["map"]
    100.0
    """

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        queries = table.texts("query")
        positives, negatives = (table.lists(name, empty=True) for name in ("positive", "negative"))
        usable_rows = [i for i in range(len(queries)) if positives[i] and negatives[i]]
        if not usable_rows:
            what = "no query has a positive and a negative"
            raise DataError(what, where=table.source, remedy="give both for one query at least")
        if len(usable_rows) < len(queries):
            self.notes.append(
                f"{self.name}: {len(queries) - len(usable_rows)} queries lack positives or negatives, left out"
            )
        self.queries = [queries[i] for i in usable_rows]
        self.positives, self.negatives = [positives[i] for i in usable_rows], [negatives[i] for i in usable_rows]
        self.source = table.source
        self.expect_rows(len(self.queries))

    @property
    def data(self) -> dict[str, Any]:
        """Source, queries and the hash of queries and candidates."""
        digest = content_hash(self.queries, self.positives, self.negatives)
        return {"source": self.source, "rows": len(self.queries), "sha256": digest}

    def requests(self) -> list[Request]:
        """Queries and candidates."""
        candidates = [text for rows in (self.positives, self.negatives) for row in rows for text in row]
        return [Request(self.queries, side="query"), Request(candidates, side="document")]

    def score(self, embed: Embedder) -> TaskResult:
        """MAP, MRR@10 and nDCG@10."""
        queries = unit_rows(embed(self.queries, side="query"))
        depth = max(len(p) + len(n) for p, n in zip(self.positives, self.negatives, strict=True))
        gains, flat, first = np.zeros((len(queries), depth)), True, []
        for row, (good, bad) in enumerate(zip(self.positives, self.negatives, strict=True)):
            scores = unit_rows(embed([*good, *bad], side="document")) @ queries[row]
            relevant = np.array([1] * len(good) + [0] * len(bad))
            order = np.lexsort((relevant, -scores))
            gains[row, : len(scores)] = relevant[order]
            first.append([*good, *bad][order[0]])
            flat = flat and bool(np.ptp(scores) == 0)
        if flat:
            raise NonFiniteError("every candidate has the same score", where=f"task {self.name}")
        measures = ranking_metrics(gains, [[1] * len(p) for p in self.positives], (10, depth))
        values = {"map": measures[f"map@{depth}"], "mrr@10": measures["mrr@10"], "ndcg@10": measures["ndcg@10"]}
        metrics = {name: 100 * float(value.mean()) for name, value in values.items()}
        samples = Samples("mean", {"value": values["map"]})
        details: dict[str, Any] = {"queries": len(queries), "most_candidates": depth}
        details["prompts"], remarks = embed.describe_prompts(query=None, document=None)
        notes = [*self.notes, *(f"{self.name}: {words}" for words in remarks)]
        worst = worst_queries(self.queries, values["map"], first, [good[0] for good in self.positives])
        return TaskResult(self.name, "map", metrics["map"], metrics, samples, details=details, notes=notes, worst=worst)
