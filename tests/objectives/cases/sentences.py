"""Objectives of single sentence methods: DCLR, SCT, SG-OPT."""

from __future__ import annotations

import numpy as np

from embedkit.objectives import build
from embedkit.objectives.base import Objective
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, arrays, tensors, views
from tests.objectives.oracles import sentences
from tests.objectives.oracles.plain import unit


def complemented(rng: np.random.Generator, step: int) -> Draw:
    """Two views, and a complementary model that finds some rows alike."""
    draw = views(rng)
    base = rng.normal(size=(5, 3))
    base[3] = base[0]
    guide = {name: base + 0.1 * rng.normal(size=base.shape) for name in draw.vectors}
    return Draw(draw.vectors, {**draw.known, "guide": guide})


def started(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """The noise before its ascent."""
    still = build({"name": "dclr", "ascent": 0, "noise": objective.noise, "deviation": objective.deviation}).double()
    batch = draw.batch()
    return {"start": arrays(still.noise_vectors(*(tensors(draw.vectors)[n] for n in ("anchor", "positive")), batch))}


def dclr(fidelity: str, phi: float = 0.9, steps: int = 4, size: float = 1e-3, tau: float = 0.05) -> Oracle:
    """Noise and weights take no gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        noise = sentences.dclr_noise(
            fixed["anchor"], fixed["positive"], facts.state["start"], steps, size, tau, fidelity == "code"
        )
        guide = facts.guide
        weight = np.array([
            [sentences.dclr_weight(guide["anchor"], guide["positive"], i, j, phi) if guide else 1.0
             for j in range(facts.size)] for i in range(facts.size)
        ])  # fmt: skip
        assert not guide or (weight == 0).any()
        formula = sentences.dclr_code if fidelity == "code" else sentences.dclr_paper
        return formula(x["anchor"], x["positive"], noise, weight, tau)

    return loss


def referenced(rng: np.random.Generator, step: int) -> Draw:
    """Two views, and the reference vectors of both."""
    draw = views(rng)
    guide = {name: rng.normal(size=z.shape) for name, z in draw.vectors.items()}
    return Draw(draw.vectors, {**draw.known, "guide": guide})


def sct(size: int, t_ref: float, t_on: float, factor: float = 1.0) -> Oracle:
    """The queues hold the newest reference vectors of each view, and what is left of the random start."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        queues = []
        for view, name in enumerate(("anchor", "positive")):
            seen = [row for draw in facts.history for row in unit(draw.known["guide"][name])]
            queues.append(np.array(seen[-size:] + list(facts.initial["queue"][view])[len(seen) :]))
        reference = [facts.guide["anchor"], facts.guide["positive"]]
        return factor * sentences.sct([x["anchor"], x["positive"]], reference, queues, t_ref, t_on)

    return loss


def layered(rng: np.random.Generator, step: int) -> Draw:
    """Three vectors a row in the second view."""
    draw = views(rng)
    wide = np.concatenate([draw.vectors["positive"] + rng.normal(size=(5, 4)) for _ in range(3)], axis=1)
    return Draw({"anchor": draw.vectors["anchor"], "positive": wide}, draw.known)


def sg_opt(tau: float, layers: int) -> Oracle:
    """All layers of all other rows repel."""
    return lambda x, fixed, facts: sentences.sg_opt(x["anchor"], x["positive"].reshape(facts.size, layers, -1), tau)


PAPER = {"fidelity": "paper", "temperature": 0.2, "noise_temperature": 0.2, "phi": 0.8, "noise": 1.5, "step_size": 0.1}
CASES = [
    Case("dclr", dclr("code"), {}, complemented, peek=started, exempt=("slope",)),
    Case("dclr", dclr("code", steps=2, size=0.1, tau=0.3), {"ascent": 2, "step_size": 0.1, "temperature": 0.3,
         "noise": 0.5, "deviation": 2.0}, variant="alone", peek=started),
    Case("dclr", dclr("paper", 0.8, 4, 0.1, 0.2), PAPER, complemented, "paper", peek=started),
    Case("sct", sct(7, 0.04, 0.05), {"size": 7}, referenced, warm=3),
    Case("sct", sct(12, 0.3, 0.2, 0.5), {"size": 12, "reference_temperature": 0.3, "online_temperature": 0.2,
         "fidelity": "paper"}, referenced, "paper", warm=1),
    Case("sg-opt", sg_opt(0.01, 1)),
    Case("sg-opt", sg_opt(0.2, 3), {"temperature": 0.2}, layered, "layers"),
]  # fmt: skip
