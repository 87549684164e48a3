"""Soft targets, several views, and scores other than the cosine."""

from __future__ import annotations

import math

import numpy as np

from embedkit.objectives.base import Objective
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, arrays, views
from tests.objectives.oracles import banks, general, laws, softmax
from tests.objectives.oracles import views as several
from tests.objectives.oracles.plain import (
    Vectors,
    cosine,
    distance,
    dot,
    lse,
    mean,
    sigmoid,
    table,
    unit,
)
from tests.objectives.oracles.plain import (
    softmax as soft,
)

HARD = [1, 2, 0, 3, 1]


def stacked(x: Arrays) -> np.ndarray:
    """Vectors of all views, (B, V, D)."""
    return np.stack([x[name] for name in ("anchor", "positive", "view3", "view4") if name in x], axis=1)


def flat(x: Arrays) -> Vectors:
    """Vectors of all views, one view after another."""
    return np.concatenate([x[name] for name in ("anchor", "positive", "view3") if name in x])


def icon(tau: float, form: str, leak_p: float = 0.0, leak_q: float = 0.0, by_label: bool = False) -> Oracle:
    """All views anchor; the law is even over the row's other views, or over its class."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z = flat(x)
        kind = list(facts.label if by_label else range(facts.size)) * (len(z) // facts.size)
        total = []
        for i in range(len(z)):
            others = [j for j in range(len(z)) if j != i]
            q = laws.leaked(soft([cosine(z[i], z[j]) / tau for j in others]), leak_q)
            positive = [float(kind[j] == kind[i]) for j in others]
            p = laws.leaked([y / sum(positive) for y in positive], leak_p)
            total.append(laws.divergence(p, q, form))
        return mean(total)

    return loss


def soft_targets(tau: float, tau_teacher: float, form: str) -> Oracle:
    """The guide's softmax over all positives and hard negatives."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows = []
        for vectors in (x, facts.guide):
            candidates = np.concatenate([vectors["positive"], vectors["negatives"]])
            rows.append(table(vectors["anchor"], candidates))
        return mean(
            laws.divergence(soft(list(t / tau_teacher)), soft(list(s / tau)), form) for s, t in zip(*rows, strict=True)
        )

    return loss


def distill_clip(tau_teacher: float, weight: float) -> Oracle:
    """Both directions: cross-entropy from the pair, and from the guide's softmax; the scale is trained."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        scale, total = math.exp(float(x["scale.log_scale"])), []
        student, teacher = (table(v["anchor"], v["positive"]) for v in (x, facts.guide))
        for s, t in ((student, teacher), (student.T, teacher.T)):
            rows = []
            for i in range(len(s)):
                log_q = [scale * v - lse(list(scale * s[i])) for v in s[i]]
                taught = soft(list(t[i] / tau_teacher))
                rows.append(-log_q[i] - weight * sum(p * q for p, q in zip(taught, log_q, strict=True)))
            total.append(mean(rows))
        return mean(total)

    return loss


def taught_pair(rng: np.random.Generator, step: int) -> Draw:
    """Two views and a guide with vectors of its own size."""
    draw = views(rng)
    return Draw(draw.vectors, {"guide": {name: rng.normal(size=(len(z), 3)) for name, z in draw.vectors.items()}})


def guided(rng: np.random.Generator, step: int) -> Draw:
    """Hard negatives and a guide."""
    draw = views(rng, hard=HARD)
    guide = {name: rng.normal(size=(len(z), 3)) for name, z in draw.vectors.items()}
    return Draw(draw.vectors, {**draw.known, "guide": guide})


def three(rng: np.random.Generator, step: int) -> Draw:
    """Three views."""
    return views(rng, count=3)


def labelled(rng: np.random.Generator, step: int) -> Draw:
    """Two views of rows of classes; every class has two rows or more but one."""
    return views(rng, label=np.array([0, 1, 0, 2, 1]), step=step)


def kernel(width: float, gamma: float) -> Oracle:
    """Mean over 2B anchors."""
    return lambda x, fixed, facts: mean(softmax.kernel_infonce_rows(x["anchor"], x["positive"], width, gamma))


def mixture(share: float, gamma: float, width: float, width2: float) -> Oracle:
    """Simple sum of two kernels' losses."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        one, two = kernel(width, gamma)(x, fixed, facts), kernel(width2, 2.0)(x, fixed, facts)
        return share * one + (1 - share) * two

    return loss


def concatenation(width: float, gamma: float, gamma2: float, ratio: float) -> Oracle:
    """Mean over 2B anchors of the product of two kernels."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        total = []
        for a, p, negatives in softmax.other_views(x["anchor"], x["positive"]):
            logits = [laws.halves(a, c, gamma, gamma2, ratio) / width for c in [p, *negatives]]
            total.append(lse(logits) - logits[0])
        return mean(total)

    return loss


def mean_shifted(tau: float, steps: int, compactness: float) -> Oracle:
    """NT-Xent around the mean direction of the first steps; the centre is zero before."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        seen = [flat(draw.vectors) for draw in facts.history[:steps]]
        centre = laws.mean_direction(seen) if seen else np.zeros(x["anchor"].shape[1])
        shifted = [softmax.mean_shift(x[name], centre) for name in ("anchor", "positive")]
        total = mean(softmax.ntxent_rows(*shifted, tau))
        if compactness:
            middle = unit(centre[None])[0]
            total += compactness * mean(distance(z, middle) ** 2 for z in unit(flat(x)))
        return total

    return loss


def gate(x: Arrays, first: int, second: int) -> np.ndarray:
    """sigmoid(MLP((e_y1 + e_y2) / 2))."""
    middle = (x["score.gate.0.weight"][first] + x["score.gate.0.weight"][second]) / 2
    hidden = [
        max(0.0, dot(w, middle) + b) for w, b in zip(x["score.gate.1.weight"], x["score.gate.1.bias"], strict=True)
    ]
    out = zip(x["score.gate.3.weight"], x["score.gate.3.bias"], strict=True)
    return np.array([sigmoid(dot(w, np.array(hidden)) + b) for w, b in out])


def partners(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """Which label each row is paired with at this step: the objective's draw."""
    from embedkit.objectives.parts.scores import partners as drawn

    return {"partner": arrays(drawn(draw.batch(), objective.score.pairing))}


def hydra(tau: float) -> Oracle:
    """All views anchor; anchors whose partner's label is nowhere do not count."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, copies = unit(flat(x)), len(flat(x)) // facts.size
        first, second = list(facts.label) * copies, list(facts.state["partner"]) * copies
        gates = [gate(x, a, b) for a, b in zip(first, second, strict=True)]
        total = []
        for i in range(len(z)):
            logits = {j: dot(z[i] * gates[i] ** 2, z[j]) / tau for j in range(len(z)) if j != i}
            positives = [y for j, y in logits.items() if first[j] == second[i]]
            negatives = [y for j, y in logits.items() if first[j] not in (first[i], second[i])]
            if positives:
                total.append(general.row_out(positives, negatives, 1.0, 0.0))
        return mean(total)

    return loss


def of(function, *args) -> Oracle:
    """An oracle of all views as (B, V, D)."""
    return lambda x, fixed, facts: function(stacked(x), *args)


def far(rng: np.random.Generator, step: int) -> Draw:
    """Vectors away from the origin, so that there is a mean direction."""
    draw = views(rng)
    return Draw({name: z + np.array([1.0, -0.5, 0.0, 0.3]) for name, z in draw.vectors.items()})


GATE = {"classes": 3, "label_dim": 3, "hidden": 4}

CASES = [
    Case("icon", icon(0.1, "kl")),
    Case(
        "icon",
        icon(0.3, "kl", 0.2, 0.4, True),
        {"temperature": 0.3, "leak_p": 0.2, "leak_q": 0.4, "by": "label"},
        labelled,
        "leak",
    ),
    Case(
        "icon",
        icon(0.3, "cross-entropy", 0.2),
        {"temperature": 0.3, "form": "cross-entropy", "leak_p": 0.2},
        three,
        "cross-entropy",
    ),
    Case(
        "icon",
        icon(0.3, "reverse-kl", 0.2),
        {"temperature": 0.3, "form": "reverse-kl", "leak_p": 0.2},
        three,
        "reverse",
    ),
    Case("icon", icon(0.3, "js", 0.0, 0.3), {"temperature": 0.3, "form": "js", "leak_q": 0.3}, three, "js"),
    Case("soft-targets", soft_targets(0.05, 0.05, "kl"), draw=guided),
    Case("distill-clip", distill_clip(0.01, 1.0), draw=taught_pair),
    Case(
        "distill-clip",
        distill_clip(0.3, 0.5),
        {"teacher_temperature": 0.3, "guide_weight": 0.5},
        taught_pair,
        "settings",
    ),
    Case(
        "soft-targets",
        soft_targets(0.4, 0.2, "js"),
        {"temperature": 0.4, "teacher_temperature": 0.2, "form": "js"},
        guided,
        "js",
    ),
    Case("poly-view-geometric", of(several.poly_view, 0.1, "geometric"), draw=three),
    Case("poly-view-arithmetic", of(several.poly_view, 0.1, "arithmetic"), draw=three),
    Case("poly-view-statistics", of(several.poly_view_statistics, 0.1), draw=three),
    Case("mv-infonce", of(several.mv_infonce, 0.5), draw=three),
    Case("mv-infonce", of(several.mv_infonce, 0.2), {"temperature": 0.2}, variant="two-views"),
    Case("kernel-infonce", kernel(0.5, 1.0)),
    Case("kernel-infonce", kernel(0.7, 0.5), {"temperature": 0.7, "gamma": 0.5}, variant="half"),
    Case("kernel-mixture", mixture(0.5, 1.0, 0.5, 0.5)),
    Case(
        "kernel-mixture",
        mixture(0.2, 0.5, 0.3, 0.8),
        {"mixture": 0.2, "gamma": 0.5, "temperature": 0.3, "temperature2": 0.8},
        variant="settings",
    ),
    Case("kernel-concatenation", concatenation(0.5, 2.0, 1.0, 1.0)),
    Case(
        "kernel-concatenation",
        concatenation(0.3, 1.0, 0.5, 2.0),
        {"temperature": 0.3, "gamma": 1.0, "gamma2": 0.5, "ratio": 2.0},
        variant="settings",
    ),
    Case("mean-shifted", mean_shifted(0.25, 1, 0.0), draw=far, warm=2),
    Case(
        "mean-shifted",
        mean_shifted(0.5, 2, 0.3),
        {"temperature": 0.5, "centre_steps": 2, "compactness": 0.3},
        far,
        "compact",
        warm=3,
    ),
    Case("hydra", hydra(0.1), GATE, labelled, peek=partners, exempt=("order",)),
    Case(
        "hydra",
        hydra(0.5),
        {**GATE, "temperature": 0.5, "pairing": "distinct"},
        labelled,
        "distinct",
        warm=2,
        peek=partners,
    ),
    Case(
        "hydra", hydra(0.5), {**GATE, "temperature": 0.5, "pairing": "identical"}, labelled, "identical", peek=partners
    ),
    Case("cmim", lambda x, fixed, facts: banks.cmim(x["anchor"], 0.1)),
    Case(
        "cmim",
        lambda x, fixed, facts: banks.cmim(x["anchor"], 0.5),
        {"temperature": 0.5},
        lambda rng, step: views(rng, count=1),
        "alone",
    ),
]
