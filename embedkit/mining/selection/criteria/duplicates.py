"""Near-duplicates: rows whose vectors have a cosine above a threshold."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from embedkit.evaluation.core.stats import Array
from embedkit.mining.selection.base import Context, Example, Outcome, Rule, criteria
from embedkit.mining.selection.neighbours import components, cosines, greedy
from embedkit.mining.vectors import Vectors

Cosine = Annotated[float, Field(gt=-1, le=1)]


@criteria.add("near-duplicates")
def near_duplicates(
    threshold: Cosine = 0.95, keep: Literal["first", "longest"] = "first",
    groups: Literal["greedy", "components"] = "greedy",
) -> Rule:  # fmt: skip
    """One of rows that a model finds nearly the same; the search is exact.

    Parameters
    ----------
    threshold : float
        Cosine from which on two rows are near-duplicates.
    keep : str
        Which row stays: the first, or the one with the longest text.
    groups : str
        ``greedy``: rows are looked at in the order of `keep`; a row is left out when one that stays is near it, so that
        of three rows in a chain the two ends may stay. ``components``: rows that are connected by near-duplicates form
        a group, and one of each group stays.

    Examples
    --------
    >>> import embedkit
    >>> vectors = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0]])
    >>> embedkit.select(["a cat", "the cat", "a dog"], "near-duplicates=0.9", vectors=vectors).rows
    [{'text': 'a cat'}, {'text': 'a dog'}]
    """

    def rule(context: Context, places: Array) -> Outcome:
        vectors = context.rows.of(places)
        order = np.arange(len(places))
        if keep == "longest":
            sizes = np.array([len(str(context.table.rows[place].get(context.subject) or "")) for place in places])
            order = np.argsort(-sizes, kind="stable")
        if groups == "greedy":
            heads = greedy(vectors, order, threshold)
        else:
            roots = components(vectors, threshold)
            best = np.full(len(places), -1)
            for row in order[::-1]:  # the first in order is written last
                best[roots[row]] = row
            heads = best[roots]
        left_out = np.flatnonzero(heads != np.arange(len(places)))
        scores = _scores(vectors, left_out, heads)
        examples = [
            Example(int(places[row]), int(places[heads[row]]), float(score))
            for row, score in zip(left_out, scores, strict=True)
        ]
        sizes = np.bincount(heads, minlength=len(places))
        details = {"groups": int((sizes > 1).sum()), "largest_group": int(sizes.max(initial=0))}
        return Outcome(places[heads == np.arange(len(places))], examples, details)

    return rule


def _scores(vectors: Vectors, rows: Array, heads: Array) -> Array:
    """The cosine of each of the rows and the one that stays in its place."""
    parts = [
        cosines(vectors.rows(part), vectors.rows(heads[part]))
        for part in np.array_split(rows, max(1, len(rows) // 16_384))
        if len(part)
    ]
    return np.concatenate(parts) if parts else np.empty(0)
