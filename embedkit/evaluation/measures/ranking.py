"""Measures of ranked lists, with trec_eval's definitions (ties: score as float32, then the later id first).

Sources: trec_eval as wrapped by pytrec_eval (Van Gysel and de Rijke 2018); nDCG with linear gain and ideal over all
judgements (Jarvelin and Kekalainen 2002). Unjudged documents and negative judgements count as not relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.retrieval.exact import _sortable, trec_preference

Qrels = Mapping[str, Mapping[str, int]]


def ranking_metrics(gains: Array, judged: Sequence[Sequence[int]], cutoffs: Sequence[int]) -> dict[str, Array]:
    """Measures of ranked lists, each for every query.

    Parameters
    ----------
    gains : array (Q, K)
        Judgement of the document at each rank; 0 where there is none.
    judged : sequence of Q sequences
        All judgements of each query, found or not.
    cutoffs : sequence of int
        Depths k.

    Returns
    -------
    dict of str to array (Q,)
        ``ndcg@k``, ``map@k``, ``mrr@k``, ``recall@k``, ``precision@k``, ``hit_rate@k`` on 0..1. A query without a
        relevant document has 0 everywhere.

    Examples
    --------
    >>> measures = ranking_metrics(np.array([[0, 1, 0]]), [[1]], [1, 3])
    >>> {name: round(float(values[0]), 3) for name, values in measures.items() if name.endswith("@3")}
    {'ndcg@3': 0.631, 'map@3': 0.5, 'mrr@3': 0.5, 'recall@3': 1.0, 'precision@3': 0.333, 'hit_rate@3': 1.0}
    """
    gains = np.maximum(np.asarray(gains, dtype=np.float64), 0)
    relevant = gains > 0
    count, depth = gains.shape
    total = np.array([sum(rel > 0 for rel in row) for row in judged], dtype=np.float64)
    some = np.maximum(total, 1)
    ranks = np.arange(1, depth + 1)
    hits = relevant.cumsum(axis=1)  # (Q, K)
    dcg = (gains / np.log2(ranks + 1)).cumsum(axis=1)
    precision_sum = (relevant * hits / ranks).cumsum(axis=1)
    first = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, depth + 1)
    measures = {}
    for k in cutoffs:
        last = min(k, depth) - 1
        ideal = np.array([_ideal(row, k) for row in judged])
        measures[f"ndcg@{k}"] = np.divide(dcg[:, last], ideal, out=np.zeros(count), where=ideal > 0)
        measures[f"map@{k}"] = precision_sum[:, last] / some
        measures[f"mrr@{k}"] = np.where(first <= last + 1, 1 / first, 0.0)
        measures[f"recall@{k}"] = hits[:, last] / some
        measures[f"precision@{k}"] = hits[:, last] / k
        measures[f"hit_rate@{k}"] = (hits[:, last] > 0).astype(np.float64)
    return measures


def _ideal(judged: Sequence[int], k: int) -> float:
    best = np.sort(np.maximum(np.asarray(judged, dtype=np.float64), 0))[::-1][:k]
    return float((best / np.log2(np.arange(2, len(best) + 2))).sum())


def evaluate_run(
    qrels: Qrels, run: Mapping[str, Mapping[str, float]], cutoffs: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Measures of a run by query id, for the queries that are in both, as ``pytrec_eval`` gives them.

    `run` maps query id to document id to score; scores that are equal as float32 are ordered by document id, the
    later first.

    Examples
    --------
    >>> measures = evaluate_run({"q1": {"d1": 1}}, {"q1": {"d1": 0.8, "d2": 0.9}}, [10])
    >>> measures["q1"]["mrr@10"], measures["q1"]["recall@10"]
    (0.5, 1.0)
    """
    names = [query for query in run if query in qrels]
    depth = max(cutoffs)
    gains = np.zeros((len(names), depth))
    for row, query in enumerate(names):
        ids, scores = list(run[query]), np.array(list(run[query].values()), dtype=np.float64)
        order = np.lexsort((-trec_preference(ids), -_sortable(scores)))[:depth]
        gains[row, : len(order)] = [qrels[query].get(ids[i], 0) for i in order]
    measures = ranking_metrics(gains, [list(qrels[query].values()) for query in names], cutoffs)
    return {query: {name: float(values[row]) for name, values in measures.items()} for row, query in enumerate(names)}


def tie_rate(scores: Array) -> float:
    """Share of ranks below the first whose score equals the one above it; `scores` (Q, K), best first.

    Examples
    --------
    >>> tie_rate(np.array([[0.9, 0.9, 0.5]]))
    0.5
    """
    if scores.shape[1] < 2:
        return 0.0
    return float((scores[:, 1:] == scores[:, :-1]).mean())
