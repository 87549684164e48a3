"""Softmax-ratio objectives on two views or two towers (sections 1.1 to 1.7, 1.17 to 1.19, 1.21, 2.9).

A function that ends in ``_rows`` returns one loss for each anchor: the caller takes the mean or the sum.
"""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, distance, lse, mean, softmax, table, unit


def other_views(z1: Vectors, z2: Vectors) -> list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """(anchor, positive, 2B-2 negatives) of all 2B anchors; the anchors of view 1 first."""
    size, rows = len(z1), []
    for own, other in ((z1, z2), (z2, z1)):
        for i in range(size):
            negatives = [own[k] for k in range(size) if k != i] + [other[k] for k in range(size) if k != i]
            rows.append((own[i], other[i], negatives))
    return rows


def infonce_rows(a: Vectors, c: Vectors, tau: float, hard: Vectors | None = None) -> list[float]:
    """One-way InfoNCE: row i of `c` is the positive of row i of `a`; all other rows, and all of `hard`, repel."""
    rows = []
    for i in range(len(a)):
        logits = [cosine(a[i], x) / tau for x in c]
        logits += [cosine(a[i], x) / tau for x in (hard if hard is not None else [])]
        rows.append(lse(logits) - logits[i])
    return rows


def dot_infonce_rows(a: Vectors, c: Vectors) -> list[float]:
    """CPC's term of one step (1.26): bilinear score without normalisation and temperature."""
    rows = []
    for i in range(len(a)):
        logits = [float(np.dot(a[i], x)) for x in c]
        rows.append(lse(logits) - logits[i])
    return rows


def ntxent_rows(z1: Vectors, z2: Vectors, tau: float) -> list[float]:
    """NT-Xent (1.1): each of 2B views against its twin and all views of other samples."""
    rows = []
    for a, p, negatives in other_views(z1, z2):
        positive = cosine(a, p) / tau
        rows.append(lse([positive] + [cosine(a, n) / tau for n in negatives]) - positive)
    return rows


def clip(u: Vectors, t: Vectors, scale: float) -> float:
    """CLIP (1.2): half the sum of both cross entropies; `scale` multiplies the cosines."""
    return 0.5 * mean(infonce_rows(u, t, 1 / scale)) + 0.5 * mean(infonce_rows(t, u, 1 / scale))


def supcon_rows(z: Vectors, labels: list[int], tau: float, inside: bool) -> list[float | None]:
    """SupCon (1.3) of each vector, without the factor tau/tau_base; None for an anchor without a positive.

    `inside` moves the mean over positives into the logarithm (L_in).
    """
    rows: list[float | None] = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positives = [k for k in others if labels[k] == labels[i]]
        if not positives:
            rows.append(None)
            continue
        logits = {k: cosine(z[i], z[k]) / tau for k in others}
        total = lse(logits.values())
        if inside:
            rows.append(-math.log(mean(math.exp(logits[p] - total) for p in positives)))
        else:
            rows.append(mean(total - logits[p] for p in positives))
    return rows


def debiased_rows(z1: Vectors, z2: Vectors, tau: float, prior: float, beta: float = 0.0) -> list[float]:
    """Debiased (1.4) and, with `beta`, hard-negative reweighted HCL (1.5)."""
    rows = []
    for a, p, negatives in other_views(z1, z2):
        positive = math.exp(cosine(a, p) / tau)
        logits = [cosine(a, n) / tau for n in negatives]
        count = len(logits)
        weights = [math.exp(beta * x) for x in logits]
        weights = [w / mean(weights) for w in weights]
        repelled = sum(w * math.exp(x) for w, x in zip(weights, logits, strict=True))
        estimate = max((repelled - prior * count * positive) / (1 - prior), count * math.exp(-1 / tau))
        rows.append(-math.log(positive / (positive + estimate)))
    return rows


def hn_nce_rows(a: Vectors, c: Vectors, tau: float, alpha: float, beta: float) -> list[float]:
    """HN-NCE (1.6), one direction."""
    rows = []
    for i in range(len(a)):
        logits = [cosine(a[i], x) / tau for x in c]
        others = [k for k in range(len(c)) if k != i]
        norm = sum(math.exp(beta * logits[k]) for k in others)
        weights = {k: len(others) * math.exp(beta * logits[k]) / norm for k in others}
        total = alpha * math.exp(logits[i]) + sum(weights[k] * math.exp(logits[k]) for k in others)
        rows.append(math.log(total) - logits[i])
    return rows


def dcl_rows(z1: Vectors, z2: Vectors, tau: float, weights: list[float] | None = None) -> list[float]:
    """DCL (1.7): the positive is not in the denominator; `weights` (B) scale the positive logits (DCLW)."""
    rows = []
    for index, (a, p, negatives) in enumerate(other_views(z1, z2)):
        weight = 1.0 if weights is None else weights[index % len(z1)]
        rows.append(lse(cosine(a, n) / tau for n in negatives) - weight * cosine(a, p) / tau)
    return rows


def dclw_weights(z1: Vectors, z2: Vectors, sigma: float) -> list[float]:
    """DCLW's weight of each pair (1.7): 2 - B softmax over the batch."""
    size = len(z1)
    return [2 - size * p for p in softmax([cosine(z1[i], z2[i]) / sigma for i in range(size)])]


def macl(anchors: list, fixed: list, tau0: float, alpha: float, offset: float) -> float:
    """MACL (1.19) over (anchor, positive, negatives) triples; temperature and weights come from `fixed`."""
    align = mean(cosine(a, p) for a, p, _ in fixed)
    tau = tau0 * (1 + alpha * (align - offset))
    total = 0.0
    for (a, p, negatives), (fa, fp, fn) in zip(anchors, fixed, strict=True):
        logits = [cosine(a, x) / tau for x in [p, *negatives]]
        frozen = [cosine(fa, x) / tau for x in [fp, *fn]]
        rest = 1 - math.exp(frozen[0] - lse(frozen))
        total += (lse(logits) - logits[0]) / rest
    return total / len(anchors)


def additive_margin_rows(anchors: list, tau: float, margin: float) -> list[float]:
    """AM-NT-Xent (1.18) over (anchor, positive, negatives): the positive cosine loses `margin`."""
    rows = []
    for a, p, negatives in anchors:
        positive = (cosine(a, p) - margin) / tau
        rows.append(lse([positive] + [cosine(a, n) / tau for n in negatives]) - positive)
    return rows


def angular_margin_rows(anchors: list, tau: float, margin: float) -> list[float]:
    """AAM-NT-Xent (1.18): the positive's angle grows by `margin`, with the linear branch beyond pi - margin."""
    rows = []
    for a, p, negatives in anchors:
        s = cosine(a, p)
        if s > math.cos(math.pi - margin):
            s = math.cos(math.acos(min(1.0, max(-1.0, s))) + margin)
        else:
            s = s - margin * math.sin(math.pi - margin)
        rows.append(lse([s / tau] + [cosine(a, n) / tau for n in negatives]) - s / tau)
    return rows


def one_way(a: Vectors, c: Vectors) -> list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """(anchor, positive, B-1 negatives) with candidates of the other view only."""
    return [(a[i], c[i], [c[k] for k in range(len(c)) if k != i]) for i in range(len(a))]


def kernel_infonce_rows(z1: Vectors, z2: Vectors, width: float, gamma: float) -> list[float]:
    """Kernel-InfoNCE (1.17): logits are -|a - b|^gamma / T of unit vectors."""
    z1, z2 = unit(z1), unit(z2)
    rows = []
    for a, p, negatives in other_views(z1, z2):
        positive = -(distance(a, p) ** gamma) / width
        rows.append(lse([positive] + [-(distance(a, n) ** gamma) / width for n in negatives]) - positive)
    return rows


def focal_rows(anchors: list, tau: float, gamma: float) -> list[float]:
    """Focal ITC (2.9): (1 - p)^gamma times -log p, gradient through both factors."""
    rows = []
    for a, p, negatives in anchors:
        logits = [cosine(a, x) / tau for x in [p, *negatives]]
        logp = logits[0] - lse(logits)
        rows.append((1 - math.exp(logp)) ** gamma * -logp)
    return rows


def mean_shift(z: Vectors, centre: np.ndarray) -> Vectors:
    """Mean-shifted vectors (1.21): norm(norm(z) - c)."""
    return unit(unit(z) - centre)


def smoothed_rows(a: Vectors, c: Vectors, tau: float, epsilon: float) -> list[float]:
    """Label smoothing (3.2): target (1 - eps) on the positive plus eps/M on each of the M candidates."""
    rows = []
    for i in range(len(a)):
        logits = [cosine(a[i], x) / tau for x in c]
        total = lse(logits)
        target = [epsilon / len(c) + (1 - epsilon) * (k == i) for k in range(len(c))]
        rows.append(sum(t * (total - x) for t, x in zip(target, logits, strict=True)))
    return rows


def icon_rows(a: Vectors, c: Vectors, tau: float, leak_p: float, leak_q: float) -> list[float]:
    """I-Con (1.14) with one-hot p, cosine softmax q and a uniform leak in either; cross-entropy form."""
    rows = []
    for i in range(len(a)):
        q = softmax([cosine(a[i], x) / tau for x in c])
        count = len(q)
        q = [(1 - leak_q) * x + leak_q / count for x in q]
        p = [(1 - leak_p) * (k == i) + leak_p / count for k in range(count)]
        rows.append(-sum(x * math.log(y) for x, y in zip(p, q, strict=True)))
    return rows


def soft_target_rows(student: np.ndarray, teacher: np.ndarray, tau: float, tau_teacher: float) -> list[float]:
    """KL(teacher row || student row) of softmaxes over rows of similarity; both arguments are tables (N, M)."""
    rows = []
    for s, t in zip(student, teacher, strict=True):
        logp = [x / tau - lse(y / tau for y in s) for x in s]
        target = softmax([x / tau_teacher for x in t])
        rows.append(sum(y * (math.log(y) - x) for x, y in zip(logp, target, strict=True)))
    return rows


def pair_cosines(z1: Vectors, z2: Vectors) -> list[float]:
    """Cosine of each pair."""
    return [float(x) for x in np.diag(table(z1, z2))]
