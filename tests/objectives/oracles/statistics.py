"""Second-order statistics (sections 1.35 to 1.37)."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, mean


def standardised(z: Vectors, epsilon: float = 0.0) -> Vectors:
    """Each column minus its mean, over its standard deviation of the batch (divisor B), as BatchNorm without affine."""
    out = np.empty_like(z)
    for d in range(z.shape[1]):
        centre = mean(z[:, d])
        spread = math.sqrt(mean((x - centre) ** 2 for x in z[:, d]) + epsilon)
        out[:, d] = [(x - centre) / spread for x in z[:, d]]
    return out


def barlow(z1: Vectors, z2: Vectors, off: float, epsilon: float = 0.0) -> float:
    """Barlow Twins (1.35)."""
    z1, z2 = standardised(z1, epsilon), standardised(z2, epsilon)
    total = 0.0
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            c = mean(z1[b, i] * z2[b, j] for b in range(len(z1)))
            total += (c - 1) ** 2 if i == j else off * c**2
    return total


def corinfomax(pairs: list[tuple[Vectors, Vectors]], state: list, keep: float, epsilon: float) -> tuple[float, float]:
    """CorInfoMax of pairs one after another without weights: invariance, minus log-determinants over D.

    `state` has (mean, covariance) of both sides, and is moved.
    """
    invariance = spread = 0.0
    for pair in pairs:
        size, dim = pair[0].shape
        invariance += mean((x - y) ** 2 for x, y in zip(pair[0].ravel(), pair[1].ravel(), strict=True))
        for side, z in enumerate(pair):
            mu, r = state[side]
            mu = keep * mu + (1 - keep) * np.array([mean(z[:, d]) for d in range(dim)])
            batch = sum(np.outer(row - mu, row - mu) for row in z) / size
            state[side] = mu, keep * r + (1 - keep) * batch
            spread -= math.log(np.linalg.det(state[side][1] + epsilon * np.eye(dim))) / dim
    return invariance, spread


def covariance(z: Vectors) -> np.ndarray:
    """Covariance matrix with divisor B - 1."""
    size, dim = z.shape
    centre = [mean(z[:, d]) for d in range(dim)]
    out = np.empty((dim, dim))
    for i in range(dim):
        for j in range(dim):
            out[i, j] = sum((z[b, i] - centre[i]) * (z[b, j] - centre[j]) for b in range(size)) / (size - 1)
    return out


def vicreg(z1: Vectors, z2: Vectors, epsilon: float = 1e-4) -> tuple[float, float, float]:
    """VICReg (1.36) without weights: invariance, variance (half the sum of both views), covariance (sum of both)."""
    size, dim = z1.shape
    invariance = mean((z1[b, d] - z2[b, d]) ** 2 for b in range(size) for d in range(dim))
    variance = covar = 0.0
    for z in (z1, z2):
        c = covariance(z)
        variance += 0.5 * mean(max(0.0, 1 - math.sqrt(c[d, d] + epsilon)) for d in range(dim))
        covar += sum(c[i, j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
    return invariance, variance, covar


def whitened(z: Vectors, epsilon: float) -> Vectors:
    """Centred rows times the inverse Cholesky factor of (1 - eps) Sigma + eps I (1.37), divisor B - 1."""
    centred = z - np.array([mean(z[:, d]) for d in range(z.shape[1])])
    sigma = (1 - epsilon) * covariance(z) + epsilon * np.eye(z.shape[1])
    factor = np.linalg.cholesky(sigma)  # sigma = factor factor^T
    return np.array([np.linalg.solve(factor, row) for row in centred])


def wmse(views: list[Vectors], blocks: list[list[int]], epsilon: float) -> float:
    """W-MSE (1.37) for one split of the batch into `blocks` of rows: mean of 2 - 2 cos over view pairs and rows."""
    out = [np.empty_like(z) for z in views]
    for block in blocks:
        for source, target in zip(views, out, strict=True):
            target[block] = whitened(source[block], epsilon)
    terms = []
    for a in range(len(views)):
        for b in range(a + 1, len(views)):
            terms += [2 - 2 * cosine(x, y) for x, y in zip(out[a], out[b], strict=True)]
    return mean(terms)


def feature_correlation(pairs: list[tuple[Vectors, Vectors]], weight: float, epsilon: float = 1e-12) -> float:
    """All4One's feature term (1.11): columns scaled to length one over the batch, C = a^T b of each pair (D, D)."""
    on, off = [], []
    for a, b in pairs:
        for i in range(a.shape[1]):
            for j in range(a.shape[1]):
                length = math.sqrt(sum(x * x for x in a[:, i]) * sum(x * x for x in b[:, j]))
                c = sum(x * y for x, y in zip(a[:, i], b[:, j], strict=True)) / length
                if i == j:
                    on.append((c - 1) ** 2)
                else:
                    off.append(c**2)
    return weight * (0.5 * math.sqrt(mean(on) + epsilon) + 0.5 * math.sqrt(mean(off) + epsilon))
