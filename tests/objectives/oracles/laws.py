"""Laws over candidates and divergences between them (sections 1.12, 1.14), and scores other than the cosine."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, distance, mean, unit


def divergence(p: list[float], q: list[float], form: str) -> float:
    """Divergence of two laws over the same candidates; 0 log 0 = 0."""

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    if form == "kl":
        return kl(p, q)
    if form == "reverse-kl":
        return kl(q, p)
    if form == "js":
        middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        return 0.5 * kl(p, middle) + 0.5 * kl(q, middle)
    return -sum(x * math.log(y) for x, y in zip(p, q, strict=True) if x > 0)


def leaked(law: list[float], share: float) -> list[float]:
    """(1 - share) of a law plus share spread evenly."""
    return [(1 - share) * x + share / len(law) for x in law]


def halves(a: np.ndarray, c: np.ndarray, gamma: float, gamma2: float, ratio: float) -> float:
    """Product of kernels (1.17): one distance for each half of a vector, each half a unit vector."""
    cut = len(a) // 2
    a1, c1, a2, c2 = (unit(z[None])[0] for z in (a[:cut], c[:cut], a[cut:], c[cut:]))
    return -(distance(a1, c1) ** gamma) - ratio * distance(a2, c2) ** gamma2


def mean_direction(batches: list[Vectors]) -> np.ndarray:
    """Mean of unit vectors over all rows of all batches (1.21)."""
    every = unit(np.concatenate(batches))
    return np.array([mean(every[:, d]) for d in range(every.shape[1])])
