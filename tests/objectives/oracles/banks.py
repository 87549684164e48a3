"""Objectives with state from earlier steps or other modules (sections 1.8 to 1.12, 1.20, 1.22 to 1.25, 1.29)."""

from __future__ import annotations

import math

import numpy as np

from .plain import Vectors, cosine, dot, lse, mean, softmax, softplus, unit


def enqueue(queue: Vectors, pointer: int, keys: Vectors) -> tuple[Vectors, int]:
    """A ring of rows: `keys` replace the oldest; returns the new ring and place of the next key."""
    queue = queue.copy()
    for key in keys:
        queue[pointer] = key
        pointer = (pointer + 1) % len(queue)
    return queue, pointer


def moco_rows(q: Vectors, k: Vectors, queue: Vectors, tau: float) -> list[float]:
    """MoCo (1.8): positive is the key of the same row, negatives are the queue."""
    rows = []
    for i in range(len(q)):
        logits = [cosine(q[i], x) / tau for x in [k[i], *queue]]
        rows.append(lse(logits) - logits[0])
    return rows


def filtered(q: np.ndarray, queue: Vectors, top: int, ceiling: float) -> list[np.ndarray]:
    """MoCo-enhanced (1.9): the `top` entries of the queue most like `q` among those not above `ceiling`."""
    kept = [x for x in queue if cosine(q, x) <= ceiling]
    return sorted(kept, key=lambda x: -cosine(q, x))[:top]


def mochi_row(q: np.ndarray, k: np.ndarray, queue: Vectors, synthetic: list[np.ndarray], tau: float) -> float:
    """MoCHi (1.10): MoCo's row with further, synthetic negatives."""
    logits = [cosine(q, x) / tau for x in [k, *queue, *synthetic]]
    return lse(logits) - logits[0]


def nnclr_rows(p: Vectors, z: Vectors, queue: Vectors, tau: float) -> list[float]:
    """NNCLR (1.11), one direction: the neighbour of z_i in the queue against all predictions p; p_i is the positive."""
    rows = []
    for i in range(len(z)):
        neighbour = max(queue, key=lambda x: cosine(z[i], x))
        logits = [cosine(neighbour, x) / tau for x in p]
        rows.append(lse(logits) - logits[i])
    return rows


def ascl_rows(q: Vectors, k: Vectors, queue: Vectors, tau: float, tau_teacher: float, neighbours: float) -> list[float]:
    """ASCL (1.12): soft targets over [positive, queue] from the keys' similarity to the queue."""
    rows = []
    for i in range(len(q)):
        p = softmax([cosine(k[i], x) / tau_teacher for x in queue])
        entropy = -sum(x * math.log(x) for x in p)
        confidence = 1 - entropy / math.log(len(queue))
        target = [1.0] + [min(1.0, neighbours * confidence * x) for x in p]
        target = [y / sum(target) for y in target]
        logits = [cosine(q[i], x) / tau for x in [k[i], *queue]]
        total = lse(logits)
        rows.append(sum(y * (total - x) for y, x in zip(target, logits, strict=True)))
    return rows


def hardness(z1: Vectors, z2: Vectors, tau: list[float]) -> list[list[list[float]]]:
    """For each view and row: s_ij / tau_i to the 2B - 2 views of other samples."""
    size, out = len(z1), []
    for own, other in ((z1, z2), (z2, z1)):
        rows = []
        for i in range(size):
            rows.append([cosine(own[i], x[j]) / tau[i] for x in (own, other) for j in range(size) if j != i])
        out.append(rows)
    return out


def relative_hardness(a: Vectors, c: Vectors) -> list[list[float]]:
    """Two-tower hardness of each row: s_ij - s_ii of the other rows."""
    size = len(a)
    return [[cosine(a[i], c[j]) - cosine(a[i], c[i]) for j in range(size) if j != i] for i in range(size)]


def sogclr_state(z1: Vectors, z2: Vectors, old: list[float], seen: list[bool], gamma: float, tau: list[float]) -> list:
    """SogCLR's u (1.20) after this batch: both views averaged; the first visit takes the batch value."""
    views = hardness(z1, z2, tau)
    out = []
    for i in range(len(z1)):
        g = mean(mean(math.exp(x) for x in view[i]) for view in views)
        out.append((1 - gamma) * old[i] + gamma * g if seen[i] else g)
    return out


def sogclr(z1: Vectors, z2: Vectors, fixed: tuple[Vectors, Vectors], u: list[float], tau: list[float]) -> float:
    """SogCLR's surrogate (1.20): mean of -s_pos + mean_j w_ij s_ij over rows, mean of both views; w from `fixed`."""
    size = len(z1)
    terms = []
    frozen = hardness(*fixed, tau)
    live = hardness(z1, z2, tau)
    for view in range(2):
        for i in range(size):
            weights = [math.exp(x) / u[i] for x in frozen[view][i]]
            pull = mean(w * x * tau[i] for w, x in zip(weights, live[view][i], strict=True))
            terms.append(pull - cosine(z1[i], z2[i]))
    return mean(terms)


def tau_gradient(z1: Vectors, z2: Vectors, u: list[float], tau: list[float], rho: float) -> list[float]:
    """iSogCLR's dF/dtau_i (1.20): log u + rho - mean_j w_ij s_ij / tau_i, averaged over both views."""
    views = hardness(z1, z2, tau)
    out = []
    for i in range(len(z1)):
        slopes = [mean(math.exp(x) / u[i] * x for x in view[i]) for view in views]
        out.append(math.log(u[i]) + rho - mean(slopes))
    return out


def robust_value(logits: list[float], tau: float, rho: float) -> float:
    """iSogCLR's objective of one anchor: tau log mean e^(s/tau) + tau rho; `logits` are the similarities s."""
    return tau * (lse(x / tau for x in logits) - math.log(len(logits))) + tau * rho


def cmim(z: Vectors, tau: float) -> float:
    """cMIM's contrastive term (1.25): -log e^(1/tau) / (e^(1/tau) + mean over others of e^(cos/tau))."""
    total = 0.0
    for i in range(len(z)):
        others = [cosine(z[i], z[j]) / tau for j in range(len(z)) if j != i]
        total += lse([1 / tau, lse(others) - math.log(len(others))]) - 1 / tau
    return total / len(z)


def gated_rows(a: Vectors, c: Vectors, gates: Vectors, first: list[int], second: list[int], tau: float) -> list:
    """Hydra (1.24): logit <a g^2, c> / tau of unit a, c; positives carry the partner's label, rows None without one."""
    a, c = unit(a), unit(c)
    rows: list[float | None] = []
    for i in range(len(a)):
        logits = [dot(a[i] * gates[i] ** 2, x) / tau for x in c]
        positives = [j for j in range(len(c)) if first[j] == second[i]]
        repel = lse(logits[j] for j in range(len(c)) if first[j] not in (first[i], second[i]))
        rows.append(mean(softplus(repel - logits[j]) for j in positives) if positives else None)
    return rows


def mls_row(
    g: np.ndarray, z: np.ndarray, queue_g: Vectors, queue_z: Vectors, k: int, scale: float, bias: float
) -> float:
    """MLS (1.29): the k entries nearest in the backbone's space are positive; sum of binary cross entropies."""
    order = sorted(range(len(queue_g)), key=lambda j: -cosine(g, queue_g[j]))
    chosen = set(order[:k])
    total = 0.0
    for j in range(len(queue_z)):
        logit = scale * cosine(z, queue_z[j]) + bias
        total += softplus(-logit) if j in chosen else softplus(logit)
    return total
