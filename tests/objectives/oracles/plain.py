"""Scalar helpers of the oracles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Vectors = np.ndarray  # (N, D) fp64


def unit(z: Vectors) -> Vectors:
    """Each row divided by its Euclidean length."""
    return np.array([row / math.sqrt(dot(row, row)) for row in z]).reshape(z.shape)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products."""
    assert a.shape == b.shape
    return float(a @ b)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors."""
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Euclidean distance."""
    return math.sqrt(dot(a - b, a - b))


def table(a: Vectors, b: Vectors) -> np.ndarray:
    """Cosines of all rows of `a` with all rows of `b`."""
    return np.array([[cosine(x, y) for y in b] for x in a])


def lse(values: Iterable[float]) -> float:
    """log of the sum of exponentials; -inf of nothing."""
    values = list(values)
    if not values or max(values) == -math.inf:
        return -math.inf
    top = max(values)
    return top + math.log(sum(math.exp(x - top) for x in values))


def softmax(values: Sequence[float]) -> list[float]:
    """Exponentials divided by their sum."""
    total = lse(values)
    return [math.exp(x - total) for x in values]


def softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return math.exp(-softplus(-x))


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean."""
    values = list(values)
    return sum(values) / len(values)
