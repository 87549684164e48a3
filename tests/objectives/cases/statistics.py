"""Second-order statistics."""

from __future__ import annotations

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, views
from tests.objectives.oracles import statistics as oracle


def wide(rng: np.random.Generator, step: int) -> Draw:
    """More rows than columns, so that covariances are regular."""
    return views(rng, size=7, dim=3)


def three(rng: np.random.Generator, step: int) -> Draw:
    """Three views."""
    return views(rng, count=3, size=7, dim=3)


def guided(rng: np.random.Generator, step: int) -> Draw:
    """Two views, and the guide's vectors of both."""
    draw = views(rng, size=7, dim=3)
    guide = {name: z + 0.3 * rng.normal(size=z.shape) for name, z in draw.vectors.items()}
    return Draw(draw.vectors, {"guide": guide})


def barlow(off: float, eps: float, scale: float = 1.0):
    """Oracle of Barlow Twins."""
    return lambda x, fixed, facts: scale * oracle.barlow(x["anchor"], x["positive"], off, eps)


def crossed(x: Arrays, facts: Facts) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each view with the guide's vectors of the other."""
    return [(x["anchor"], facts.guide["positive"]), (x["positive"], facts.guide["anchor"])]


def barlow_guide(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Barlow Twins with a trained scale and shift, against the guide."""
    total = 0.0
    for a, b in crossed(x, facts):
        a, b = (oracle.standardised(z, 1e-5) * x["weight"] + x["bias"] for z in (a, b))
        c = a.T @ b / len(a)
        total += ((np.diag(c) - 1) ** 2).sum() + 0.0051 * ((c**2).sum() - (np.diag(c) ** 2).sum())
    return float(total)


def vicreg_guide(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """VICReg of both crossed pairs."""
    losses = [oracle.vicreg(a, b) for a, b in crossed(x, facts)]
    return sum(25 * i + 25 * v + c for i, v, c in losses)


def corinfomax(inv: float, cov: float, keep: float, eps: float, guide: bool = False):
    """Oracle of CorInfoMax; state from the history, without gradient, from one pair of a step to the next too."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        dim = x["anchor"].shape[1]
        state = [(np.zeros(dim), np.eye(dim)) for _ in range(2)]
        for draw in facts.history:
            past = draw.vectors
            if guide:
                slow = draw.known["guide"]
                pairs = [(past["anchor"], slow["positive"]), (past["positive"], slow["anchor"])]
            else:
                pairs = [(past["anchor"], past["positive"])]
            oracle.corinfomax(pairs, state, keep, eps)
        total = 0.0
        for place in range(2 if guide else 1):
            own, still = (crossed(z, facts)[place] if guide else (z["anchor"], z["positive"]) for z in (x, fixed))
            i, s = oracle.corinfomax([own], list(state), keep, eps)
            oracle.corinfomax([still], state, keep, eps)
            total += inv * i + cov * s
        return total

    return loss


def vicreg(inv: float, var: float, cov: float):
    """Oracle of VICReg."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        i, v, c = oracle.vicreg(x["anchor"], x["positive"])
        return inv * i + var * v + cov * c

    return loss


def wmse(*names: str):
    """Oracle of W-MSE with the whole batch as one block."""
    return lambda x, fixed, facts: oracle.wmse([x[n] for n in names], [list(range(len(x["anchor"])))], 1e-4)


def correlation(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """All4One's feature term with the paper's weight 10."""
    pairs = [(facts.guide["anchor"], x["positive"]), (facts.guide["positive"], x["anchor"])]
    return oracle.feature_correlation(pairs, weight=10.0)


CASES = [
    Case("barlow-twins", barlow(0.0051, 1e-5), draw=wide, exempt=("length",)),
    Case(
        "barlow-twins", barlow(0.2, 1e-9, 0.025), {"off_diagonal": 0.2, "scale": 0.025, "eps": 1e-9}, wide, "settings"
    ),
    Case("vicreg", vicreg(25, 25, 1), draw=wide, exempt=("length",)),
    Case("vicreg", vicreg(2, 3, 4), {"invariance": 2, "variance": 3, "covariance": 4}, wide, "settings"),
    Case("barlow-twins", barlow_guide, {"keys": "guide", "affine": True}, guided, "guide"),
    Case("vicreg", vicreg_guide, {"keys": "guide"}, guided, "guide"),
    Case("corinfomax", corinfomax(2000, 0.2, 0.01, 1e-6), draw=wide, warm=2, exempt=("length",)),
    Case(
        "corinfomax",
        corinfomax(3, 2, 0.3, 0.1),
        {"invariance": 3, "covariance": 2, "keep": 0.3, "eps": 0.1},
        wide,
        "settings",
        warm=2,
    ),
    Case("corinfomax", corinfomax(2000, 0.2, 0.01, 1e-6, True), {"keys": "guide"}, guided, "guide", warm=2),
    Case("w-mse", wmse("anchor", "positive"), draw=wide, exempt=("order",)),
    Case("w-mse", wmse("anchor", "positive", "view3"), draw=three, variant="three-views"),
    Case("feature-correlation", correlation, draw=guided),
]
