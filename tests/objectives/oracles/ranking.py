"""Differentiable sorting (section 1.33) and prototypes (1.34)."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, lse, mean, unit


def soft_sort(values: list[float], steepness: float) -> np.ndarray:
    """Odd-even network of soft swaps (Cauchy sigmoid); row r = mix of inputs that ends at place r (ascending)."""
    count = len(values)
    places = np.eye(count)
    current = list(values)
    for layer in range(count):
        for k in range(layer % 2, count - 1, 2):
            a, b = current[k], current[k + 1]
            alpha = 0.5 + math.atan(steepness * (b - a)) / math.pi
            current[k], current[k + 1] = alpha * a + (1 - alpha) * b, (1 - alpha) * a + alpha * b
            low = alpha * places[k] + (1 - alpha) * places[k + 1]
            high = (1 - alpha) * places[k] + alpha * places[k + 1]
            places[k], places[k + 1] = low, high
    return places


def groco_row(positives: list[float], negatives: list[float], steepness: float) -> float:
    """GroCo (1.33) of one anchor: similarities to its positives and to its hardest negatives (all of `negatives`)."""
    values = sorted(negatives) + sorted(positives)
    n, count = len(negatives), len(negatives) + len(positives)
    places = soft_sort(values, steepness)
    loss = 0.0
    for rows, truth in ((range(n, count), range(n, count)), (range(n), range(n))):
        terms = []
        for k in range(count):
            p = min(1.0, max(0.0, sum(places[r, k] for r in rows)))
            terms.append(-math.log(p) if k in truth else -math.log(1 - p))
        loss += 0.5 * mean(terms)
    return loss


def sinkhorn(scores: np.ndarray, epsilon: float, rounds: int) -> np.ndarray:
    """SwAV's codes (1.34): (B, K) rows that sum to 1 from scores (B, K); prototypes are balanced, then samples."""
    size, count = scores.shape
    q = np.array([[math.exp(x / epsilon) for x in row] for row in scores])
    q = q / q.sum()
    for _ in range(rounds):
        for k in range(count):
            q[:, k] = q[:, k] / sum(q[:, k]) / count
        for b in range(size):
            q[b] = q[b] / sum(q[b]) / size
    return q * size


def swav(
    views: list[Vectors], codes: list[np.ndarray], prototypes: Vectors, tau: float, assigned: tuple[int, ...] = (0, 1)
) -> float:
    """SwAV (1.34): each of the assigned views' codes is predicted from every other view; mean over predictions."""
    terms = []
    unit_prototypes = unit(prototypes)
    for i in assigned:
        for v, z in enumerate(views):
            if v == i:
                continue
            for b in range(len(z)):
                logits = [cosine(z[b], c) / tau for c in unit_prototypes]
                total = lse(logits)
                terms.append(-sum(codes[i][b, k] * (x - total) for k, x in enumerate(logits)))
    return mean(terms)
