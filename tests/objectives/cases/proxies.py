"""Trained vectors of classes, and average precision, from their formulas with loops."""

from __future__ import annotations

import math

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.plain import cosine, distance, lse, mean, unit

LABELS = np.array([0, 2, 0, 1, 2])
CLASSES = 4  # one of them has no example


def labelled(rng: np.random.Generator, step: int) -> Draw:
    """One view with labels."""
    return views(rng, 1, label=LABELS)


def two_views(rng: np.random.Generator, step: int) -> Draw:
    """Two views with labels."""
    return views(rng, 2, label=LABELS)


def examples(x: Arrays, facts: Facts) -> list[tuple[np.ndarray, int]]:
    """Every vector with its class."""
    return [(z, int(k)) for name in ("anchor", "positive") if name in x
            for z, k in zip(x[name], facts.label, strict=True)]  # fmt: skip


def anchor(margin: float = 0.1, alpha: float = 32.0) -> Oracle:
    """Proxy-anchor."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows, pull, push = examples(x, facts), [], []
        for c, proxy in enumerate(x["proxies"]):
            near = [math.exp(-alpha * (cosine(z, proxy) - margin)) for z, k in rows if k == c]
            far = [math.exp(alpha * (cosine(z, proxy) + margin)) for z, k in rows if k != c]
            pull += [math.log(1 + sum(near))] if near else []
            push.append(math.log(1 + sum(far)))
        return mean(pull) + mean(push)

    return loss


def nca(scale: float = 1.0, own: bool = False) -> Oracle:
    """Proxy-NCA."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        proxies, rows = unit(x["proxies"]), []
        for z, k in examples(x, facts):
            logits = [-scale * distance(unit(z[None])[0], p) ** 2 for p in proxies]
            rows.append(lse(s for c, s in enumerate(logits) if own or c != k) - logits[k])
        return mean(rows)

    return loss


def margin_softmax(margin: float, scale: float, additive: bool) -> Oracle:
    """ArcFace and CosFace."""

    def harder(s: float) -> float:
        if additive:
            return s - margin
        angle = math.acos(s)
        return math.cos(angle + margin) if angle < math.pi - margin else s - margin * math.sin(margin)

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows = []
        for z, k in examples(x, facts):
            cosines = [cosine(z, p) for p in x["proxies"]]
            logits = [scale * (harder(s) if c == k else s) for c, s in enumerate(cosines)]
            rows.append(lse(logits) - logits[k])
        return mean(rows)

    return loss


def soft_triple(count: int, scale: float = 20.0, gamma: float = 0.1, margin: float = 0.01, merge: float = 0.2):
    """SoftTriple with its regularisation."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        centres = unit(x["proxies"]).reshape(CLASSES, count, -1)
        rows = []
        for z, k in examples(x, facts):
            logits = []
            for c in range(CLASSES):
                cosines = [cosine(z, w) for w in centres[c]]
                weights = [math.exp(s / gamma) for s in cosines]
                score = sum(w * s for w, s in zip(weights, cosines, strict=True)) / sum(weights)
                logits.append(scale * (score - (margin if c == k else 0)))
            rows.append(lse(logits) - logits[k])
        pairs = [(c, s, t) for c in range(CLASSES) for s in range(count) for t in range(s)]
        apart = sum(math.sqrt(2 + 1e-5 - 2 * cosine(centres[c][s], centres[c][t])) for c, s, t in pairs)
        return mean(rows) + merge * apart / (CLASSES * count * max(1, count - 1))

    return loss


def fast_ap(bins: int) -> Oracle:
    """Average precision of soft histograms."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows, found, width = examples(x, facts), [], 4 / bins
        for i, (a, k) in enumerate(rows):
            others = [(distance(unit(a[None])[0], unit(z[None])[0]) ** 2, c == k)
                      for j, (z, c) in enumerate(rows) if j != i]  # fmt: skip
            count = sum(same for _, same in others)
            if not count:
                continue
            precision = near = everything = 0.0
            for j in range(bins + 1):
                part = [(max(0.0, 1 - abs(d - j * width) / width), same) for d, same in others]
                here = sum(p for p, same in part if same)
                near, everything = near + here, everything + sum(p for p, _ in part)
                precision += here * near / everything if here else 0.0
            found.append(1 - precision / count)
        return mean(found)

    return loss


KNOWN = {"classes": CLASSES}
CASES = [
    Case("proxy-anchor", anchor(), KNOWN, labelled),
    Case("proxy-anchor", anchor(0.3, 4.0), {**KNOWN, "margin": 0.3, "alpha": 4.0}, two_views, "settings"),
    Case("proxy-nca", nca(), KNOWN, labelled),
    Case("proxy-nca", nca(9.0, True), {**KNOWN, "scale": 9.0, "own": True}, two_views, "plus-plus"),
    Case("arcface", margin_softmax(0.5, 64.0, False), KNOWN, labelled),
    Case("arcface", margin_softmax(2.5, 4.0, False), {**KNOWN, "margin": 2.5, "scale": 4.0}, two_views, "wide"),
    Case("cosface", margin_softmax(0.35, 64.0, True), KNOWN, labelled),
    Case("cosface", margin_softmax(0.2, 8.0, True), {**KNOWN, "margin": 0.2, "scale": 8.0}, two_views, "settings"),
    Case("soft-triple", soft_triple(10), KNOWN, labelled),
    Case("soft-triple", soft_triple(2, 5.0, 0.5, 0.1, 3.0), {**KNOWN, "centres": 2, "scale": 5.0, "gamma": 0.5,
         "margin": 0.1, "merge": 3.0}, two_views, "settings"),
    Case("soft-triple", soft_triple(1), {**KNOWN, "centres": 1}, labelled, "one-centre"),
    Case("fast-ap", fast_ap(10), draw=labelled),
    Case("fast-ap", fast_ap(3), {"bins": 3}, two_views, "settings"),
]  # fmt: skip
