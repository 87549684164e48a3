"""Triplets, multi-similarity, circle, contrastive pairs, lists: from their formulas, with loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .plain import lse, mean, softplus

Logit = Callable[[int, int], float]
Sets = Sequence[tuple[list[int], list[int]]]
"""Positives and negatives of each anchor, as numbers of candidates."""


def triplets(sets: Sets, logit: Logit, mining: str) -> list[tuple[int, int, int]]:
    """Which triplets a miner takes."""
    found = []
    for i, (positives, negatives) in enumerate(sets):
        if not positives or not negatives:
            continue
        if mining == "all":
            found += [(i, p, n) for p in positives for n in negatives]
        elif mining == "hard":
            worst = min(positives, key=lambda p: logit(i, p))
            found.append((i, worst, max(negatives, key=lambda n: logit(i, n))))
        else:
            for p in positives:
                beyond = [n for n in negatives if logit(i, n) < logit(i, p)]
                choice = max(beyond, key=lambda n: logit(i, n)) if beyond else min(negatives, key=lambda n: logit(i, n))
                found.append((i, p, choice))
    return found


def triplet(sets: Sets, logit: Logit, mining: str, margin: float, soft: bool, active: bool) -> float:
    """Mean of hinge or softplus over the triplets."""
    gaps = [margin + logit(i, n) - logit(i, p) for i, p, n in triplets(sets, logit, mining)]
    losses = [softplus(gap) if soft else max(0.0, gap) for gap in gaps]
    count = sum(loss > 0 for loss in losses) if active else len(losses)
    return sum(losses) / max(1, count)


def multi_similarity(sets: Sets, score: Logit, alpha: float, beta: float, base: float, epsilon: float | None) -> float:
    """Equation 12 of Wang et al., with the miner of 3.2."""
    losses = []
    for i, (positives, negatives) in enumerate(sets):
        p, n = [score(i, j) for j in positives], [score(i, j) for j in negatives]
        if epsilon is not None:
            low, high = min(p, default=math.inf), max(n, default=-math.inf)
            p, n = [s for s in p if s - epsilon < high], [s for s in n if s + epsilon > low]
        pull = math.log(1 + sum(math.exp(-alpha * (s - base)) for s in p)) / alpha
        losses.append(pull + math.log(1 + sum(math.exp(beta * (s - base)) for s in n)) / beta)
    return mean(losses)


def circle(sets: Sets, score: Logit, fixed: Logit, m: float, gamma: float) -> float:
    """Equations 7 and 8 of Sun et al.; weights from `fixed`; mean over anchors with a positive."""
    losses, anchors = [], 0
    for i, (positives, negatives) in enumerate(sets):
        anchors += bool(positives)
        if positives and negatives:
            push = lse(gamma * max(0.0, fixed(i, j) + m) * (score(i, j) - m) for j in negatives)
            pull = lse(-gamma * max(0.0, 1 + m - fixed(i, j)) * (score(i, j) - 1 + m) for j in positives)
            losses.append(softplus(push + pull))
    return sum(losses) / max(1, anchors)


def contrastive(gaps: list[float], scores: Sequence[float], margin: float) -> float:
    """Hadsell et al., equation 4."""
    return mean(0.5 * (y * d**2 + (1 - y) * max(0.0, margin - d) ** 2) for d, y in zip(gaps, scores, strict=True))


def online_contrastive(gaps: list[float], scores: Sequence[float], margin: float) -> float:
    """Pairs on the wrong side of the other kind."""
    alike = [d for d, y in zip(gaps, scores, strict=True) if y == 1]
    apart = [d for d, y in zip(gaps, scores, strict=True) if y == 0]
    nearest, farthest = min(apart, default=mean(gaps)), max(alike, default=mean(gaps))
    return sum(d**2 for d in alike if d > nearest) + sum(max(0.0, margin - d) ** 2 for d in apart if d < farthest)


def list_mle(student: Sequence[float], target: Sequence[float]) -> float:
    """-log of the probability of drawing the candidates in the order of the targets."""
    order = sorted(range(len(student)), key=lambda j: -target[j])
    return sum(lse(student[j] for j in order[k:]) - student[order[k]] for k in range(len(order)))


def order_prior(teacher: Sequence[Sequence[float]], omega: float, fidelity: str) -> list[list[float]]:
    """Section 13 of the reference: similarities of an ordered list, moved towards its order."""
    count = len(teacher)
    moved = [[0.0] * count for _ in range(count)]
    for i in range(count):
        ranked = sorted(range(i, count), key=lambda j: -teacher[i][j])
        for j in range(i, count):
            gap = abs(teacher[i][j] - teacher[i][ranked[j - i]])
            early = ranked.index(j) < (j - i if fidelity == "paper" else j)
            moved[i][j] = moved[j][i] = teacher[i][j] + (-1 if early else 1) * math.log(1 + omega * gap)
    return moved


def joint(kinds: Sequence[Sequence[list[float]]], positives: Sequence[float]) -> float:
    """-positive + log of one sum over all kinds of pairs of a row."""
    return mean(lse(x for kind in kinds for x in kind[i]) - positives[i] for i in range(len(positives)))
