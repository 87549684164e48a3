"""Softmax-ratio objectives on two views or two towers."""

from __future__ import annotations

import math

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles import general, pairs, softmax
from tests.objectives.oracles.plain import cosine, mean

HARD = [1, 2, 0, 3, 1]


def hard(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with any number of hard negatives a row."""
    return views(rng, hard=HARD)


def labelled(rng: np.random.Generator, step: int) -> Draw:
    """Two views of rows of three classes."""
    return views(rng, label=np.array([0, 1, 0, 2, 0]))


def grouped(rng: np.random.Generator, step: int) -> Draw:
    """Rows 1 and 3 belong to one group; hard negatives."""
    return views(rng, hard=HARD, group=np.array([10, 11, 12, 11, 13]))


def mean_of(rows: Oracle) -> Oracle:
    """The mean of an oracle that returns one loss a row."""
    return lambda x, fixed, facts: mean(rows(x, fixed, facts))


def infonce(tau: float) -> Oracle:
    """One way, hard negatives when there are any."""
    return lambda x, fixed, facts: mean(softmax.infonce_rows(x["anchor"], x["positive"], tau, x.get("negatives")))


def ntxent(tau: float) -> Oracle:
    """Mean over the 2B anchors."""
    return lambda x, fixed, facts: mean(softmax.ntxent_rows(x["anchor"], x["positive"], tau))


def clip(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Learnt scale."""
    return softmax.clip(x["anchor"], x["positive"], math.exp(x["scale.log_scale"]))


def siglip(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Learnt scale and bias."""
    return pairs.siglip(x["anchor"], x["positive"], math.exp(x["scale.log_scale"]), float(x["scale.bias"]))


def supcon(tau: float, base: float, inside: bool) -> Oracle:
    """All views anchor; the anchors of a row without another row of its class have their own other view."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z = np.concatenate([x["anchor"], x["positive"]])
        return tau / base * mean(softmax.supcon_rows(z, list(facts.label) * 2, tau, inside))

    return loss


def without_group(tau: float) -> Oracle:
    """InfoNCE in which other rows' positives of the anchor's group do not count. A hard negative has no group."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        candidates = np.concatenate([x["positive"], x["negatives"]])
        size, group = facts.size, [*facts.group, *(-1 for _ in x["negatives"])]
        rows = general.rows(
            size,
            len(candidates),
            lambda i, j: cosine(x["anchor"][i], candidates[j]) / tau,
            lambda i, j: i == j,
            lambda i, j: group[j] != group[i],
        )
        return mean(general.row_out(p, n, 1.0, 0.0) for p, n in rows)

    return loss


CASES = [
    Case("infonce", infonce(0.05)),
    Case("infonce", infonce(0.3), {"temperature": 0.3}, hard, "hard"),
    Case("infonce", without_group(0.3), {"temperature": 0.3}, grouped, "groups"),
    Case("table", infonce(0.05)),
    Case("ntxent", ntxent(0.1)),
    Case("clip", clip),
    Case("siglip", siglip),
    Case("supcon", supcon(0.07, 0.07, False), draw=labelled),
    Case("supcon", supcon(0.3, 0.07, False), {"temperature": 0.3}, labelled, "temperature"),
]
