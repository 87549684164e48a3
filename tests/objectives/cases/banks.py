"""Queues of earlier keys, neighbours, state by training row, mixtures. Oracles make all state from the history."""

from __future__ import annotations

import math

import numpy as np
import torch

from embedkit.objectives.base import Objective
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles import banks, general, pairs, softmax, statistics, transformer
from tests.objectives.oracles.plain import Vectors, cosine, dot, lse, mean, unit

SIZE = 7  # of queues: more than one batch of five, less than two


def queue(facts: Facts, name: str, start: str | None = None, size: int = SIZE, source: str = "vectors") -> Vectors:
    """What a queue holds now: unit vectors of `name`, newest over oldest, on top of the vectors it started with."""
    ring = np.zeros((size, facts.history[0].vectors[name].shape[1]) if start is None else facts.initial[start].shape)
    if start is not None:
        ring = facts.initial[start]
    pointer, count = 0, 0
    for draw in facts.history:
        rows = draw.vectors[name] if source == "vectors" else draw.known["guide"][name]
        ring, pointer = banks.enqueue(ring[:, : rows.shape[1]], pointer, unit(rows))
        count += len(rows)
    return ring if start is not None else ring[: min(size, count)]


def moco(tau: float, start: str | None = "bank.vectors") -> Oracle:
    """Keys and queue carry no gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        return mean(banks.moco_rows(x["anchor"], fixed["positive"], queue(facts, "positive", start), tau))

    return loss


def sumoco(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Keys of the anchor's class attract, those of the batch and those of the queue; the rest of the queue repels."""
    held, rows = queue(facts, "positive"), []
    held_labels = np.concatenate([draw.known["label"] for draw in facts.history])[-SIZE:]
    ring = np.zeros(SIZE, int)
    for place, label in enumerate(np.concatenate([draw.known["label"] for draw in facts.history])):
        ring[place % SIZE] = label
    assert sorted(ring) == sorted(held_labels)
    for i in range(facts.size):
        own = [fixed["positive"][j] for j in range(facts.size) if facts.label[j] == facts.label[i]]
        near = [cosine(x["anchor"][i], k) / 0.07 for k in [*own, *held[ring == facts.label[i]]]]
        far = [cosine(x["anchor"][i], k) / 0.07 for k in held[ring != facts.label[i]]]
        rows.append(mean([lse([*near, *far]) - score for score in near]))
    return mean(rows)


def class_labels(rng: np.random.Generator, step: int) -> Draw:
    """Two views of rows of three classes, which differ from step to step."""
    return views(rng, label=np.array([0, 1, 0, 2, 1]) if step % 2 else np.array([2, 2, 1, 0, 1]), step=step)


def moco_in_batch(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """The batch repels as well, with gradient to both sides."""
    held = queue(facts, "positive")
    return mean(softmax.infonce_rows(x["anchor"], x["positive"], 0.2, held))


def moco_guide(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Keys come from the running mean of the encoder, in the batch and in the queue."""
    held = queue(facts, "positive", source="guide")
    return mean(banks.moco_rows(x["anchor"], facts.guide["positive"], held, 0.2))


def filtered(top: int, ceiling: float) -> Oracle:
    """Both views look at the other, and at their own hardest part of the queue."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        held, total = queue(facts, "positive"), []
        for q, k in (("anchor", "positive"), ("positive", "anchor")):
            for i in range(facts.size):
                near = banks.filtered(fixed[q][i], held, top, ceiling)
                logits = [cosine(x[q][i], c) / 0.2 for c in [fixed[k][i], *near]]
                total.append(lse(logits) - logits[0])
        return mean(total)

    return loss


def mochi(hardest: int, mixes: int, query_mixes: int) -> Oracle:
    """Mixtures of the hardest queue vectors, and of these with the query; without gradient.

    Which vectors, and in what shares, is the objective's draw.
    """

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        held, total = queue(facts, "positive"), mixes + query_mixes
        one, two, share = (facts.state[name] for name in ("one", "two", "share"))
        rows = []
        for i in range(facts.size):
            q = unit(fixed["anchor"][i : i + 1])[0]
            near = sorted(held, key=lambda c: -cosine(q, c))[:hardest]
            made = []
            for m in range(total):
                a = share[i, m] if m < mixes else 0.5 * share[i, m]
                first = near[one[i, m]] if m < mixes else q
                made.append(unit((a * first + (1 - a) * near[two[i, m]])[None])[0])
            rows.append(banks.mochi_row(x["anchor"][i], fixed["positive"][i], held, made, 0.2))
        return mean(rows)

    return loss


def ascl(tau: float, tau_teacher: float, neighbours: float) -> Oracle:
    """Targets and keys carry no gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        held = queue(facts, "positive", "bank.vectors")
        return mean(banks.ascl_rows(x["anchor"], fixed["positive"], held, tau, tau_teacher, neighbours))

    return loss


def mls(neighbours: int, scale: float, bias: float) -> Oracle:
    """The queue's vectors nearest in the guide's space are positive."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        held, held_guide = queue(facts, "positive"), queue(facts, "positive", source="guide")
        rows = zip(facts.guide["anchor"], x["anchor"], strict=True)
        return mean(banks.mls_row(g, z, held_guide, held, neighbours, scale, bias) for g, z in rows)

    return loss


PREDICTOR = ("first.weight", "scale", "shift", "second.weight", "second.bias")


def predicted(x: Arrays, name: str, prefix: str) -> Vectors:
    """The predictor's output for one view."""
    return pairs.predictor(x[name], *(x[f"{prefix}predictor.{part}"] for part in PREDICTOR))


def nnclr(x: Arrays, facts: Facts, tau: float, prefix: str, search: Arrays) -> float:
    """Mean of both directions; neighbours of one view against predictions of the other. Anchors enter the queue."""
    held, total = queue(facts, "anchor", f"{prefix}queue.vectors"), []
    for view, other in (("anchor", "positive"), ("positive", "anchor")):
        total += banks.nnclr_rows(predicted(x, other, prefix), search[view], held, tau)
    return mean(total)


def centroid(x: Arrays, facts: Facts, tau: float, prefix: str, search: Arrays, heads: int, count: int) -> float:
    """All4One's centroid term: r of the neighbours against g of [prediction, all neighbours but the last]."""
    held = queue(facts, "anchor", f"{prefix}queue.vectors")
    weights = {name[len(prefix) :]: z for name, z in x.items() if name.startswith(prefix)}
    r, g = {}, {}
    for view in ("anchor", "positive"):
        near = [sorted(held, key=lambda c, z=z: -cosine(z, c))[:count] for z in search[view]]
        r[view] = np.array([transformer.first_output(np.array(n), weights, heads) for n in near])
        shifted = [np.array([p, *n[:-1]]) for p, n in zip(predicted(x, view, prefix), near, strict=True)]
        g[view] = np.array([transformer.first_output(tokens, weights, heads) for tokens in shifted])
    total = []
    for view, other in (("anchor", "positive"), ("positive", "anchor")):
        total += softmax.infonce_rows(r[view], g[other], tau)
    return mean(total)


def all4one(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Half of each of the three terms; neighbours are searched with the guide's vectors."""
    total = centroid(x, facts, 0.1, "inner.0.direction.", facts.guide, 2, 3)
    total += nnclr(x, facts, 0.2, "inner.1.direction.", facts.guide)
    pairs_of = [(facts.guide["anchor"], x["positive"]), (facts.guide["positive"], x["anchor"])]
    return 0.5 * (total + statistics.feature_correlation(pairs_of, weight=10.0))


def by_row(tau: float, gamma: float) -> Oracle:
    """SogCLR: u from the history, refreshed with this batch before it is used."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        u = remembered(facts, fixed, gamma, tau)
        now = [u[i] for i in facts.ids]
        return banks.sogclr(x["anchor"], x["positive"], (fixed["anchor"], fixed["positive"]), now, [tau] * facts.size)

    return loss


def remembered(facts: Facts, now: Arrays, gamma: float, tau: float) -> dict[int, float]:
    """u of all rows seen, this batch included."""
    u: dict[int, float] = {}
    batches = [(draw.vectors, draw.known["ids"]) for draw in facts.history] + [(now, facts.ids)]
    for vectors, ids in batches:
        old, seen = [u.get(i, 0.0) for i in ids], [i in u for i in ids]
        new = banks.sogclr_state(vectors["anchor"], vectors["positive"], old, seen, gamma, [tau] * len(ids))
        u |= dict(zip(ids, new, strict=True))
    return u


def start(facts: Facts, tau0: float) -> float:
    """The temperature at the start, as it is held: in fp32."""
    held = float(facts.initial["scale.tau"].ravel()[0])
    assert abs(held - tau0) < 1e-7
    return held


def moved(tau: float, smooth: float, slope: float, rate: float, low: float, high: float, clip: float) -> tuple:
    """A row's temperature and smoothed gradient after a step: clip, smooth (0.9 of the old), descend, clip."""
    smooth = 0.9 * smooth + 0.1 * max(-clip, min(clip, slope))
    return min(high, max(low, tau - rate * smooth)), smooth


def isogclr(tau0: float, gamma: float, rho: float, rate: float, low: float, high: float, clip: float) -> Oracle:
    """iSogCLR: a temperature for each row, moved after each step by its own gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        u: dict[int, float] = {}
        at: dict[int, tuple[float, float]] = {}
        *before, (now, ids) = [(d.vectors, d.known["ids"]) for d in facts.history] + [(fixed, facts.ids)]
        for vectors, seen in before:
            a, p = vectors["anchor"], vectors["positive"]
            tau = [at.get(i, (start(facts, tau0), 0.0))[0] for i in seen]
            new = banks.sogclr_state(a, p, [u.get(i, 0.0) for i in seen], [i in u for i in seen], gamma, tau)
            u |= dict(zip(seen, new, strict=True))
            for i, slope in zip(seen, banks.tau_gradient(a, p, new, tau, rho), strict=True):
                at[i] = moved(*at.get(i, (start(facts, tau0), 0.0)), slope, rate, low, high, clip)
        tau = [at.get(i, (start(facts, tau0), 0.0))[0] for i in ids]
        a, p = now["anchor"], now["positive"]
        new = banks.sogclr_state(a, p, [u.get(i, 0.0) for i in ids], [i in u for i in ids], gamma, tau)
        return banks.sogclr(x["anchor"], x["positive"], (a, p), new, tau)

    return loss


def two_tower(tau0: float, gamma: float, rho: float, rate: float, low: float, high: float, clip: float) -> Oracle:
    """iSogCLR on two towers: hardness relative to the positive, u and temperature for each row and tower."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        total = []
        for one, two in (("anchor", "positive"), ("positive", "anchor")):
            u: dict[int, float] = {}
            at: dict[int, tuple[float, float]] = {}
            batches = [(d.vectors, d.known["ids"]) for d in facts.history] + [(fixed, facts.ids)]
            for step, (vectors, ids) in enumerate(batches):
                hard = banks.relative_hardness(vectors[one], vectors[two])
                for row, i in enumerate(ids):
                    tau = at.get(i, (start(facts, tau0), 0.0))[0]
                    g = mean(math.exp(h / tau) for h in hard[row])
                    u[i] = (1 - gamma) * u[i] + gamma * g if i in u else g
                    slope = math.log(u[i]) + rho - mean(math.exp(h / tau) / u[i] * h / tau for h in hard[row])
                    if step < len(facts.history):
                        at[i] = moved(*at.get(i, (start(facts, tau0), 0.0)), slope, rate, low, high, clip)
            still, live = hard, banks.relative_hardness(x[one], x[two])
            for row, i in enumerate(facts.ids):
                tau = at.get(i, (start(facts, tau0), 0.0))[0]
                pulls = zip(still[row], live[row], strict=True)
                total.append(mean(math.exp(s / tau) / u[i] * h for s, h in pulls))
        return mean(total)

    return loss


def rows(rng: np.random.Generator, step: int) -> Draw:
    """Five of nine training rows; some come again at the next step."""
    return views(rng, ids=rng.permutation(9)[:5])


def with_guide(rng: np.random.Generator, step: int) -> Draw:
    """Two views and their vectors by a guide of the same size."""
    draw = views(rng)
    return Draw(draw.vectors, {"guide": {name: z + 0.3 * rng.normal(size=z.shape) for name, z in draw.vectors.items()}})


def with_small_guide(rng: np.random.Generator, step: int) -> Draw:
    """Two views and a guide of three numbers."""
    draw = views(rng)
    return Draw(draw.vectors, {"guide": {name: rng.normal(size=(len(z), 3)) for name, z in draw.vectors.items()}})


def targets(rng: np.random.Generator, step: int) -> Draw:
    """Two views of rows with real targets, two of them equal."""
    return views(rng, size=6, score=np.array([0.0, 1.0, 2.0, 2.0, 3.5, 9.0]))


def supremix(tau: float, mixes: int, positive_mixes: int, window: float) -> Oracle:
    """All views anchor; positives are equal targets and mixtures of the anchor's target, without gradient."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        live, still = (unit(np.concatenate([v["anchor"], v["positive"]])) for v in (x, fixed))
        target, size = list(facts.score) * 2, len(live)
        made = facts.state
        total = []
        for i in range(size):
            near, far = [], []
            for j in range(size):
                if j != i and target[j] == target[i]:
                    near.append(dot(live[i], live[j]) / tau)
                elif j != i:
                    far.append(dot(live[i], live[j]) / tau + math.log(abs(target[j] - target[i]) + 1))
            for m in range(mixes):
                k, a = int(made["other"][i, m]), made["share"][i, m]
                if target[k] != target[i]:
                    z, t = a * still[i] + (1 - a) * still[k], a * target[i] + (1 - a) * target[k]
                    far.append(dot(live[i], z) / tau + math.log(abs(t - target[i]) + 1))
            below = [j for j in range(size) if target[i] - window < target[j] < target[i]]
            above = [k for k in range(size) if target[i] < target[k] < target[i] + window]
            if below and above:
                below.sort(key=lambda j: target[j])
                above.sort(key=lambda k: target[k])
                for m in range(positive_mixes):
                    j = below[int(made["below"][i, m] * len(below))]
                    k = above[int(made["above"][i, m] * len(above))]
                    a = (target[k] - target[i]) / (target[k] - target[j])
                    near.append(dot(live[i], a * still[j] + (1 - a) * still[k]) / tau)
            if near:
                total.append(general.row_out(near, far, 1.0, 1.0))
        return mean(total)

    return loss


def mochi_draw(draw: Draw, hardest: int, total: int) -> dict[str, np.ndarray]:
    """Which two of the hardest vectors each mixture is made of, and the share of the first."""
    generator, shape = draw.batch().generator("mixed-queue", 0), (len(draw.vectors["anchor"]), total)
    one, two = (torch.randint(hardest, shape, generator=generator).numpy() for _ in range(2))
    return {"one": one, "two": two, "share": torch.rand(shape, generator=generator).numpy().astype(np.float64)}


def mixed(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """The objective's draw: partners and shares of 2B anchors, then two numbers for each positive mixture."""
    rng, size = draw.batch().random("mixtures", 0), 2 * len(draw.vectors["anchor"])
    made = {"other": rng.integers(0, size, (size, 16)), "share": rng.beta(2, 8, (size, 16))}
    return {**made, **dict(zip(("below", "above"), rng.random((2, size, 1)), strict=True))}


def hallucinated(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """InfoNCE, and InfoNCE with extrapolated positives behind a small layer."""
    k, still = unit(x["positive"]), unit(fixed["anchor"])
    made = []
    for i in range(facts.size):
        far = k[i] + 0.5 * facts.state["far"][i] * (k[i] - still[i])
        hidden = np.array(
            [max(0.0, dot(w, far) + b) for w, b in zip(x["layer.0.weight"], x["layer.0.bias"], strict=True)]
        )
        made.append([dot(w, hidden) + b for w, b in zip(x["layer.2.weight"], x["layer.2.bias"], strict=True)])
    plain = mean(softmax.infonce_rows(x["anchor"], x["positive"], 0.05))
    return plain + mean(softmax.infonce_rows(x["anchor"], np.array(made), 0.05))


def extrapolations(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """The objective's draw of one number for each row."""
    return {"far": draw.batch().random("hallucinator").random(len(draw.vectors["anchor"]))}


BANK = {"size": SIZE}

CASES = [
    Case("moco", moco(0.2), BANK, warm=2),
    Case("moco", moco(0.2), BANK, variant="start"),
    Case("moco", moco(0.2, None), {**BANK, "random_start": False}, variant="empty-start", warm=1),
    Case(
        "moco",
        moco_in_batch,
        {**BANK, "random_start": False, "in_batch": True, "detach": False},
        variant="in-batch",
        warm=2,
    ),
    Case("moco", moco_guide, {**BANK, "random_start": False, "keys": "guide"}, with_guide, "guide", warm=2),
    Case("sumoco", sumoco, {**BANK, "random_start": False}, class_labels, warm=2),
    Case("moco-filtered", filtered(3, 0.9), {**BANK, "random_start": False, "hardest": 3}, warm=2),
    Case(
        "moco-filtered",
        filtered(3, 0.2),
        {**BANK, "random_start": False, "hardest": 3, "ceiling": 0.2},
        variant="ceiling",
        warm=2,
    ),
    Case(
        "mochi",
        mochi(4, 3, 2),
        {**BANK, "random_start": False, "hardest": 4, "mixes": 3, "query_mixes": 2},
        warm=2,
        peek=lambda objective, draw: mochi_draw(draw, 4, 5),
        exempt=("order",),
    ),
    Case("ascl", ascl(0.1, 0.05, 1.0), BANK, warm=2),
    Case(
        "ascl",
        ascl(0.3, 0.5, 4.0),
        {**BANK, "temperature": 0.3, "teacher_temperature": 0.5, "neighbours": 4.0},
        variant="settings",
        warm=1,
    ),
    Case(
        "mls",
        mls(2, 10.0, -5.0),
        {**BANK, "random_start": False, "neighbours": 2, "guide_dim": 3},
        with_small_guide,
        warm=2,
    ),
    Case("nnclr", lambda x, fixed, facts: nnclr(x, facts, 0.1, "direction.", fixed), {**BANK, "hidden": 3}, warm=2),
    Case(
        "nnclr",
        lambda x, fixed, facts: nnclr(x, facts, 0.1, "direction.", facts.guide),
        {**BANK, "hidden": 3, "keys": "guide"},
        with_guide,
        "guide",
        warm=2,
    ),
    Case(
        "neighbour-centroid",
        lambda x, fixed, facts: centroid(x, facts, 0.1, "direction.", fixed, 2, 3),
        {**BANK, "hidden": 3, "nearest": 3, "heads": 2, "layers": 1},
        warm=1,
    ),
    Case("all4one", all4one, {**BANK, "hidden": 3, "nearest": 3, "heads": 2}, with_guide, warm=1),
    Case("sogclr", by_row(0.1, 0.9), draw=rows, warm=3, rows=9),
    Case("sogclr", by_row(0.4, 0.3), {"temperature": 0.4, "gamma": 0.3}, rows, "settings", warm=3, rows=9),
    Case("isogclr", isogclr(0.1, 0.9, 0.3, 0.01, 0.05, 0.7, 3.0), draw=rows, warm=3, rows=9),
    Case(
        "isogclr",
        isogclr(0.3, 0.6, 0.1, 0.5, 0.25, 0.32, 1.0),
        {"temperature": 0.3, "gamma": 0.6, "rho": 0.1, "tau_lr": 0.5, "tau_min": 0.25, "tau_max": 0.32, "clip": 1.0},
        rows,
        "settings",
        warm=3,
        rows=9,
    ),
    Case("isogclr-two-tower", two_tower(0.01, 0.8, 6.0, 0.01, 0.005, 0.05, 5.0), draw=rows, warm=2, rows=9),
    Case(
        "isogclr-two-tower",
        two_tower(0.3, 0.5, 0.2, 0.1, 0.2, 0.4, 2.0),
        {"temperature": 0.3, "gamma": 0.5, "rho": 0.2, "tau_lr": 0.1, "tau_min": 0.2, "tau_max": 0.4, "clip": 2.0},
        rows,
        "settings",
        warm=3,
        rows=9,
    ),
    Case("supremix", supremix(0.3, 16, 1, 5.0), draw=targets, peek=mixed, exempt=("order",)),
    Case("hallucinator", hallucinated, {"hidden": 3}, peek=extrapolations, exempt=("order", "slope")),
]
