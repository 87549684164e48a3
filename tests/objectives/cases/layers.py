"""Objectives on the vectors of several layers, and contrastive tension with the pairs that it drew."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.plain import cosine, dot, mean, unit

T = 0.05


def infonce(x: Arrays) -> float:
    """Anchors against all positives."""
    rows = []
    for i, a in enumerate(x["anchor"]):
        scores = [cosine(a, p) / T for p in x["positive"]]
        rows.append(math.log(sum(math.exp(s) for s in scores)) - scores[i])
    return mean(rows)


def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp((z - z.max()) / temperature)
    return e / e.sum()


def layered(size: int, temperature: float, weights: dict[str, Any]) -> Oracle:
    """The last layer's loss, the mean of the chosen layers' ones, and the divergence of each from the last."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        if weights.get("normalize"):
            fixed = {name: np.concatenate([unit(part) for part in np.split(z, z.shape[1] // size, axis=1)], axis=1)
                     for name, z in fixed.items()}  # fmt: skip
        cut = {name: np.split(z, z.shape[1] // size, axis=1) for name, z in x.items()}
        targets = [row for z in fixed.values() for row in z[:, -size:]]
        total = weights["last"] * infonce({name: parts[-1] for name, parts in cut.items()})
        chosen = facts.state["chosen"].tolist()
        for place in chosen:
            layer = {name: parts[place] for name, parts in cut.items()}
            w = {"uniform": 1.0, "log": 1 / (1 + math.log(1 + place)), "linear": 1 / (1 + place)}[weights["weighting"]]
            total += weights["earlier"] * w * infonce(layer) / len(chosen)
            rows = [row for z in layer.values() for row in z]
            divergences = []
            for row, target in zip(rows, targets, strict=True):
                row = unit(row[None])[0] if weights.get("normalize") else row
                p, q = softmax(target, temperature), softmax(row, temperature)
                divergences.append(sum(p * np.log(p / q)))
            total += weights["kl"] * temperature * mean(divergences)
        return total

    return loss


def deep(rng: np.random.Generator, step: int) -> Draw:
    """Vectors of three layers of two coordinates."""
    draw = views(rng)
    return Draw({name: rng.normal(size=(len(z), 6)) for name, z in draw.vectors.items()}, draw.known)


def layers_drawn(objective: Any, draw: Draw) -> dict[str, np.ndarray]:
    return {"chosen": np.array(objective.chosen(2, draw.batch()))}


def adaptive(variant: str = "", embedding: bool = False, **settings: Any) -> Case:
    known = {"last": 1.0, "earlier": 1.0, "kl": 1.0, "weighting": "uniform", **settings}
    temperature = settings.get("temperature", 0.3)
    given = {"objective": {"name": "infonce", "temperature": T}, "size": 2, **settings}
    given |= {"embedding_layer": True} if embedding else {}
    oracle = layered(2, temperature, known)
    return Case("adaptive-layers", oracle, given, deep, variant, peek=layers_drawn, exempt=("length", "slope"))


def tension(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Binary cross-entropy of each anchor with its own positive and with the others that were drawn."""
    total, keys = 0.0, facts.keys["positive"]
    for i, (a, p) in enumerate(zip(x["anchor"], x["positive"], strict=True)):
        total += math.log1p(math.exp(-dot(a, p)))
        for j in facts.state["others"][i].tolist():
            sign = -1 if keys[i] == keys[j] else 1
            total += math.log1p(math.exp(sign * dot(a, x["positive"][j])))
    return total


def others_drawn(objective: Any, draw: Draw) -> dict[str, np.ndarray]:
    return {"others": objective.others(draw.batch()).numpy()}


def twins(rng: np.random.Generator, step: int) -> Draw:
    """Rows of which two have the same text."""
    draw = views(rng)
    size = len(draw.vectors["anchor"])
    keys = {"anchor": np.arange(size), "positive": np.array([100, 101, 100, *range(103, 100 + size)])}
    return Draw(draw.vectors, {**draw.known, "keys": keys})


CASES = [
    adaptive(),
    adaptive("all", per_step=None, last=0.5, earlier=2.0, kl=0.7, weighting="log", temperature=0.8),
    adaptive("unit", normalize=True),
    adaptive("linear", embedding=True, per_step=2, weighting="linear"),
    Case("contrastive-tension", tension, {"negatives": 2}, peek=others_drawn, exempt=("order", "length")),
    Case("contrastive-tension", tension, {}, twins, "all-with-twins", peek=others_drawn),
]
