"""Objectives over named modalities of which some rows lack some, written out row by row."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, views
from tests.objectives.oracles.plain import lse, mean, table

NAMES = ("anchor", "positive", "view3")


def lacking(rng: np.random.Generator, step: int) -> Draw:
    """Seven rows of three modalities, of which two lack the second and four the third."""
    draw = views(rng, count=3, size=7)
    rows = {"anchor": np.arange(7), "positive": np.array([0, 1, 2, 4, 5]), "view3": np.array([0, 3, 4])}
    vectors = {name: z[rows[name]] for name, z in draw.vectors.items()}
    return Draw(vectors, {"owner": rows, "label": np.array([0, 1, 0, 2, 1, 0, 2])})


def _of_pair(x: Arrays, facts: Facts, one: str, two: str, number: int) -> float:
    """The symmetric cross-entropy of the rows that have both."""
    first, second = (dict(zip(facts.owner[name].tolist(), x[name], strict=True)) for name in (one, two))
    rows = [row for row in first if row in second]
    scale = math.exp(float(x[f"inner.{number}.scale.log_scale"]))
    logits = scale * table(np.stack([first[row] for row in rows]), np.stack([second[row] for row in rows]))
    own = [lse(list(line)) - line[i] for way in (logits, logits.T) for i, line in enumerate(way)]
    return mean(own)


def all_pairs(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Each pair with a scale of its own."""
    return sum(_of_pair(x, facts, *pair, number) for number, pair in enumerate(itertools.combinations(NAMES, 2)))


def core(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """The second with each other, by weight."""
    one, two = (("positive", "anchor"), ("positive", "view3"))
    return 0.5 * _of_pair(x, facts, *one, 0) + 2.0 * _of_pair(x, facts, *two, 1)


def one_batch(by_label: bool) -> object:
    """Every vector an anchor, the others of its row or label its positives; one without has loss 0."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        every = [(row, z) for name in NAMES for row, z in zip(facts.owner[name], x[name], strict=True)]
        kind = [facts.label[row] if by_label and facts.label is not None else row for row, _ in every]
        logits = table(np.stack([z for _, z in every]), np.stack([z for _, z in every])) / 0.3
        losses = []
        for i, line in enumerate(logits):
            others = [j for j in range(len(every)) if j != i]
            positives = [j for j in others if kind[j] == kind[i]]
            losses.append(mean([lse([line[j] for j in others]) - line[j] for j in positives]) if positives else 0.0)
        return mean(losses)

    return loss


_SUPCON = {"name": "supcon", "temperature": 0.3, "base_temperature": 0.3}
CASES = [
    Case("modality-pairs", all_pairs, {"objective": "clip", "names": list(NAMES)}, lacking, exempt=("order",)),
    Case(
        "modality-pairs", core,
        {"objective": "clip", "names": list(NAMES), "pairs": [["positive", "anchor"], ["positive", "view3"]],
         "weights": {"positive-anchor": 0.5, "positive-view3": 2.0}},
        lacking, "core",
    ),
    Case("modality-views", one_batch(False), {"objective": _SUPCON, "names": list(NAMES)}, lacking, exempt=("order",)),
    Case(
        "modality-views", one_batch(True), {"objective": _SUPCON, "names": list(NAMES), "positives": "label"}, lacking,
        "label",
    ),
]  # fmt: skip
