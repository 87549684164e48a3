"""Groups of neighbours against a running mean, and pairs mixed by label. Oracles make all state from the history."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from embedkit.objectives.base import Objective
from tests.objectives.cases.banks import BANK, class_labels, predicted, queue, with_guide
from tests.objectives.harness import Arrays, Case, Draw, Facts
from tests.objectives.oracles import banks, transformer
from tests.objectives.oracles.plain import Vectors, cosine, dot, lse, mean, unit


def group_keys(
    facts: Facts, guide: Arrays, step: int, mixer: Arrays, momentum: float, heads: int, count: int
) -> dict[str, Vectors]:
    """Mugs' keys at a step: the transformer's running mean on the guide's vectors and their neighbours."""
    start = {name.removeprefix("direction.mean of "): z for name, z in facts.initial.items() if ".mean of " in name}
    share = momentum**step
    mean_now = {name: share * start[name.removeprefix("mixer.").replace(".", " ")] + (1 - share) * z
                for name, z in mixer.items()}  # fmt: skip
    earlier = replace(facts, history=facts.history[:step])
    held = queue(earlier, "anchor", "direction.queue.vectors", source="guide")
    return {view: groups(guide[view], held, mean_now, heads, count) for view in ("anchor", "positive")}


def groups(z: Vectors, held: Vectors, weights: Arrays, heads: int, count: int) -> Vectors:
    """First output of the transformer over each vector and its nearest in the queue."""
    tokens = [np.array([v, *sorted(held, key=lambda c, v=v: -cosine(v, c))[:count]]) for v in unit(z)]
    return np.array([transformer.first_output(one, weights, heads) for one in tokens])


def local_group(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Mugs' local-group term: predictions of the encoder's groups against keys, with earlier keys as negatives."""
    mixer, constant = (
        {name.removeprefix("direction."): z for name, z in of.items() if name.startswith("direction.mixer.")}
        for of in (x, fixed)
    )
    setting = {"mixer": constant, "momentum": 0.9, "heads": 2, "count": 3}
    ring, pointer = facts.initial["bank.vectors"], 0
    for step, draw in enumerate(facts.history):
        keys = group_keys(facts, draw.known["guide"], step, **setting)
        ring, pointer = banks.enqueue(ring, pointer, unit(keys["positive"]))
    held = queue(facts, "anchor", "direction.queue.vectors", source="guide")
    keys, total = group_keys(facts, facts.guide, len(facts.history), **setting), []
    for view, other in (("anchor", "positive"), ("positive", "anchor")):
        made = {view: groups(x[view], held, mixer, 2, 3)}
        prediction = predicted({**x, **made}, view, "direction.")
        total += banks.moco_rows(prediction, keys[other], ring, 0.2)
    return mean(total)


def core_tuning(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """All views anchor; beside their classes a mixture attracts and one repels, terms weigh 1 - p."""
    live, still = (unit(np.concatenate([v["anchor"], v["positive"]])) for v in (x, fixed))
    label, total = list(facts.label) * 2, []
    for i, z in enumerate(live):
        same = [j for j in range(len(live)) if label[j] == label[i] and j != i]
        unlike = [j for j in range(len(live)) if label[j] != label[i]]
        near, far = ([dot(z, live[j]) / 0.07 for j in kind] for kind in (same, unlike))
        p = still[min(same, key=lambda j, i=i: dot(still[i], still[j]))]
        n = still[max(unlike, key=lambda j, i=i: dot(still[i], still[j]))]
        m = still[unlike[int(facts.state["chance"][i] * len(unlike))]]
        shares = facts.state["share"][:, i]
        one, two = (a * u + (1 - a) * v for a, (u, v) in zip(shares, ((p, n), (n, m)), strict=True))
        near.append(cosine(z, one) / 0.07)
        far.append(cosine(z, two) / 0.07)
        shares_of = [math.exp(score - lse([*near, *far])) for score in near]
        total.append(mean(-(1 - p) * math.log(p) for p in shares_of))
    return mean(total)


def pair_draws(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """Which other negative, and the shares of both mixtures."""
    rng, count = draw.batch().random("hard-pairs", 0), 2 * len(draw.vectors["anchor"])
    chance, share = rng.random(count), rng.beta(1.0, 1.0, (2, count))
    return {"chance": chance, "share": np.maximum(share, 1 - share)}


CASES = [
    Case(
        "local-group",
        local_group,
        {**BANK, "hidden": 3, "nearest": 3, "heads": 2, "layers": 1, "momentum": 0.9},
        with_guide,
        warm=2,
    ),
    Case("core-tuning", core_tuning, draw=class_labels, peek=pair_draws, exempt=("order",)),
]
