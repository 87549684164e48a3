"""Sentences in order: context classification and predictive coding."""

from __future__ import annotations

import math

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.plain import dot, lse, mean, sigmoid

# Two documents whose sentences lie across the batch, one with a gap, and a sentence alone.
DOCUMENT = np.array([4, 4, 4, 9, 9, 4, 2, 9])
POSITION = np.array([0, 1, 2, 5, 6, 3, 0, 8])


def ordered(rng: np.random.Generator, step: int, count: int = 2) -> Draw:
    return views(rng, count, len(DOCUMENT), document_id=DOCUMENT, position=POSITION)


def alone(rng: np.random.Generator, step: int) -> Draw:
    return ordered(rng, step, 1)


def near(facts: Facts, i: int, j: int) -> int:
    """How many sentences j stands behind i; 0 for itself and for other documents."""
    assert facts.document_id is not None
    assert facts.position is not None
    return int(facts.position[j] - facts.position[i]) if facts.document_id[i] == facts.document_id[j] else 0


def context(width: int, blank: float | None) -> Oracle:
    """Cross-entropy from an even target over the neighbours; the score of a sentence with itself is `blank`, or out."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        f, g, rows = x["anchor"], x["positive"], []
        for i in range(len(f)):
            scores = [dot(f[i], g[j]) for j in range(len(g))]
            scores[i] = -math.inf if blank is None else blank
            positive = [j for j in range(len(g)) if 0 < abs(near(facts, i, j)) <= width]
            if positive:
                rows.append(mean(lse(scores) - scores[j] for j in positive))
        return mean(rows)

    return loss


def read(z: np.ndarray, x: Arrays) -> list[np.ndarray]:
    """The states of a GRU after each of the vectors, from its equations."""
    size, state, states = z.shape[1], np.zeros(z.shape[1]), []
    cut = [slice(k * size, (k + 1) * size) for k in range(3)]
    w, u, b, c = (x[f"gru.{name}"] for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
    for one in z:
        reset, update = (
            np.array([sigmoid(v) for v in w[k] @ one + b[k] + u[k] @ state + c[k]]) for k in cut[:2]
        )  # fmt: skip
        new = np.tanh(w[cut[2]] @ one + b[cut[2]] + reset * (u[cut[2]] @ state + c[cut[2]]))
        state = (1 - update) * new + update * state
        states.append(state)
    return states


def cpc(offsets: int, gru: bool) -> Oracle:
    """For each offset the mean over the sentences that have such a follower, then the mean over offsets."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z = x["anchor"]
        summary = z.copy()
        if gru:
            for document in set(DOCUMENT.tolist()):
                own = sorted(np.flatnonzero(facts.document_id == document), key=lambda i: facts.position[i])
                for i, state in zip(own, read(z[own], x), strict=True):
                    summary[i] = state
        every = []
        for k in range(1, offsets + 1):
            rows = []
            for i in range(len(z)):
                for j in range(len(z)):
                    if near(facts, i, j) == k:
                        scores = [dot(z[m], x["maps"][k - 1] @ summary[i]) for m in range(len(z))]
                        rows.append(lse(scores) - scores[j])
            every.append(mean(rows))
        return mean(every)

    return loss


EXEMPT = ("length",)
CASES = [
    Case("context", context(1, 0.0), draw=ordered, exempt=EXEMPT),
    Case("context", context(2, None), {"context": 2, "bank": "none"}, ordered, "paper", exempt=EXEMPT),
    Case("cpc", cpc(3, True), draw=alone, exempt=EXEMPT),
    Case("cpc", cpc(2, False), {"offsets": 2, "summary": "last"}, alone, "last", exempt=EXEMPT),
]
