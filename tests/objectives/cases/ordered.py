"""Objectives on ordered things from their formulas: pairs of past and future, alignments, cycles, orders, bridges."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.objectives.cases.sequences import alone, near, ordered, read
from tests.objectives.harness import Arrays, Case, Facts, Oracle
from tests.objectives.oracles.plain import dot, lse, mean


def runs(facts: Facts, count: int) -> list[list[int]]:
    """Rows that follow one another in a document."""
    size = len(facts.position)  # type: ignore[arg-type]
    every = []
    for i in range(size):
        run = [i, *(j for d in range(1, count) for j in range(size) if near(facts, i, j) == d)]
        if len(run) == count:
            every.append(run)
    return every


def bidirectional(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    z, triples = x["anchor"], runs(facts, 3)
    rows = []
    for p, q, f in triples:
        query = x["map"] @ z[q]
        scores = [dot(query, np.concatenate([z[a], z[c]])) for a, _, c in triples]
        scores.append(dot(query, np.concatenate([z[f], z[p]])))
        rows.append(lse(scores) - dot(query, np.concatenate([z[p], z[f]])))
    return mean(rows)


def aligned(offsets: int, followers: int, gru: bool) -> Oracle:
    """The best of all alignments, tried one by one."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z = x["anchor"]
        summary = z.copy()
        if gru:
            assert facts.document_id is not None and facts.position is not None
            for document in set(facts.document_id.tolist()):
                own = sorted(np.flatnonzero(facts.document_id == document), key=lambda i: facts.position[i])  # type: ignore[index]
                for i, state in zip(own, read(z[own], x), strict=True):
                    summary[i] = state
        rows = []
        for first, *after in runs(facts, followers + 1):
            logs = []
            for k in range(offsets):
                scores = [dot(one, x["maps"][k] @ summary[first]) for one in z]
                logs.append([scores[j] - lse(scores) for j in after])
            ways = [
                way for way in itertools.combinations_with_replacement(range(offsets), followers)
                if set(way) == set(range(offsets))
            ]  # fmt: skip
            rows.append(-max(mean(logs[k][m] for m, k in enumerate(way)) for way in ways))
        return mean(rows)

    return loss


def cycle(temperature: float) -> Oracle:
    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        u, v, rows = x["anchor"], x["positive"], []
        assert facts.document_id is not None
        for i in range(len(u)):
            own = np.flatnonzero(facts.document_id == facts.document_id[i])
            if len(own) < 2:
                continue
            way = np.exp([-((u[i] - v[j]) ** 2).sum() / temperature for j in own])
            near_one = (way / way.sum()) @ v[own]
            back = [-((near_one - u[k]) ** 2).sum() / temperature for k in own]
            rows.append(lse(back) - back[own.tolist().index(i)])
        return mean(rows)

    return loss


def order(count: int) -> Oracle:
    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, rows = x["anchor"], []
        for run in runs(facts, count):
            for number, way in enumerate(itertools.permutations(run)):
                hidden = np.maximum(x["first.weight"] @ np.concatenate([z[i] for i in way]) + x["first.bias"], 0)
                scores = (x["second.weight"] @ hidden + x["second.bias"]).tolist()
                rows.append(lse(scores) - scores[number])
        return mean(rows)

    return loss


def bridge(span: int) -> Oracle:
    """-l_ii + log(sum_j e^l_ij + 1e-6), bridges whose time does not hold left out."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, time = x["anchor"], facts.position
        assert time is not None
        triples = [(run[0], run[j], run[-1]) for run in runs(facts, span) for j in range(1, span - 1)]
        rows = []
        for own, (_, middle, _) in enumerate(triples):
            scores = []
            for a, _, b in triples:
                length = float(time[b] - time[a])
                share = float(time[middle] - time[a]) / length
                spread = share * float(time[b] - time[middle])
                gap = z[middle] - (1 - share) * z[a] - share * z[b]
                scores.append(-dot(gap, gap) / (2 * spread + 1e-6) if spread > 0 else -math.inf)
            rows.append(lse([*scores, math.log(1e-6)]) - scores[own])
        return mean(rows)

    return loss


EXEMPT = ("length",)
CASES = [
    Case("bidirectional", bidirectional, draw=alone, exempt=EXEMPT),
    Case("aligned-cpc", aligned(2, 3, True), draw=alone, exempt=EXEMPT),
    Case("aligned-cpc", aligned(1, 2, False), {"offsets": 1, "followers": 2, "summary": "last"}, alone, "last",
         exempt=EXEMPT),
    Case("temporal-cycle", cycle(1.0), draw=ordered, exempt=EXEMPT),
    Case("temporal-cycle", cycle(0.5), {"temperature": 0.5}, ordered, "half", exempt=EXEMPT),
    Case("order", order(3), draw=alone, exempt=EXEMPT),
    Case("order", order(2), {"count": 2}, alone, "two", exempt=EXEMPT),
    Case("bridge", bridge(3), draw=alone, exempt=EXEMPT),
    Case("bridge", bridge(4), {"span": 4}, alone, "four", exempt=EXEMPT),
]  # fmt: skip
