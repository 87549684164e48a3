"""Objectives on more than two views, and instance-wise ones (sections 1.13 to 1.16, 1.32). `z` is (B, V, D)."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, distance, dot, lse, mean, softmax, unit


def poly_view(z: np.ndarray, tau: float, form: str) -> float:
    """Poly-View (1.15): geometric (mean of logs) or arithmetic (log of mean) over the M-1 positives of an anchor."""
    size, views, _ = z.shape
    total = 0.0
    for i in range(size):
        for a in range(views):
            repel = [cosine(z[i, a], z[j, g]) / tau for j in range(size) if j != i for g in range(views)]
            logs = []
            for b in range(views):
                if b != a:
                    positive = cosine(z[i, a], z[i, b]) / tau
                    logs.append(positive - lse([positive, *repel]))
            total -= mean(logs) if form == "geometric" else math.log(mean(math.exp(x) for x in logs))
    return total / (size * views)


def poly_view_statistics(z: np.ndarray, tau: float) -> float:
    """Poly-View with sufficient statistics (1.15): the positive is the mean of the other unit views of a sample.

    The dot product with the means, which are not normalised again; all leave-one-out means of other samples repel.
    """
    size, views, dim = z.shape
    z = unit(z.reshape(-1, dim)).reshape(z.shape)
    rest = np.array(
        [[sum(z[i, b] for b in range(views) if b != a) / (views - 1) for a in range(views)] for i in range(size)]
    )
    total = 0.0
    for i in range(size):
        for a in range(views):
            positive = dot(z[i, a], rest[i, a]) / tau
            repel = [dot(z[i, a], rest[j, g]) / tau for j in range(size) if j != i for g in range(views)]
            total += lse([positive, *repel]) - positive
    return total / (size * views)


def mv_infonce(z: np.ndarray, tau: float) -> float:
    """MV-InfoNCE (1.16): one term an instance; one denominator over all its views, same-view negatives included."""
    size, views, _ = z.shape
    everything = [(j, m) for j in range(size) for m in range(views)]
    total = 0.0
    for i in range(size):
        pairs = [cosine(z[i, a], z[i, b]) / tau for a in range(views) for b in range(views) if a != b]
        table = [cosine(z[i, a], z[j, m]) / tau for a in range(views) for j, m in everything if (j, m) != (i, a)]
        total += lse(table) - lse(pairs)
    return total / size


def mv_dhel(z: np.ndarray, tau: float) -> float:
    """MV-DHEL (1.16): pairs of an instance together, negatives inside the same view."""
    size, views, _ = z.shape
    total = 0.0
    for i in range(size):
        total -= lse(cosine(z[i, a], z[i, b]) / tau for a in range(views) for b in range(a + 1, views))
        for a in range(views):
            total += lse(cosine(z[i, a], z[j, a]) / tau for j in range(size) if j != i)
    return total / size


def cacr(z: np.ndarray, fixed: np.ndarray, tau_pos: float, tau_neg: float) -> tuple[float, float]:
    """CACR (1.13), small scale: (attraction, repulsion). Weights from `fixed`; pass `z` again to let gradients through.

    Attraction: each view is a query, its other views are positives. Repulsion: mean over view pairs x < y, i != j.
    """
    size, views, dim = z.shape
    z = unit(z.reshape(-1, dim)).reshape(z.shape)
    fixed = unit(fixed.reshape(-1, dim)).reshape(fixed.shape)

    def square(source: np.ndarray, i: int, a: int, j: int, b: int) -> float:
        return distance(source[i, a], source[j, b]) ** 2

    attract = []
    for i in range(size):
        for a in range(views):
            others = [b for b in range(views) if b != a]
            weights = softmax([tau_pos * square(fixed, i, a, i, b) for b in others])
            attract.append(sum(w * square(z, i, a, i, b) for w, b in zip(weights, others, strict=True)))
    repel = []
    for a in range(views):
        for b in range(a + 1, views):
            for i in range(size):
                others = [j for j in range(size) if j != i]
                weights = softmax([-tau_neg * square(fixed, i, a, j, b) for j in others])
                repel.append(-sum(w * square(z, i, a, j, b) for w, j in zip(weights, others, strict=True)))
    return mean(attract), mean(repel)


def decoupled_uniformity(z: np.ndarray, t: float, prior: np.ndarray | None = None, ridge: float = 0.01) -> float:
    """Decoupled uniformity (1.32) of centroids; `prior` is a kernel K (B, B), A = (K + ridge I)^-1 K."""
    size, views, dim = z.shape
    z = unit(z.reshape(-1, dim)).reshape(z.shape)
    centroids = np.array([sum(z[i, v] for v in range(views)) / views for i in range(size)])
    if prior is not None:
        centroids = np.linalg.inv(prior + ridge * np.eye(size)) @ prior @ centroids
    terms = [-t * distance(centroids[i], centroids[j]) ** 2 for i in range(size) for j in range(size) if i != j]
    return lse(terms) - math.log(len(terms))


def rbf(x: Vectors, sigma: float) -> np.ndarray:
    """Kernel e^(-|x - x'|^2 / (2 sigma^2))."""
    return np.array([[math.exp(-(distance(a, b) ** 2) / (2 * sigma**2)) for b in x] for a in x])


def care(z1: Vectors, z2: Vectors, chunks: int) -> float:
    """CARE's equivariance term (1.39): Gram matrices of both views must agree inside each chunk."""
    z1, z2 = unit(z1), unit(z2)
    size = len(z1) // chunks
    terms = []
    for start in range(0, len(z1), size):
        rows = range(start, start + size)
        square = sum((dot(z1[i], z1[j]) - dot(z2[i], z2[j])) ** 2 for i in rows for j in rows if i != j)
        terms.append(2 * square / size)
    return mean(terms)
