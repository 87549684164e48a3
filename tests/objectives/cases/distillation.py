"""Self-distillation of assignments, from the formulas with loops."""

from __future__ import annotations

import math

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.plain import cosine, lse, mean, softmax

COUNT = 3


def crops(rng: np.random.Generator, step: int) -> Draw:
    """Three views, two of which the guide has embedded."""
    draw = views(rng, count=3)
    guide = {name: draw.vectors[name] + rng.normal(size=draw.vectors[name].shape) for name in ("anchor", "positive")}
    return Draw(draw.vectors, {"guide": guide, "epoch": step})


def one_teacher(rng: np.random.Generator, step: int) -> Draw:
    """Three views; the guide has embedded the first."""
    draw = crops(rng, step)
    return Draw(draw.vectors, {**draw.known, "guide": {"anchor": draw.known["guide"]["anchor"]}})


def pairs(x: Arrays, guide: Arrays) -> list[tuple[str, str]]:
    """Teacher's and student's view."""
    return [(t, s) for t in guide for s in ("anchor", "positive", "view3") if s != t]


def cosines(z: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(B, K)."""
    return np.array([[cosine(a, c) for c in bank] for a in z])


def cross_entropy(p: list[float], logits: np.ndarray) -> float:
    """From p to the softmax of the logits."""
    return -sum(a * (b - lse(list(logits))) for a, b in zip(p, logits, strict=True))


def dino(
    student: float = 0.1, teacher: float = 0.04, keep: float = 0.9, bank: bool = False, warm: float = 0.04
) -> Oracle:
    """The centre and the teacher's prototypes from the history."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        held = facts.initial.get("teacher_prototypes")
        centre = np.zeros(COUNT if bank else x["anchor"].shape[1])
        for draw in facts.history:
            rows = [row for z in draw.known["guide"].values() for row in (z if held is None else cosines(z, held))]
            centre = keep * centre + (1 - keep) * sum(rows) / len(rows)
            held = None if held is None else 0.996 * held + 0.004 * fixed["prototypes"]
        now = [warm, (warm + teacher) / 2, teacher][facts.epoch] if warm != teacher else teacher
        found = []
        for t, s in pairs(x, facts.guide):
            slow = facts.guide[t] if held is None else cosines(facts.guide[t], held)
            fast = x[s] if held is None else cosines(x[s], x["prototypes"])
            for a, b in zip(slow, fast, strict=True):
                found.append(cross_entropy(softmax(list((a - centre) / now)), b / student))
        return mean(found)

    return loss


def balanced(scores: np.ndarray, power: float, rounds: int) -> np.ndarray:
    """Softmax to a power, then columns and rows in turn."""
    p = np.array([softmax(list(row)) for row in scores]) ** power
    p = p / p.sum(1, keepdims=True)
    for _ in range(rounds):
        p = p / p.sum(0, keepdims=True)
        p = p / p.sum(1, keepdims=True)
    return p


def msn(
    tau: float = 0.1, sharpening: float = 0.25, rounds: int = 3, weight: float = 1.0, exponent: float = 0.0
) -> Oracle:
    """Targets by the prototypes that stand still."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        rows, students = [], {}
        for t, s in pairs(x, facts.guide):
            target = balanced(cosines(facts.guide[t], fixed["prototypes"]) / tau, 1 / sharpening, rounds)
            logits = students[s] = cosines(x[s], x["prototypes"]) / tau
            rows += [cross_entropy(list(p), z) for p, z in zip(target, logits, strict=True)]
        q = np.mean([softmax(list(z)) for logits in students.values() for z in logits], axis=0)
        prior = [k**-exponent for k in range(1, len(q) + 1)]
        prior = [p / sum(prior) for p in prior]
        return mean(rows) + weight * sum(a * math.log(a / b) for a, b in zip(q, prior, strict=True))

    return loss


BANK = {"prototypes": COUNT}
CASES = [
    Case("dino", dino(), draw=crops, warm=2, exempt=("length",)),
    Case("dino", dino(0.3, 0.7, 0.5, warm=0.1), {"student_temperature": 0.3, "teacher_temperature": 0.7,
         "warm_temperature": 0.1, "warm_epochs": 3, "centre_momentum": 0.5}, one_teacher, "settings", warm=1),
    Case("dino", dino(bank=True), BANK, crops, "prototypes", warm=1),
    Case("msn", msn(), BANK, crops, exempt=("slope",)),
    Case("msn", msn(0.3, 0.5, 0, 0.0), {**BANK, "temperature": 0.3, "sharpening": 0.5, "iterations": 0,
         "regularisation": 0.0}, one_teacher, "settings"),
    Case("pmsn", msn(exponent=0.25), BANK, crops, exempt=("slope",)),
    Case("pmsn", msn(weight=3.0, exponent=1.5), {**BANK, "exponent": 1.5, "regularisation": 3.0}, one_teacher, "law"),
]  # fmt: skip
