"""Contrast of sets from its formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.plain import cosine, lse, mean


def members(objective: Any, draw: Draw) -> dict[str, np.ndarray]:
    """The rows of each set of each order, in the order of the sets, with -1 between two of them."""
    orders = [[[*rows.tolist(), -1] for rows in sets] for sets in objective.sets(draw.batch())]
    return {f"order{k}": np.concatenate(sets) for k, sets in enumerate(orders)}


def sets(temperature: float, first: Any, second: Any) -> Oracle:
    """Mean over the sets of log sum - own score."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        losses = []
        for k in range(2):
            groups: list[list[int]] = [[]]
            for row in facts.state[f"order{k}"].tolist():
                groups = [*groups, []] if row < 0 else [*groups[:-1], [*groups[-1], row]]
            groups = groups[:-1]
            assert sorted(row for group in groups for row in group) == list(range(facts.size))
            own = [[float(first(x["anchor"][g, d])) for d in range(x["anchor"].shape[1])] for g in groups]
            other = [[float(second(x["positive"][g, d])) for d in range(x["anchor"].shape[1])] for g in groups]
            for i, vector in enumerate(own):
                scores = [cosine(np.array(vector), np.array(o)) / temperature for o in other]
                losses.append(lse(scores) - scores[i])
        return mean(losses)

    return loss


def seven(rng: np.random.Generator, step: int) -> Draw:
    """Rows that make no whole number of sets."""
    return views(rng, size=7, dim=3)


CASES = [
    Case("set-contrast", sets(0.2, np.mean, np.mean), {"size": 2, "orders": 2}, seven, peek=members,
         exempt=("order",)),
    Case("set-contrast", sets(0.7, np.max, np.min), {
        "size": 3, "orders": 2, "temperature": 0.7, "pooling": "max", "positive_pooling": "min",
    }, seven, "pooling", peek=members),
]  # fmt: skip
