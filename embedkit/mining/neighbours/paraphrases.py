"""Pairs of texts of one table that are near to each other."""

from __future__ import annotations

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.neighbours.settings import ParaphraseSettings
from embedkit.mining.neighbours.tables import Tables
from embedkit.mining.parts import Parts


def paraphrases(tables: Tables, settings: ParaphraseSettings, parts: Parts) -> tuple[Array, Array]:
    """Pairs int64 (P, 2) of places, the smaller first, and their scores (P,), the highest first.

    A pair is there if one of the two is among the `top_k` nearest of the other and the score is within the bounds;
    equal scores come in the order of the places. Memory: `max_pairs` and the pairs of one part.

    Examples
    --------
    >>> from embedkit.mining.neighbours.tables import Table
    >>> from embedkit.mining.pairs import read_corpus
    >>> settings, texts = ParaphraseSettings(min_score=0.5), read_corpus(["a", "b", "c"])
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> tables = Tables([Table(texts, vectors, "vectors")], None, settings, None, {}, None)
    >>> tables.fill(Parts(None))
    >>> [part.round(6).tolist() for part in paraphrases(tables, settings, Parts(None))]
    [[[1, 2], [0, 2]], [0.8, 0.6]]
    """
    count = len(tables.tables[0].texts.texts)
    top_k = min(100 if settings.top_k is None else settings.top_k, count - 1)
    low = -np.inf if settings.min_score is None else settings.min_score
    high = np.inf if settings.max_score is None else settings.max_score

    def work(rows: range) -> dict[str, Array]:
        firsts, seconds, values = [], [], []
        for row, places, scores in tables.nearest(0, 0, rows, np.full(len(rows), top_k + 1)):
            others = np.flatnonzero(places != row)[:top_k]
            others = others[(scores[others] >= low) & (scores[others] <= high)]
            firsts.append(np.minimum(places[others], row))
            seconds.append(np.maximum(places[others], row))
            values.append(scores[others])
        return _best(np.concatenate(firsts), np.concatenate(seconds), np.concatenate(values), settings.max_pairs)

    best = {"firsts": np.empty(0, np.int64), "seconds": np.empty(0, np.int64), "scores": np.empty(0)}
    for _, arrays in tables.run(parts, "paraphrases", 0, work):
        both = {name: np.concatenate([best[name], arrays[name]]) for name in best}
        best = _best(both["firsts"], both["seconds"], both["scores"], settings.max_pairs)
    return np.stack([best["firsts"], best["seconds"]], axis=1), best["scores"]


def _best(firsts: Array, seconds: Array, scores: Array, most: int) -> dict[str, Array]:
    """Different pairs, the best first and at most `most`; a pair has one score, whichever way it was found."""
    order = np.lexsort((seconds, firsts, -scores))
    firsts, seconds, scores = firsts[order], seconds[order], scores[order]
    again = np.zeros(len(order), dtype=bool)  # the same pair from its other end has the same score, and so stands next
    again[1:] = (firsts[1:] == firsts[:-1]) & (seconds[1:] == seconds[:-1])
    return {"firsts": firsts[~again][:most], "seconds": seconds[~again][:most], "scores": scores[~again][:most]}
