"""Objectives over pairs of image and text views, pair by pair."""

from __future__ import annotations

import math

import numpy as np

from tests.objectives.cases.potentials import three
from tests.objectives.harness import Arrays, Case, Facts, Oracle
from tests.objectives.oracles import ranking
from tests.objectives.oracles.plain import lse, mean, table


def _cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    return mean([sum(-q * (x - lse(list(row))) for q, x in zip(own, row, strict=True))
                 for row, own in zip(logits, targets, strict=True)])  # fmt: skip


def clip_pairs(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """One scale for both pairs, whose negatives are apart."""
    scale = math.exp(float(x["inner.0.scale.log_scale"]))
    losses = []
    for text in ("positive", "view3"):
        logits = scale * table(x["anchor"], x[text])
        eye = np.eye(len(logits))
        losses.append((_cross_entropy(logits, eye) + _cross_entropy(logits.T, eye)) / 2)
    return mean(losses)


def swapped(images: tuple[str, ...], texts: tuple[str, ...], epsilon: float, rounds: int) -> Oracle:
    """The target of images[i] and texts[j] comes from the names at the mirrored places."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        scale = math.exp(float(x["scale.log_scale"]))
        losses = []
        for image, mirrored in zip(images, reversed(images), strict=True):
            for text, other in zip(texts, reversed(texts), strict=True):
                scores, teacher = table(x[image], x[text]), table(fixed[mirrored], fixed[other])
                for own, taught in ((scores, teacher), (scores.T, teacher.T)):
                    losses.append(_cross_entropy(scale * own, ranking.sinkhorn(taught, epsilon, rounds)))
        return mean(losses)

    return loss


CASES = [
    Case("view-pairs", clip_pairs, {"objective": "clip", "positives": ["positive", "view3"]}, three),
    Case("swalip", swapped(("anchor", "view3"), ("positive",), 0.05, 3), {}, three, exempt=("slope",)),
    Case(
        "swalip", swapped(("anchor",), ("positive", "view3"), 0.3, 2),
        {"images": ["anchor"], "texts": ["positive", "view3"], "epsilon": 0.3, "iterations": 2, "temperature": 0.2},
        three, "texts", exempt=("slope",),
    ),
]  # fmt: skip
