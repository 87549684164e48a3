"""Sigmoid, potential, similarity-score and regression objectives (sections 1.28 to 1.31, 1.38 and part of 2)."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, distance, dot, lse, mean, sigmoid, softplus, unit


def siglip(u: Vectors, t: Vectors, scale: float, bias: float) -> float:
    """SigLIP (1.28): softplus(-y l) summed over all B^2 pairs, divided by B."""
    size, total = len(u), 0.0
    for i in range(size):
        for j in range(size):
            sign = 1 if i == j else -1
            total += softplus(-sign * (scale * cosine(u[i], t[j]) + bias))
    return total / size


def align(z1: Vectors, z2: Vectors, alpha: float) -> float:
    """Alignment (1.30): mean distance of pairs of unit vectors to the power alpha."""
    return mean(distance(a, b) ** alpha for a, b in zip(unit(z1), unit(z2), strict=True))


def uniform(z: Vectors, t: float) -> float:
    """Uniformity (1.30): log mean over unordered pairs of e^(-t d^2)."""
    z = unit(z)
    terms = [-t * distance(z[i], z[j]) ** 2 for i in range(len(z)) for j in range(i + 1, len(z))]
    return lse(terms) - math.log(len(terms))


def capped(z: Vectors, mu: float) -> Vectors:
    """Spectral's projection (1.31): rows longer than sqrt(mu) are cut to that length."""
    return np.array([row * min(1.0, math.sqrt(mu / dot(row, row))) for row in z])


def spectral(z1: Vectors, z2: Vectors, mu: float) -> float:
    """Spectral contrastive loss (1.31) of capped rows, without the code's division by mu."""
    z1, z2 = capped(z1, mu), capped(z2, mu)
    size = len(z1)
    pairs = mean(dot(z1[i], z2[i]) for i in range(size))
    squares = mean(dot(z1[i], z2[j]) ** 2 for i in range(size) for j in range(size) if i != j)
    return -2 * pairs + squares


def simsiam(p1: Vectors, z1: Vectors, p2: Vectors, z2: Vectors) -> float:
    """SimSiam (1.38): -1/2 of both cosines of predictions with the other view's targets."""
    ab = mean(cosine(p, z) for p, z in zip(p1, z2, strict=True))
    ba = mean(cosine(p, z) for p, z in zip(p2, z1, strict=True))
    return -0.5 * (ab + ba)


def byol(p: Vectors, target: Vectors) -> float:
    """BYOL (1.38), one direction: mean of 2 - 2 cos."""
    return mean(2 - 2 * cosine(a, b) for a, b in zip(p, target, strict=True))


def ordered_pairs(scores: np.ndarray, similarity: list[float], scale: float) -> float:
    """CoSENT: log(1 + sum over rows i, j with score_i > score_j of e^(scale (sim_j - sim_i)))."""
    terms = [0.0]
    for i in range(len(scores)):
        for j in range(len(scores)):
            if scores[i] > scores[j]:
                terms.append(scale * (similarity[j] - similarity[i]))
    return lse(terms)


def angle_similarity(x: np.ndarray, y: np.ndarray) -> float:
    """AnglE's similarity of two vectors: halves are real and imaginary parts; |sum of the parts of x/y normalised|.

    z = x / y as complex numbers, divided by |x| / |y|; the absolute value of the sum of real and imaginary parts.
    """
    half = len(x) // 2
    quotient = 0.0
    length = sum(v * v for v in y)
    for k in range(half):
        a, b, c, d = x[k], x[half + k], y[k], y[half + k]
        quotient += ((a * c + b * d) + (b * c - a * d)) / length
    return abs(quotient / (math.sqrt(sum(v * v for v in x)) / math.sqrt(length)))


def bce(logit: float, target: float) -> float:
    """Binary cross entropy of sigmoid(logit)."""
    return -target * math.log(sigmoid(logit)) - (1 - target) * math.log(sigmoid(-logit))


def energy_hinge(z: Vectors, p: Vectors, hard: Vectors, margin: float) -> float:
    """PromCSE (eq. 6): margin plus the hardest of other positives and all hard negatives, less the positive."""
    terms = []
    for i in range(len(z)):
        rivals = [cosine(z[i], p[j]) for j in range(len(p)) if j != i] + [cosine(z[i], n) for n in hard]
        terms.append(max(0.0, margin + max(rivals) - cosine(z[i], p[i])) if rivals else 0.0)
    return mean(terms)


def margin_mse(student: list[float], teacher: list[float]) -> float:
    """Mean square of the student's margin less the teacher's."""
    return mean((s - t) ** 2 for s, t in zip(student, teacher, strict=True))


def predictor(z: Vectors, first: np.ndarray, scale: np.ndarray, shift: np.ndarray, second: np.ndarray,
              bias: np.ndarray, epsilon: float = 1e-5) -> Vectors:  # fmt: skip
    """Linear without bias, BatchNorm over the rows, ReLU, Linear (1.38)."""
    hidden = np.array([[dot(w, row) for w in first] for row in z])
    for h in range(hidden.shape[1]):
        column = hidden[:, h].copy()
        centre = mean(column)
        spread = math.sqrt(mean((x - centre) ** 2 for x in column) + epsilon)
        hidden[:, h] = [max(0.0, (x - centre) / spread * scale[h] + shift[h]) for x in column]
    return np.array([[dot(w, row) + b for w, b in zip(second, bias, strict=True)] for row in hidden])
