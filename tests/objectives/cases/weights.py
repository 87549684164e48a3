"""One positive, and negatives that weigh differently: priors, hardness, margins, decoupling; label families."""

from __future__ import annotations

import math

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles import general, softmax
from tests.objectives.oracles.plain import cosine, mean, unit


def pair(x: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Both views."""
    return x["anchor"], x["positive"]


def debiased(tau: float, prior: float, beta: float = 0.0) -> Oracle:
    """Mean over 2B anchors."""
    return lambda x, fixed, facts: mean(softmax.debiased_rows(*pair(x), tau, prior, beta))


def hn_nce(tau: float, alpha: float, beta: float) -> Oracle:
    """Mean of both directions."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        a, p = pair(x)
        return 0.5 * mean(softmax.hn_nce_rows(a, p, tau, alpha, beta)) + 0.5 * mean(
            softmax.hn_nce_rows(p, a, tau, alpha, beta)
        )

    return loss


def dcl(tau: float, sigma: float | None = None, detach: bool = True) -> Oracle:
    """Mean over 2B anchors; the weights of DCLW from the blocked copy."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        weights = None if sigma is None else softmax.dclw_weights(*pair(fixed if detach else x), sigma)
        return mean(softmax.dcl_rows(*pair(x), tau, weights))

    return loss


def macl(tau: float, alpha: float, offset: float) -> Oracle:
    """Mean over 2B anchors; temperature and reweighting from the blocked copy."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        return softmax.macl(softmax.other_views(*pair(x)), softmax.other_views(*pair(fixed)), tau, alpha, offset)

    return loss


def additive(tau: float, margin: float) -> Oracle:
    """Mean over 2B anchors."""
    return lambda x, fixed, facts: mean(softmax.additive_margin_rows(softmax.other_views(*pair(x)), tau, margin))


def additive_one_way(tau: float, margin: float) -> Oracle:
    """View 1 to view 2 only."""
    return lambda x, fixed, facts: mean(softmax.additive_margin_rows(softmax.one_way(*pair(x)), tau, margin))


def simo(tau: float, many: float) -> Oracle:
    """m = tau log(many / K), K = 2B - 2."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        margin = tau * math.log(many / (2 * facts.size - 2))
        return mean(softmax.additive_margin_rows(softmax.other_views(*pair(x)), tau, margin))

    return loss


def angular(tau: float, margin: float) -> Oracle:
    """Mean over 2B anchors."""
    return lambda x, fixed, facts: mean(softmax.angular_margin_rows(softmax.other_views(*pair(x)), tau, margin))


def scheduled(tau: float, margin: float, warmup: float) -> Oracle:
    """Margin (1 - (cos(pi e / E) + 1) / 2) until step E = warmup times all steps."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        done = min(1.0, facts.step / (warmup * facts.total_steps))
        now = margin * (1 - 0.5 * (math.cos(math.pi * done) + 1))
        return mean(softmax.additive_margin_rows(softmax.other_views(*pair(x)), tau, now))

    return loss


def focal(tau: float, gamma: float) -> Oracle:
    """One way."""
    return lambda x, fixed, facts: mean(softmax.focal_rows(softmax.one_way(*pair(x)), tau, gamma))


def smoothed(tau: float, epsilon: float) -> Oracle:
    """One way."""
    return lambda x, fixed, facts: mean(softmax.smoothed_rows(*pair(x), tau, epsilon))


def supcon(tau: float, base: float, inside: bool, relu: bool = False) -> Oracle:
    """All views anchor; anchors without a positive count as zero."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z = np.concatenate([x[name] for name in ("anchor", "positive") if name in x])
        if relu:
            z = np.maximum(z, 0.0)
        labels = list(facts.label) * (len(z) // facts.size)
        rows = softmax.supcon_rows(z, labels, tau, inside)
        return tau / base * mean(0.0 if row is None else row for row in rows)

    return loss


def several_positives(tau: float, own: float, others: float, prior: float = 0.0, beta: float = 0.0,
                      inside: bool = False) -> Oracle:  # fmt: skip
    """All slots at once: three views and hard negatives, any number of positives and negatives for each anchor.

    A hard negative is a candidate of every view and no anchor.
    """

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        names = ["anchor", "positive", "view3"]
        z = np.concatenate([x[name] for name in names])
        candidates = np.concatenate([z, x["negatives"]])
        row = [*np.concatenate([facts.owner[name] for name in names]), *(-1 for _ in x["negatives"])]
        table = general.rows(
            len(z),
            len(candidates),
            lambda i, j: cosine(z[i], candidates[j]) / tau,
            lambda i, j: i != j and row[i] == row[j],
            lambda i, j: i != j,
        )
        total = []
        for positives, negatives in table:
            count, lowest = len(negatives), -1 / tau
            repel = sum(math.exp(y) for y in general.hard_weighted(negatives, beta))
            if prior:
                attract = mean(math.exp(y) for y in positives)
                repel = max((repel - prior * count * attract) / (1 - prior), count * math.exp(lowest))
            reduce = general.row_in if inside else general.row_out
            total.append(reduce(positives, [math.log(repel)], own, others))
        return mean(total)

    return loss


def several(rng: np.random.Generator, step: int) -> Draw:
    """Three views and hard negatives."""
    return views(rng, count=3, hard=[1, 0, 2, 0, 1])


def labelled(rng: np.random.Generator, step: int) -> Draw:
    """Two views of rows of three classes."""
    return views(rng, label=np.array([0, 1, 0, 2, 0]))


def lonely(rng: np.random.Generator, step: int) -> Draw:
    """One view: rows 1 and 3 have no positive."""
    return views(rng, count=1, label=np.array([0, 1, 0, 2, 0]))


def opposed(rng: np.random.Generator, step: int) -> Draw:
    """Pairs from nearly equal to nearly opposite, so that the angular margin has both branches."""
    draw = views(rng)
    a = unit(draw.vectors["anchor"])
    turn = np.array([1.0, 0.5, 0.0, -0.9, -1.0])[:, None]
    return Draw({"anchor": a, "positive": turn * a + 0.02 * rng.normal(size=a.shape)})


def positive_half(rng: np.random.Generator, step: int) -> Draw:
    """Vectors with entries of both signs, none without a positive one."""
    draw = labelled(rng, step)
    shift = np.array([2.0, 0.0, 0.0, 0.0])
    return Draw({name: z + shift for name, z in draw.vectors.items()}, draw.known)


def middle(rng: np.random.Generator, step: int) -> Draw:
    """Step 2 of 10."""
    return views(rng, step=2)


CASES = [
    Case("debiased", debiased(0.5, 0.1)),
    Case("debiased", debiased(0.2, 0.6), {"temperature": 0.2, "class_prior": 0.6}, variant="clamped"),
    Case("hcl", debiased(0.5, 0.1, 1.0)),
    Case(
        "hcl",
        debiased(0.3, 0.05, 2.0),
        {"temperature": 0.3, "class_prior": 0.05, "beta": 2.0},
        variant="settings",
    ),
    Case("hn-nce", hn_nce(0.05, 1.0, 0.25)),
    Case("hn-nce", hn_nce(0.3, 0.7, 0.8), {"temperature": 0.3, "own": 0.7, "beta": 0.8}, variant="settings"),
    Case("dhn-nce", hn_nce(0.6, 0.0, 0.15)),
    Case("dcl", dcl(0.1)),
    Case("dclw", dcl(0.1, 0.5)),
    Case(
        "dclw",
        dcl(0.3, 0.2, False),
        {"temperature": 0.3, "positive": {"name": "von-mises", "sigma": 0.2, "detach": False}},
        variant="grad",
    ),
    Case("macl", macl(0.1, 0.5, 0.0)),
    Case("macl", macl(0.3, 0.8, 0.2), {"temperature": 0.3, "alpha": 0.8, "offset": 0.2}, variant="settings"),
    Case("am-ntxent", additive(0.03, 0.1)),
    Case(
        "am-ntxent",
        additive_one_way(0.2, 0.3),
        {"temperature": 0.2, "margin": 0.3, "direction": "rows"},
        variant="rows",
    ),
    Case("am-ntxent", scheduled(0.2, 0.3, 0.5), {"temperature": 0.2, "margin": 0.3, "warmup": 0.5}, middle, "schedule"),
    Case("aam-ntxent", angular(0.03, 0.1)),
    Case("aam-ntxent", angular(0.2, 0.6), {"temperature": 0.2, "margin": 0.6}, opposed, "branches"),
    Case("simo", simo(0.03, 65536)),
    Case("focal-infonce", focal(0.05, 1.0)),
    Case("focal-infonce", focal(0.3, 2.5), {"temperature": 0.3, "focal": 2.5}, variant="settings"),
    Case("label-smoothing", smoothed(0.05, 0.1)),
    Case("supcon", supcon(0.1, 0.07, False), {"temperature": 0.1}, lonely, "lonely"),
    Case("supcon-in", supcon(0.07, 0.07, True), draw=labelled),
    Case("supcon-in", supcon(0.3, 0.07, True), {"temperature": 0.3}, lonely, "lonely"),
    Case("supcon-relu", supcon(0.07, 0.07, False, relu=True), draw=positive_half),
    Case("ntxent", several_positives(0.3, 1.0, 0.0), {"temperature": 0.3}, several, "several"),
    Case("dcl", several_positives(0.3, 0.0, 0.0), {"temperature": 0.3}, several, "several"),
    Case("hcl", several_positives(0.3, 1.0, 0.0, 0.1, 0.7), {"temperature": 0.3, "beta": 0.7}, several, "several"),
    Case(
        "debiased",
        several_positives(0.3, 1.0, 0.5, 0.2, inside=True),
        {"temperature": 0.3, "class_prior": 0.2, "reducer": "in", "others": 0.5},
        several,
        "several-in",
    ),
]
