"""Statistics of many views, nearest neighbours and random directions, from their formulas."""

from __future__ import annotations

import math

import numpy as np
import torch

from embedkit.objectives.base import Objective
from embedkit.objectives.matrix.similarity import Side
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.plain import cosine, distance, dot, mean, softmax, unit


def wide(rng: np.random.Generator, step: int) -> Draw:
    """More rows than columns."""
    return views(rng, size=7, dim=3)


def three(rng: np.random.Generator, step: int) -> Draw:
    """Three views, fewer rows than columns."""
    return views(rng, count=3, size=4, dim=5)


def wide_parts(rng: np.random.Generator, step: int) -> Draw:
    """Two views whose columns have halves and thirds."""
    return views(rng, size=5, dim=12)


def single(rng: np.random.Generator, step: int) -> Draw:
    """One view."""
    return views(rng, count=1, size=6)


def guided(rng: np.random.Generator, step: int) -> Draw:
    """Two views, and the guide's vectors of both."""
    draw = wide(rng, step)
    return Draw(draw.vectors, {"guide": {name: z + rng.normal(size=z.shape) for name, z in draw.vectors.items()}})


def stacked(x: Arrays) -> list[np.ndarray]:
    """All views in order."""
    return [x[name] for name in ("anchor", "positive", "view3") if name in x]


def emp(invariance: float, eps: float) -> Oracle:
    """Eigenvalues for the determinant."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        zs = [unit(z) for z in stacked(x)]
        middle = sum(zs) / len(zs)
        rows, dim = zs[0].shape
        rates = [sum(math.log(1 + dim / (rows * eps) * max(e, 0)) for e in np.linalg.eigvalsh(z.T @ z)) / 2 for z in zs]
        near = mean(cosine(a, m) for z in zs for a, m in zip(z, middle, strict=True))
        return -invariance * near - mean(rates)

    return loss


def frossl(invariance: float) -> Oracle:
    """Norms of the full covariance."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        zs = [unit(z.T).T for z in stacked(x)]
        middle, total = sum(zs) / len(zs), 0.0
        for z in zs:
            gram = z.T @ z / np.trace(z.T @ z)
            total += math.log(float((gram**2).sum()))
            total += invariance * len(zs) * mean(distance(a, m) ** 2 for a, m in zip(z, middle, strict=True))
        return total

    return loss


def mmcr(local: float, guide: bool = False) -> Oracle:
    """Roots of the eigenvalues of the Gram matrices."""

    def nuclear(z: np.ndarray) -> float:
        return float(np.linalg.svd(z, compute_uv=False).sum())

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        zs = [unit(z) for z in stacked(x) + (stacked(facts.guide) if guide else [])]
        rows = range(facts.size)
        return local * mean(nuclear(np.array([z[i] for z in zs])) for i in rows) - nuclear(sum(zs) / len(zs))

    return loss


def tico(contrast: float, keep: float, guide: bool = False) -> Oracle:
    """State from the history, then both pairs in turn."""

    def pairs(x: Arrays, slow: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
        if not guide:
            return [(x["anchor"], x["positive"])]
        return [(x["anchor"], slow["positive"]), (x["positive"], slow["anchor"])]

    def moved(state: np.ndarray, z: np.ndarray) -> np.ndarray:
        return keep * state + (1 - keep) * sum(np.outer(a, a) for a in unit(z)) / len(z)

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        state = np.zeros((x["anchor"].shape[1],) * 2)
        for draw in facts.history:
            for z, _ in pairs(draw.vectors, draw.known.get("guide", {})):
                state = moved(state, z)
        total = 0.0
        for (z, y), (still, _) in zip(pairs(x, facts.guide), pairs(fixed, facts.guide), strict=True):
            state = moved(state, still)
            total += 1 - mean(cosine(a, b) for a, b in zip(z, y, strict=True))
            total += contrast * mean(dot(a, state @ a) for a in unit(z))
        return total

    return loss


def koleo(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Each view apart."""
    losses = []
    for z in map(unit, stacked(x)):
        losses += [-math.log(min(distance(a, b) for j, b in enumerate(z) if j != i) + 1e-8) for i, a in enumerate(z)]
    return mean(losses)


def part_diversity(parts: int) -> Oracle:
    """Every two parts of every vector."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        cut = [np.split(row, parts) for z in stacked(x) for row in z]
        return mean(cosine(each[i], each[j]) ** 2 for each in cut for i in range(parts) for j in range(i))

    return loss


def directions(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """Those that the objective draws, one a row."""

    dim = draw.vectors["anchor"].shape[1]
    wide = torch.randn(dim, objective.directions, generator=draw.batch().generator("directions"), dtype=torch.float64)
    return {"directions": unit(wide.numpy().T)}


def normality(zs: list[np.ndarray], axes: np.ndarray, knots: int, highest: float) -> float:
    """The integral over both halves, from the complex characteristic function."""
    times = np.linspace(-highest, highest, 2 * knots - 1)
    found = []
    for z in zs:
        for axis in axes:
            heights = []
            for t in times:
                law = math.exp(-t * t / 2)
                chance = sum(complex(math.cos(t * dot(a, axis)), math.sin(t * dot(a, axis))) for a in z) / len(z)
                heights.append(abs(chance - law) ** 2 * law)
            found.append(len(z) * float(np.trapezoid(heights, times)))
    return mean(found)


def sigreg(knots: int = 17, highest: float = 3.0) -> Oracle:
    """All views."""
    return lambda x, fixed, facts: normality(stacked(x), facts.state["directions"], knots, highest)


def lejepa(weight: float, centre: int) -> Oracle:
    """And distances from the mean of the first views."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        zs = stacked(x)
        middle = sum(zs[:centre]) / len(zs[:centre])
        apart = mean(float(v) for z in zs for v in ((z - middle) ** 2).flatten())
        return weight * normality(zs, facts.state["directions"], 17, 3.0) + (1 - weight) * apart

    return loss


def held(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """The queue's vectors."""
    return {"bank": objective.queue.side(Side(torch.eye(4, dtype=torch.float64), {})).z.numpy()}


def co2(tau: float, pair: bool = False, queue: bool = False) -> Oracle:
    """Both divergences, candidate by candidate."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows = []
        for i in range(facts.size):
            shares = []
            for own, other in (("anchor", "positive"), ("positive", "anchor")):
                rest = list(facts.state["bank"]) if queue else [z for j, z in enumerate(x[other]) if j != i]
                rest = [x[other][i], *rest] if pair else rest
                shares.append(softmax([cosine(x[own][i], c) / tau for c in rest]))
            q, p = shares
            rows.append(sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(q, p, strict=True)) / 2)
        return mean(rows)

    return loss


FEW = {"directions": 3}
CASES = [
    Case("emp-ssl", emp(200, 0.2), draw=wide),
    Case("emp-ssl", emp(3, 0.7), {"invariance": 3, "eps": 0.7}, three, "settings"),
    Case("frossl", frossl(1), draw=wide),
    Case("frossl", frossl(0.3), {"invariance": 0.3}, three, "settings"),
    Case("mmcr", mmcr(0.005), draw=wide),
    Case("mmcr", mmcr(0.5), {"local": 0.5}, three, "settings"),
    Case("mmcr", mmcr(0.1, True), {"local": 0.1, "with_guide": True}, guided, "guide"),
    Case("tico", tico(8, 0.9), draw=wide, warm=2, exempt=("slope",)),
    Case("tico", tico(2, 0.3, True), {"contrast": 2, "keep": 0.3, "keys": "guide"}, guided, "guide", warm=2),
    Case("co2", co2(0.05)),
    Case("co2", co2(0.3, pair=True), {"temperature": 0.3, "pair": True}, variant="pair"),
    Case("co2", co2(0.3, queue=True), {"temperature": 0.3, "size": 7}, variant="queue", warm=2, peek=held),
    Case("part-diversity", part_diversity(2), {}, wide_parts),
    Case("part-diversity", part_diversity(3), {"parts": 3}, wide_parts, "three"),
    Case("koleo", koleo, draw=single),
    Case("koleo", koleo, draw=three, variant="views"),
    Case("sigreg", sigreg(), FEW, single, peek=directions, exempt=("length",)),
    Case("sigreg", sigreg(5, 2.0), {**FEW, "knots": 5, "highest": 2.0}, three, "settings", peek=directions),
    Case("lejepa", lejepa(0.05, 2), FEW, wide, peek=directions, exempt=("length",)),
    Case("lejepa", lejepa(0.4, 1), {**FEW, "weight": 0.4, "global_views": 1}, three, "settings", peek=directions),
]
