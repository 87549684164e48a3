"""The reference order of evaluation (section 3.1b) over explicit pairs: any positives, any negatives, any weights."""

from __future__ import annotations

import math
from collections.abc import Callable

from .plain import lse, softplus

Pair = Callable[[int, int], float]
Test = Callable[[int, int], bool]


def row_out(positives: list[float], negatives: list[float], own: float, others: float,
            prior: float = 0.0, lowest: float | None = None, omega: float = 1.0) -> float:  # fmt: skip
    """Reducer R1: mean over positives of -omega l_p + log(own e^l_p + others sum of other positives + D)."""
    total = 0.0
    for p, logit in enumerate(positives):
        rest = sum(math.exp(x) for q, x in enumerate(positives) if q != p)
        inside = own * math.exp(logit) + others * rest + debias(positives, negatives, prior, lowest)
        total += (math.log(inside) if inside > 0 else 0.0) - omega * logit
    return total / len(positives)


def row_in(positives: list[float], negatives: list[float], own: float, others: float,
           prior: float = 0.0, lowest: float | None = None) -> float:  # fmt: skip
    """Reducer R2: -log of the mean over positives of e^l_p / (own e^l_p + others sum of other positives + D)."""
    total = 0.0
    for p, logit in enumerate(positives):
        rest = sum(math.exp(x) for q, x in enumerate(positives) if q != p)
        total += math.exp(logit) / (own * math.exp(logit) + others * rest + debias(positives, negatives, prior, lowest))
    return -math.log(total / len(positives))


def row_sigmoid(positives: list[float], negatives: list[float]) -> float:
    """Reducer R3: softplus(-l) over positives, softplus(l) over negatives, summed."""
    return sum(softplus(-x) for x in positives) + sum(softplus(x) for x in negatives)


def debias(positives: list[float], negatives: list[float], prior: float, lowest: float | None) -> float:
    """max((sum e^l - prior n mean e^l_pos) / (1 - prior), n e^lowest); the plain sum without a prior."""
    total = sum(math.exp(x) for x in negatives)
    if prior == 0.0:
        return total
    assert lowest is not None
    positive = sum(math.exp(x) for x in positives) / len(positives)
    return max((total - prior * len(negatives) * positive) / (1 - prior), len(negatives) * math.exp(lowest))


def hard_weighted(negatives: list[float], beta: float) -> list[float]:
    """Logits plus the log of weights e^(beta l) with mean one: what HCL and HN-NCE sum."""
    if not negatives:
        return []
    norm = lse(beta * x for x in negatives) - math.log(len(negatives))
    return [x + beta * x - norm for x in negatives]


def rows(count: int, width: int, logit: Pair, positive: Test, negative: Test) -> list[tuple[list[float], list[float]]]:
    """Positive and negative logits of each anchor, by two tests of (anchor, candidate)."""
    out = []
    for i in range(count):
        p = [logit(i, j) for j in range(width) if positive(i, j)]
        n = [logit(i, j) for j in range(width) if not positive(i, j) and negative(i, j)]
        out.append((p, n))
    return out
