"""One denominator of several directions, hardness, and scores as targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.objectives.cases.pairs import hard, rated, taught
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.metric_learning import joint as one_softmax
from tests.objectives.oracles.plain import cosine, lse, mean


def joint(tau: float, anchors: bool = True, positives: bool = True, back: bool = True, negatives: bool = True,
          margin: float | None = None, relative: float | None = None) -> Oracle:  # fmt: skip
    """GTE's four kinds of pairs, and GISTEmbed's mask."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        owner = facts.owner.get("negatives", [])

        def alike(i: int, one: str, at: int, other: str, to: int, own: bool = False) -> bool:
            """Whether the guide finds a pair more alike than row i's own."""
            if own or not facts.guide:
                return False
            g = facts.guide
            bar = cosine(g["anchor"][i], g["positive"][i])
            bars = [bar - margin] if margin is not None else []
            bars += [bar - abs(bar) * relative] if relative is not None else []
            return cosine(g[one][at], g[other][to]) > min(bars)

        def row(i: int, one: str, other: str, keep: Any) -> list[float]:
            return [cosine(x[one][i], x[other][j]) / tau for j in range(len(x.get(other, ())))
                    if keep(j) and not alike(i, one, i, other, j, (other == "positive" and one == "anchor" and j == i)
                                             or (other == "anchor" and one == "positive" and j == i))]  # fmt: skip

        kinds = [[row(i, "anchor", "positive", lambda j: True) for i in range(facts.size)]]
        kinds.append([row(i, "anchor", "negatives", lambda j: True) for i in range(facts.size)])
        if anchors:
            kinds.append([row(i, "anchor", "anchor", lambda j, i=i: j != i) for i in range(facts.size)])
        if positives:
            kinds.append([row(i, "positive", "positive", lambda j, i=i: j != i) for i in range(facts.size)])
            if negatives:
                kinds.append([row(i, "positive", "negatives", lambda j, i=i: owner[j] != i) for i in range(facts.size)])
        if back:
            kinds.append([row(i, "positive", "anchor", lambda j: True) for i in range(facts.size)])
        return one_softmax(kinds, [cosine(x["anchor"][i], x["positive"][i]) / tau for i in range(facts.size)])

    return loss


def hardness(tau: float, strength: float, harder: str) -> Oracle:
    """e^(strength · cos) as a weight without gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        owner, losses = facts.owner.get("negatives", []), []
        for i in range(facts.size):
            own = cosine(x["anchor"][i], x["positive"][i]) / tau
            logits = [own]
            for name, of_row in (("positive", range(facts.size)), ("negatives", owner)):
                for j, row in enumerate(of_row):
                    if (name, j) != ("positive", i):
                        weighs = {"all": True, "in-batch": row != i, "own": name == "negatives" and row == i}[harder]
                        penalty = strength * cosine(fixed["anchor"][i], fixed[name][j]) if weighs else 0.0
                        logits.append(cosine(x["anchor"][i], x[name][j]) / tau + penalty)
            losses.append(lse(logits) - own)
        return mean(losses)

    return loss


def weighted(tau: float, spread: bool) -> Oracle:
    """CLHAIF: smooth_positive, smooth_all."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        candidates = np.concatenate([x["positive"], x.get("negatives", x["positive"][:0])])
        scores, losses = facts.scores.get("positive", facts.score), []
        for i in range(facts.size):
            logits = [cosine(x["anchor"][i], c) / tau for c in candidates]
            rest = (1 - scores[i]) / (len(logits) - 1) if spread else 0.0
            losses.append(sum((scores[i] if j == i else rest) * (lse(logits) - x) for j, x in enumerate(logits)))
        return mean(losses)

    return loss


def confident(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with a score between 0 and 1."""
    return views(rng, score=np.array([0.2, 0.9, 1.0, 0.0, 0.6]))


def confident_lists(rng: np.random.Generator, step: int) -> Draw:
    """Hard negatives, and a score between 0 and 1 of each candidate."""
    draw = rated(rng, step)
    draw.known["scores"] = {name: 1 / (1 + np.exp(-s)) for name, s in draw.known["scores"].items()}
    return draw


GIST = {"back": False, "negatives": False}
CASES = [
    Case("gte", joint(0.01)),
    Case("gte", joint(0.2), {"temperature": 0.2}, hard, "negatives"),
    Case("gte", joint(0.2, back=False), {"temperature": 0.2, "contrast_back": False}, hard, "no-back"),
    Case("gte", joint(0.2, positives=False), {"temperature": 0.2, "contrast_positives": False}, hard, "no-positives"),
    Case("gte", joint(0.2, False, False), {"temperature": 0.2, "contrast_anchors": False, "contrast_positives": False},
         variant="two-directions"),
    Case("gist", joint(0.01, margin=0.0, **GIST), draw=taught),
    Case("gist", joint(0.1, margin=0.1, **GIST), {"temperature": 0.1, "guide_margin": 0.1}, taught, "margin"),
    Case("gist", joint(0.1, relative=0.5, **GIST),
         {"temperature": 0.1, "guide_margin": None, "guide_relative_margin": 0.5}, taught, "relative"),
    Case("gist", joint(0.1, False, False, margin=0.3, relative=-0.4, **GIST),
         {"temperature": 0.1, "guide_margin": 0.3, "guide_relative_margin": -0.4, "contrast_anchors": False,
          "contrast_positives": False}, taught, "both-margins"),
    Case("llave", hardness(0.02, 9.0, "in-batch"), draw=hard, exempt=("slope",)),
    Case("llave", hardness(0.2, 2.0, "all"), {"temperature": 0.2, "strength": 2.0, "harder": "all"}, hard, "all"),
    Case("llave", hardness(0.2, 5.0, "own"), {"temperature": 0.2, "strength": 5.0, "harder": "own"}, hard, "own"),
    Case("clhaif", weighted(0.05, False), draw=confident),
    Case("clhaif", weighted(0.2, True), {"temperature": 0.2, "by_score": "all"}, confident, "all"),
    Case("clhaif", weighted(0.2, True), {"temperature": 0.2, "by_score": "all"}, confident_lists, "lists"),
]  # fmt: skip
