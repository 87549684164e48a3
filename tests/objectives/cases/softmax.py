"""Softmax-ratio objectives on two views or two towers."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def masked(tau: float, dropped: Callable[[Facts, int, int], bool], shift: float = 0.0) -> Oracle:
    """InfoNCE over positives and hard negatives without the pairs (anchor, candidate) that are dropped.

    `shift` is added to the logits of an anchor's own hard negatives.
    """

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        candidates = np.concatenate([x["positive"], x["negatives"]])
        owner = [*facts.owner["positive"], *facts.owner["negatives"]]
        size = facts.size
        rows = general.rows(
            size,
            len(candidates),
            lambda i, j: cosine(x["anchor"][i], candidates[j]) / tau + shift * (j >= size and owner[j] == i),
            lambda i, j: i == j,
            lambda i, j: not dropped(facts, i, j),
        )
        return mean(general.row_out(p, n, 1.0, 0.0) for p, n in rows)

    return loss


def equal_input(facts: Facts, i: int, j: int) -> bool:
    """The candidate, or its row's anchor, is the same input as the anchor or its positive."""
    keys, size = facts.keys, facts.size
    mine = {keys["anchor"][i], keys["positive"][i]}
    if j < size:
        return bool(mine & {keys["anchor"][j], keys["positive"][j]})
    return keys["negatives"][j - size] in mine


def like_by_guide(margin: float) -> Callable[[Facts, int, int], bool]:
    """The guide finds the candidate more like the anchor than its positive, less the margin."""

    def dropped(facts: Facts, i: int, j: int) -> bool:
        guide = facts.guide
        candidates = np.concatenate([guide["positive"], guide["negatives"]])
        return cosine(guide["anchor"][i], candidates[j]) > cosine(guide["anchor"][i], candidates[i]) - margin

    return dropped


def duplicates(rng: np.random.Generator, step: int) -> Draw:
    """Rows 0 and 2 share an anchor, rows 1 and 4 a positive; one hard negative is row 3's positive."""
    draw = hard(rng, step)
    keys = {
        "anchor": np.array([1, 2, 1, 4, 5]),
        "positive": np.array([11, 12, 13, 14, 12]),
        "negatives": np.array([21, 14, 23, 24, 25, 26, 27]),
    }
    return Draw(draw.vectors, {**draw.known, "keys": keys})


def guided(rng: np.random.Generator, step: int) -> Draw:
    """Hard negatives and a guide of another size."""
    draw = hard(rng, step)
    guide = {name: rng.normal(size=(len(z), 3)) for name, z in draw.vectors.items()}
    return Draw(draw.vectors, {**draw.known, "guide": guide})


def both_with_hard(tau: float) -> Oracle:
    """Hard negatives are candidates of the anchors only; the two directions added."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows = mean(softmax.infonce_rows(x["anchor"], x["positive"], tau, x["negatives"]))
        return rows + mean(softmax.infonce_rows(x["positive"], x["anchor"], tau))

    return loss


def columns(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Positives look at anchors."""
    return mean(softmax.infonce_rows(x["positive"], x["anchor"], 0.05))


def summed(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """SimCLR's code: the mean over view 1 plus the mean over view 2."""
    return 2 * mean(softmax.ntxent_rows(x["anchor"], x["positive"], 0.1))


def dots(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """CPC's score."""
    return mean(softmax.dot_infonce_rows(x["anchor"], x["positive"]))


WARM = {"temperature": 0.3}

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
    Case("infonce", masked(0.3, equal_input), {**WARM, "equal_inputs": True}, duplicates, "duplicates"),
    Case("infonce", masked(0.3, like_by_guide(0.0)), {**WARM, "guide_margin": 0.0}, guided, "guide"),
    Case("infonce", masked(0.3, like_by_guide(0.3)), {**WARM, "guide_margin": 0.3}, guided, "guide-margin"),
    Case("infonce", masked(0.3, lambda *_: False, 1.5), {**WARM, "hard_negative_weight": 1.5}, hard, "hard-weight"),
    Case("infonce", both_with_hard(0.3), {**WARM, "direction": "both", "combine": "sum"}, hard, "both-hard"),
    Case("infonce", columns, {"direction": "columns"}, variant="columns"),
    Case("infonce", dots, {"score": "dot", "temperature": 1.0}, variant="dot"),
    Case("ntxent", summed, {"combine": "sum"}, variant="sum"),
]
