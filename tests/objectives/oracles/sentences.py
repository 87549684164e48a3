"""DCLR, SCT and SG-OPT from sections 8, 10 and 11 of the first reference on sentence methods, with loops."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, dot, lse, mean, unit


def dclr_noise(
    anchor: Vectors, positive: Vectors, start: Vectors, steps: int, size: float, tau: float, in_batch: bool
) -> Vectors:
    """Noise after `steps` of ascent of the mean log of the denominator; its gradient is written out."""
    noise = np.array(start, dtype=float)
    for _ in range(steps):
        gradient = np.zeros_like(noise)
        for a in anchor:
            weights = [cosine(a, z) / tau for z in noise]
            if in_batch:
                weights += [cosine(a, p) / tau for p in positive]
            total = lse(weights)
            for k, z in enumerate(noise):
                share = math.exp(weights[k] - total) / len(anchor)
                ua, uz = a / np.linalg.norm(a), z / np.linalg.norm(z)
                gradient[k] += share / tau * (ua - dot(ua, uz) * uz) / np.linalg.norm(z)
        noise = noise + size * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    return noise


def dclr_weight(guide_anchor: Vectors, guide_positive: Vectors, i: int, j: int, phi: float) -> float:
    """0 for a suspected false negative."""
    return 0.0 if i != j and cosine(guide_anchor[i], guide_positive[j]) > phi else 1.0


def dclr_code(anchor: Vectors, positive: Vectors, noise: Vectors, weight: Vectors, tau: float) -> float:
    """Mean binary cross-entropy of the softmax of weighted logits, all cells."""
    total, count = 0.0, 0
    for i, a in enumerate(anchor):
        logits = [weight[i][j] * cosine(a, p) / tau for j, p in enumerate(positive)]
        logits += [cosine(a, z) / tau for z in noise]
        whole = lse(logits)
        for j, logit in enumerate(logits):
            rest = lse([other for k, other in enumerate(logits) if k != j])
            total -= logit - whole if i == j else rest - whole
            count += 1
    return total / count


def dclr_paper(anchor: Vectors, positive: Vectors, noise: Vectors, weight: Vectors, tau: float) -> float:
    """The printed ratio: the denominator holds noise and unsuspected negatives only."""
    losses = []
    for i, a in enumerate(anchor):
        logits = [cosine(a, p) / tau for j, p in enumerate(positive) if j != i and weight[i][j]]
        logits += [cosine(a, z) / tau for z in noise]
        losses.append(lse(logits) - cosine(a, positive[i]) / tau)
    return mean(losses)


def sct(online: list[Vectors], reference: list[Vectors], queues: list[Vectors], t_ref: float, t_on: float) -> float:
    """Sum of the two KL divergences, each a mean over rows."""
    total = 0.0
    for v in (0, 1):
        bank = [*queues[v], *unit(reference[v])]
        for i in range(len(reference[v])):
            r, o = unit(reference[v])[i], unit(online[1 - v])[i]
            target = [dot(r, d) / t_ref for d in bank]
            learnt = [dot(o, d) / t_on for d in bank]
            for t, s in zip(target, learnt, strict=True):
                log_p, log_q = t - lse(target), s - lse(learnt)
                total += math.exp(log_p) * (log_p - log_q) / len(reference[v])
    return total


def sg_opt(anchor: Vectors, layers: Vectors, tau: float) -> float:
    """Mean over rows and layers; `layers` is (B, L, D)."""
    losses = []
    for i, c in enumerate(anchor):
        negatives = [cosine(c, h) / tau for m in range(len(layers)) if m != i for h in layers[m]]
        for h in layers[i]:
            own = cosine(c, h) / tau
            losses.append(lse([own, *negatives]) - own)
    return mean(losses)
