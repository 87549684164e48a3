"""Triplets, multi-similarity, circle, contrastive pairs and lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.objectives.cases.pairs import HARD, hard, rated, taught
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles import metric_learning as oracles
from tests.objectives.oracles.plain import cosine, distance, mean

LABELS = np.array([0, 1, 0, 2, 1])
Like = Callable[[np.ndarray, np.ndarray], float]


def far(a: np.ndarray, b: np.ndarray) -> float:
    """The negative distance."""
    return -distance(a, b)


def labelled(rng: np.random.Generator, step: int) -> Draw:
    """One view, labels; one row alone with its."""
    return views(rng, 1, label=LABELS)


def labelled_views(rng: np.random.Generator, step: int) -> Draw:
    """Two views, labels, groups of which one holds two labels, and hard negatives."""
    return views(rng, label=LABELS, group=np.array([0, 0, 1, 2, 3]), hard=HARD)


def by_label(x: Arrays, facts: Facts) -> tuple[np.ndarray, oracles.Sets]:
    """All vectors, and positives and negatives of each view: rows of a group are neither."""
    z = np.concatenate([x[name] for name in ("anchor", "positive") if name in x])
    label = np.resize(facts.label, len(z))
    group = np.arange(len(z)) % facts.size if facts.group is None else np.resize(facts.group, len(z))
    more = x.get("negatives", z[:0])
    sets = []
    for i in range(len(z)):
        same = [j for j in range(len(z)) if j != i and label[j] == label[i]]
        other = [j for j in range(len(z)) if label[j] != label[i] and group[j] != group[i]]
        apart = list(range(len(z), len(z) + len(more)))  # a hard negative has no label and no group
        sets.append((same, other + apart))
    return np.concatenate([z, more]), sets


def triplet(mining: str, margin: float, soft: bool = False, active: bool = False, like: Like = far) -> Oracle:
    """Triplets by label."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, sets = by_label(x, facts)
        return oracles.triplet(sets, lambda i, j: like(z[i], z[j]), mining, margin, soft, active)

    return loss


def given(margin: float, like: Like = far) -> Oracle:
    """An anchor, its positive, each of its own hard negatives."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        gaps = [margin + like(x["anchor"][i], n) - like(x["anchor"][i], x["positive"][i])
                for i, n in zip(facts.owner["negatives"], x["negatives"], strict=True)]  # fmt: skip
        return mean(max(0.0, gap) for gap in gaps)

    return loss


def multi_similarity(alpha: float, beta: float, base: float, epsilon: float | None) -> Oracle:
    """Wang et al."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, sets = by_label(x, facts)
        return oracles.multi_similarity(sets, lambda i, j: cosine(z[i], z[j]), alpha, beta, base, epsilon)

    return loss


def circle(m: float, gamma: float) -> Oracle:
    """Sun et al."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, sets = by_label(x, facts)
        f, _ = by_label(fixed, facts)
        return oracles.circle(sets, lambda i, j: cosine(z[i], z[j]), lambda i, j: cosine(f[i], f[j]), m, gamma)

    return loss


def alike(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with scores 0 and 1."""
    return views(rng, size=6, score=np.array([1.0, 0, 1, 0, 0, 1]))


def graded(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with scores between 0 and 1."""
    return views(rng, score=np.array([1.0, 0.25, 0.5, 0.0, 0.75]))


def contrastive(margin: float, online: bool = False, euclidean: bool = False) -> Oracle:
    """Hadsell et al., and on the hard pairs."""
    formula = oracles.online_contrastive if online else oracles.contrastive

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        pairs = zip(x["anchor"], x["positive"], strict=True)
        scores = facts.score >= 0.8 if online else facts.score
        return formula([distance(a, b) if euclidean else 1 - cosine(a, b) for a, b in pairs], scores, margin)

    return loss


def members(x: Arrays, facts: Facts, row: int) -> np.ndarray:
    """The texts of a row in their order."""
    own = facts.owner["negatives"] == row
    return np.concatenate([x["anchor"][[row]], x["positive"][[row]], x["negatives"][own]])


def lists(kind: str, tau: float, omega: float = 0.0, tau_teacher: float = 1.0, fidelity: str = "paper") -> Oracle:
    """ListMLE of an anchor's own candidates, of all, or of every text of a row."""

    def one(x: Arrays, facts: Facts, i: int) -> float:
        if kind == "members":
            z, t = members(x, facts, i), members(facts.guide, facts, i)
            teacher = [[cosine(a, b) / tau_teacher for b in t] for a in t]
            if omega:
                teacher = oracles.order_prior(teacher, omega, fidelity)
            return mean(oracles.list_mle([cosine(a, b) / tau for b in z], row)
                        for a, row in zip(z, teacher, strict=True))  # fmt: skip
        if kind == "batch":
            candidates = np.concatenate([x["positive"], x["negatives"]])
            theirs = np.concatenate([facts.guide["positive"], facts.guide["negatives"]])
        else:
            candidates, theirs = members(x, facts, i)[1:], None
            if facts.guide:
                theirs = members(facts.guide, facts, i)[1:]
        if theirs is not None:
            target = [cosine(facts.guide["anchor"][i], t) for t in theirs]
        else:
            target = [facts.scores["positive"][i], *facts.scores["negatives"][facts.owner["negatives"] == i]]
        return oracles.list_mle([cosine(x["anchor"][i], c) / tau for c in candidates], target)

    return lambda x, fixed, facts: mean(one(x, facts, i) for i in range(facts.size))


def case(name: str, oracle: Oracle, variant: str = "", draw: Any = labelled, exempt: tuple[str, ...] = (),
         **settings: Any) -> Case:  # fmt: skip
    return Case(name, oracle, settings, draw, variant, exempt=exempt)


CASES = [
    case("triplet", given(1.0), draw=hard, exempt=("length",)),
    case("triplet", given(0.3, cosine), "cosine", hard, score="cosine", margin=0.3),
    case("batch-all-triplet", triplet("all", 1.0, active=True), exempt=("length",)),
    case("batch-all-triplet", triplet("all", 0.4), "views", labelled_views, margin=0.4, average="all"),
    case("batch-hard-triplet", triplet("hard", 5.0), margin=5.0, exempt=("length",)),
    case("batch-hard-triplet", triplet("hard", 1.0, active=True), "views", labelled_views, average="active"),
    case("soft-margin-triplet", triplet("hard", 0.0, soft=True), exempt=("length",)),
    case("semi-hard-triplet", triplet("semi-hard", 1.0), exempt=("length",)),
    case("semi-hard-triplet", triplet("semi-hard", 0.2, like=cosine), "cosine", labelled_views, score="cosine",
         margin=0.2),
    case("multi-similarity", multi_similarity(2.0, 50.0, 0.5, 0.1)),
    case("multi-similarity", multi_similarity(2.0, 20.0, 0.5, None), "all", labelled_views, beta=20.0, epsilon=None),
    case("multi-similarity", multi_similarity(3.0, 10.0, 0.3, 0.2), "mined", labelled_views, alpha=3.0, beta=10.0,
         base=0.3, epsilon=0.2),
    case("circle", circle(0.4, 80.0), exempt=("slope",)),
    case("circle", circle(0.25, 8.0), "views", labelled_views, relaxation=0.25, temperature=1 / 8),
    case("contrastive", contrastive(0.5), draw=alike),
    case("contrastive", contrastive(2.0, euclidean=True), "euclidean", graded, margin=2.0, distance="euclidean"),
    case("online-contrastive", contrastive(0.5, online=True), draw=alike),
    case("online-contrastive", contrastive(0.5, online=True), "threshold", lambda rng, step: views(
        rng, size=6, score=np.array([0.9, 0, 1, 0.3, 0.6, 1.0])), threshold=0.8),
    case("list-mle", lists("own", 0.05), draw=rated),
    case("list-mle", lists("own", 0.3), "guide", taught, temperature=0.3),
    case("list-mle", lists("batch", 0.2), "batch", taught, temperature=0.2, lists="batch"),
    case("list-mle", lists("members", 0.2), "members", taught, temperature=0.2, lists="members"),
    case("list-mle", lists("members", 0.2, 0.5, 0.1), "prior", taught, temperature=0.2, lists="members", omega=0.5,
         teacher_temperature=0.1),
    case("list-mle", lists("members", 0.2, 2.0, 0.05, "code"), "prior-code", taught, temperature=0.2, lists="members",
         omega=2.0, fidelity="code"),
]  # fmt: skip
