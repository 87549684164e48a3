"""Pairwise potentials, prototypes, ordering and Gram equivariance."""

from __future__ import annotations

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles import pairs, ranking
from tests.objectives.oracles import views as several
from tests.objectives.oracles.plain import cosine, mean, table, unit


def three(rng: np.random.Generator, step: int) -> Draw:
    """Three views."""
    return views(rng, count=3)


def short(rng: np.random.Generator, step: int) -> Draw:
    """Some vectors shorter than one, some longer."""
    draw = views(rng)
    return Draw({name: z * np.array([[0.2], [0.4], [1.0], [0.3], [2.0]]) for name, z in draw.vectors.items()})


def guided(rng: np.random.Generator, step: int) -> Draw:
    """Three views, and what a guide says of the anchors."""
    return Draw(three(rng, step).vectors, {"guide": {"anchor": rng.normal(size=(5, 2))}})


def labelled(rng: np.random.Generator, step: int) -> Draw:
    """Rows of three classes."""
    return views(rng, label=np.array([0, 1, 0, 2, 0]))


def chunks(rng: np.random.Generator, step: int) -> Draw:
    """Six rows in two groups of three."""
    return views(rng, size=6, group=np.array([4, 4, 4, 9, 9, 9]))


def stacked(x: Arrays) -> np.ndarray:
    """Vectors of all views, (B, V, D)."""
    names = [name for name in ("anchor", "positive", "view3", "view4") if name in x]
    return np.stack([x[name] for name in names], axis=1)


def align_uniform(wa: float, wu: float, alpha: float, t: float) -> Oracle:
    """Alignment and the mean uniformity of both views."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        spread = 0.5 * (pairs.uniform(x["anchor"], t) + pairs.uniform(x["positive"], t))
        return wa * pairs.align(x["anchor"], x["positive"], alpha) + wu * spread

    return loss


def spectral(mu: float) -> Oracle:
    """Divided by mu, as in the paper's code."""
    return lambda x, fixed, facts: pairs.spectral(x["anchor"], x["positive"], mu) / mu


def uniformity(t: float, prior: str = "none", sigma: float = 1.0, ridge: float = 0.01) -> Oracle:
    """Decoupled uniformity with each kind of prior."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        kernel = None
        if prior == "guide":
            kernel = several.rbf(facts.guide["anchor"], sigma)
        elif prior == "label":
            kernel = np.array([[float(a == b) for b in facts.label] for a in facts.label])
        return several.decoupled_uniformity(stacked(x), t, kernel, ridge)

    return loss


def mv_dhel(tau: float) -> Oracle:
    """Pairs of a row together, negatives inside a view."""
    return lambda x, fixed, facts: several.mv_dhel(stacked(x), tau)


def cacr(attract: float, repel: float, tp: float, tn: float, detach: bool) -> Oracle:
    """Attraction and repulsion with weights."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        pull, push = several.cacr(stacked(x), stacked(fixed if detach else x), tp, tn)
        return attract * pull + repel * push

    return loss


def groco(hardest: int, steepness: float) -> Oracle:
    """Every view of every row is an anchor; what it is compared with has no gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        live, still = stacked(x), stacked(fixed)
        size, count, _ = live.shape
        terms = []
        for i in range(size):
            for v in range(count):
                positives = [cosine(live[i, v], still[i, w]) for w in range(count) if w != v]
                negatives = [cosine(live[i, v], still[j, v]) for j in range(size) if j != i]
                terms.append(ranking.groco_row(positives, sorted(negatives)[-hardest:], steepness))
        return mean(terms)

    return loss


def swav(tau: float, epsilon: float, rounds: int, frozen: bool) -> Oracle:
    """Codes without gradient; prototypes without gradient while they are frozen."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        live, still = stacked(x), stacked(fixed)
        codes = [ranking.sinkhorn(table(still[:, v], fixed["prototypes"]), epsilon, rounds) for v in (0, 1)]
        prototypes = fixed["prototypes"] if frozen else x["prototypes"]
        return ranking.swav([live[:, v] for v in range(live.shape[1])], codes, prototypes, tau)

    return loss


def swav_queue(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """The queue of each view takes part in the assignment of that view: batches pushed in at the front, seven rows."""
    codes = []
    for name in ("anchor", "positive"):
        queue = np.empty((0, 4))
        for draw in facts.history:
            queue = np.concatenate([unit(draw.vectors[name]), queue])[:7]
        every = np.concatenate([fixed[name], queue])
        codes.append(ranking.sinkhorn(table(every, fixed["prototypes"]), 0.05, 3)[: len(fixed[name])])
    return ranking.swav([x["anchor"], x["positive"]], codes, x["prototypes"], 0.1)


def late(rng: np.random.Generator, step: int) -> Draw:
    """Two views in epoch 20."""
    return views(rng, epoch=20)


def gram(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Two chunks of equal size."""
    return several.care(x["anchor"], x["positive"], 2)


CASES = [
    Case("align-uniform", align_uniform(1, 1, 2, 2)),
    Case(
        "align-uniform",
        align_uniform(0.9, 2, 3, 1.5),
        {"align": 0.9, "uniform": 2, "alpha": 3, "t": 1.5},
        variant="settings",
    ),
    Case("spectral", spectral(1.0), draw=short, exempt=("length",)),
    Case("spectral", spectral(3.0), {"mu": 3.0}, short, "cap"),
    Case("decoupled-uniformity", uniformity(2.0), draw=three),
    Case(
        "decoupled-uniformity",
        uniformity(1.0, "guide", 0.7, 0.1),
        {"t": 1.0, "prior": "guide", "sigma": 0.7, "ridge": 0.1},
        guided,
        "guide",
    ),
    Case("decoupled-uniformity", uniformity(2.0, "label"), {"prior": "label"}, labelled, "label"),
    Case("mv-dhel", mv_dhel(0.5), draw=three),
    Case("mv-dhel", mv_dhel(0.3), {"temperature": 0.3}, variant="two-views"),
    Case("cacr", cacr(1, 1, 1, 2, False), draw=three),
    Case(
        "cacr",
        cacr(0.7, 1.3, 0.5, 0.9, True),
        {"attract": 0.7, "repel": 1.3, "t_positive": 0.5, "t_negative": 0.9, "detach": True},
        three,
        "detach",
    ),
    Case("groco", groco(10, 1.0), draw=three, exempt=("slope",)),
    Case("groco", groco(2, 5.0), {"hardest": 2, "steepness": 5.0}, variant="hardest"),
    Case("swav", swav(0.1, 0.05, 3, True), {"prototypes": 3}, three, exempt=("slope",)),
    Case(
        "swav",
        swav(0.4, 0.2, 2, False),
        {"prototypes": 3, "temperature": 0.4, "epsilon": 0.2, "iterations": 2, "freeze_steps": 0},
        variant="free",
    ),
    Case("swav", swav_queue, {"prototypes": 3, "freeze_steps": 0, "queue": 7}, late, "queue", warm=3),
    Case("gram-equivariance", gram, draw=chunks),
]
