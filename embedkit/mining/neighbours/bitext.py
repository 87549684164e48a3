"""Translations among the texts of two languages, by margins over their neighbours (Artetxe & Schwenk 2019)."""

from __future__ import annotations

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.neighbours.settings import BitextSettings
from embedkit.mining.neighbours.tables import Tables
from embedkit.mining.parts import Parts


def margin_scores(similarities: Array, means: Array, margin: str) -> Array:
    """Scores of pairs by their similarities and the mean similarity of their neighbours, both of one shape.

    Section 3 of arXiv 1811.01136, equations 2 to 4. A ratio to a mean that is not above 0 says nothing: it is -inf.

    Examples
    --------
    >>> margin_scores(np.array([0.9, 0.9]), np.array([0.6, 0.0]), "ratio").tolist()
    [1.5, -inf]
    """
    if margin == "absolute":
        return similarities
    if margin == "distance":
        return similarities - means
    fits = means > 0
    return np.where(fits, similarities / np.where(fits, means, 1.0), -np.inf)


def bitext(tables: Tables, settings: BitextSettings, parts: Parts) -> tuple[Array, Array]:
    """Pairs int64 (P, 2), places of source and target, and their margin scores (P,), the highest first.

    Examples
    --------
    >>> from embedkit.mining.neighbours.tables import Table
    >>> from embedkit.mining.pairs import read_corpus
    >>> settings = BitextSettings(top_k=2, margin="absolute")
    >>> sides = [Table(read_corpus(texts), np.eye(2), "vectors") for texts in (["one", "two"], ["eins", "zwei"])]
    >>> tables = Tables(sides, None, settings, None, {}, None)
    >>> tables.fill(Parts(None))
    >>> bitext(tables, settings, Parts(None))[0].tolist()
    [[0, 0], [1, 1]]
    """
    sources, targets = (len(table.texts.texts) for table in tables.tables)
    forward = _neighbours(tables, 0, min(settings.top_k, targets), parts)
    backward = _neighbours(tables, 1, min(settings.top_k, sources), parts)
    means = [forward[1].mean(axis=1), backward[1].mean(axis=1)]
    best = []
    for side, (places, similarities) in enumerate((forward, backward)):
        both = (means[side][:, None] + means[1 - side][places]) / 2
        scores = margin_scores(similarities, both, settings.margin)
        top = scores.argmax(axis=1)
        rows = np.arange(len(places))
        pairs = np.stack([rows, places[rows, top]], axis=1)
        best.append((pairs if side == 0 else pairs[:, ::-1], scores[rows, top]))
    pairs, scores = _direction(best, settings.direction)
    low = -np.inf if settings.min_score is None else settings.min_score
    fits = np.isfinite(scores) & (scores >= low)
    return pairs[fits][: settings.max_pairs], scores[fits][: settings.max_pairs]


def _neighbours(tables: Tables, side: int, top_k: int, parts: Parts) -> tuple[Array, Array]:
    """Places and similarities (N, top_k) of the nearest of the other side, for each row of `side`."""

    def work(rows: range) -> dict[str, Array]:
        places = np.empty((len(rows), top_k), dtype=np.int64)
        scores = np.empty((len(rows), top_k))
        for row, own_places, own_scores in tables.nearest(side, 1 - side, rows, np.full(len(rows), top_k)):
            places[row - rows.start], scores[row - rows.start] = own_places, own_scores
        return {"places": places, "scores": scores}

    arrays = [part for _, part in tables.run(parts, ("forward", "backward")[side], side, work)]
    return np.concatenate([one["places"] for one in arrays]), np.concatenate([one["scores"] for one in arrays])


def _direction(best: list[tuple[Array, Array]], direction: str) -> tuple[Array, Array]:
    """The pairs of both directions that count, the highest score first, the earlier source first among equal ones."""
    (forward, forward_scores), (backward, backward_scores) = best
    if direction == "forward":
        pairs, scores = forward, forward_scores
    elif direction == "backward":
        pairs, scores = backward, backward_scores
    elif direction == "intersection":
        agree = backward[forward[:, 1], 0] == forward[:, 0]
        pairs, scores = forward[agree], forward_scores[agree]
    else:
        pairs, scores = np.concatenate([forward, backward]), np.concatenate([forward_scores, backward_scores])
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -scores))
    pairs, scores = pairs[order], scores[order]
    if direction != "max":
        return pairs, scores
    sources: set[int] = set()
    targets: set[int] = set()
    picks = []
    for number, (source, target) in enumerate(pairs.tolist()):
        if source not in sources and target not in targets:
            sources.add(source)
            targets.add(target)
            picks.append(number)
    return pairs[picks], scores[picks]
