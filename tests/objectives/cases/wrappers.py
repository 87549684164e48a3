"""Objectives made of objectives."""

from __future__ import annotations

import numpy as np

from embedkit.objectives.base import Objective
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, arrays, slope, tensors, views
from tests.objectives.oracles import general, pairs, softmax
from tests.objectives.oracles import views as several
from tests.objectives.oracles.plain import cosine, mean, unit

HARD = [1, 2, 0, 3, 1]


def hard(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with any number of hard negatives a row."""
    return views(rng, hard=HARD)


def three(rng: np.random.Generator, step: int) -> Draw:
    """Three views."""
    return views(rng, count=3)


def chunks(rng: np.random.Generator, step: int) -> Draw:
    """Two views of six rows, in two groups."""
    return views(rng, size=6, group=np.array([4, 4, 4, 9, 9, 9]))


def scored(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with scores and hard negatives."""
    return views(rng, hard=HARD, score=np.array([0.2, 0.9, 0.2, -0.4, 0.6]))


def infonce(x: Arrays, tau: float) -> float:
    """InfoNCE with the hard negatives there are."""
    return mean(softmax.infonce_rows(x["anchor"], x["positive"], tau, x.get("negatives")))


def two_positives(x: Arrays, tau: float) -> float:
    """InfoNCE whose candidates are two views; a row's own are both positive, neither in the other's denominator."""
    size, candidates = len(x["anchor"]), np.concatenate([x["positive"], x["view3"]])
    rows = general.rows(
        size,
        2 * size,
        lambda i, j: cosine(x["anchor"][i], candidates[j]) / tau,
        lambda i, j: j % size == i,
        lambda i, j: True,
    )
    return mean(general.row_out(p, n, 1.0, 0.0) for p, n in rows)


def matryoshka(tau: float, weights: dict[int, float]) -> Oracle:
    """The same loss on prefixes."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        return sum(w * infonce({name: z[:, :m] for name, z in x.items()}, tau) for m, w in weights.items())

    return loss


def matryoshka_scales(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Every prefix has its own learnt scale."""
    total = 0.0
    for place, m in enumerate((2, 4)):
        scale = float(np.exp(x[f"inner.{place}.scale.log_scale"]))
        total += softmax.clip(x["anchor"][:, :m], x["positive"][:, :m], scale)
    return total


def weighted(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """InfoNCE with two positives a row, ten times the hinge, and a term on two other views."""
    total = two_positives(x, 0.05)
    total += 10 * pairs.energy_hinge(x["anchor"], x["positive"], np.empty((0, 4)), 0.2)
    return total + 0.5 * mean(softmax.ntxent_rows(x["positive"], x["view3"], 0.1))


def care(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """NT-Xent and the Gram term, in two chunks."""
    plain = mean(softmax.ntxent_rows(x["anchor"], x["positive"], 0.5))
    return plain + 0.03 * several.care(x["anchor"], x["positive"], 2)


def transform(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """The factors that feature-transform drew, read off what it made; anything but its formula leaves a remainder."""
    made = arrays(objective.transform(tensors(draw.vectors), draw.batch()))
    old = {name: unit(z) for name, z in draw.vectors.items()}
    a, p, n = old["anchor"], old["positive"], old["negatives"]
    m = ((made["anchor"] - p) * (a - p)).sum(1) / ((a - p) ** 2).sum(1)
    np.testing.assert_allclose(made["anchor"], m[:, None] * a + (1 - m)[:, None] * p, atol=1e-12)
    np.testing.assert_allclose(made["positive"], m[:, None] * p + (1 - m)[:, None] * a, atol=1e-12)
    assert ((m >= 1) & (m <= 2)).all()
    assert np.ptp(m) > 0
    factor, partner = np.empty(len(n)), np.empty(len(n))
    for i, made_negative in enumerate(made["negatives"]):
        found = []
        for j in range(len(n)):
            if j != i:
                factor[i] = ((made_negative - n[j]) * (n[i] - n[j])).sum() / ((n[i] - n[j]) ** 2).sum()
                if np.allclose(made_negative, factor[i] * n[i] + (1 - factor[i]) * n[j], atol=1e-12):
                    found.append((j, factor[i]))
        assert len(found) == 1, "every negative is mixed with one other"
        partner[i], factor[i] = found[0]
        assert 0 <= factor[i] <= 1
    return {"m": m, "factor": factor, "partner": partner}


def transformed(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """InfoNCE on the moved vectors."""
    a, p, n = (unit(x[name]) for name in ("anchor", "positive", "negatives"))
    m, factor = facts.state["m"][:, None], facts.state["factor"][:, None]
    other = n[facts.state["partner"].astype(int)]
    made = {
        "anchor": m * a + (1 - m) * p,
        "positive": m * p + (1 - m) * a,
        "negatives": factor * n + (1 - factor) * other,
    }
    return infonce(made, 0.3)


def opposed_terms(x: Arrays, facts: Facts) -> list[float]:
    """InfoNCE, and 3 times the square of cosine less score, which pulls apart what the first pulls together."""
    loss = mean(
        (np.dot(*(unit(x[n][i : i + 1])[0] for n in ("anchor", "positive"))) - facts.score[i]) ** 2 for i in range(5)
    )
    return [infonce(x, 0.3), 3 * loss]


def harmonised(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """The value is the plain sum."""
    return sum(opposed_terms(x, facts))


def mixed(normalize: str = "none"):
    """The value with the weights of the shortest mixture of two, and the gradient with the same weights."""

    def grads_of(x: Arrays, facts: Facts) -> list[Arrays]:
        grads = []
        for term in range(2):
            found = {name: np.zeros_like(z) for name, z in x.items()}
            for name, z in x.items():
                for place in np.ndindex(z.shape):
                    direction = {name: np.zeros_like(z)}
                    direction[name][place] = 1.0
                    found[name][place] = slope(lambda v, f, k, t=term: opposed_terms(v, k)[t], x, facts, direction)
            grads.append(found)
        return grads

    def shares(x: Arrays, facts: Facts, grads: list[Arrays]) -> tuple[float, float]:
        flat = [np.concatenate([g[name].ravel() for name in sorted(x)]) for g in grads]
        if "loss" in normalize:
            flat = [g / loss for g, loss in zip(flat, opposed_terms(x, facts), strict=True)]
        if normalize in ("norm", "loss-norm"):
            lengths = [np.sqrt(sum((one**2).sum() for one in own.values())) for own in grads]
            flat = [g / length for g, length in zip(flat, lengths, strict=True)]
        one, two = flat  # the minimum of a parabola between 0 and 1
        gap = one - two
        share = float(np.clip(-(gap @ two) / (gap @ gap), 0, 1))
        return share, 1 - share

    def value(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        weights = shares(x, facts, grads_of(x, facts))
        return sum(w * loss for w, loss in zip(weights, opposed_terms(x, facts), strict=True))

    def gradient(x: Arrays, facts: Facts) -> Arrays:
        grads = grads_of(x, facts)
        one, two = shares(x, facts, grads)
        return {name: one * grads[0][name] + two * grads[1][name] for name in x}

    return value, gradient


def projected(scope: str, drop_below: float | None = None):
    """Gradients of the two terms by finite differences, each projected off the other where they conflict."""

    def gradient(x: Arrays, facts: Facts) -> dict[str, np.ndarray]:
        grads = []
        for term in range(2):
            found = {name: np.zeros_like(z) for name, z in x.items()}
            for name, z in x.items():
                for place in np.ndindex(z.shape):
                    direction = {name: np.zeros_like(z)}
                    direction[name][place] = 1.0
                    found[name][place] = slope(lambda v, f, k, t=term: opposed_terms(v, k)[t], x, facts, direction)
            grads.append(found)

        def products(one: Arrays, two: Arrays) -> np.ndarray:
            row = np.zeros(facts.size)
            for name in one:
                for place, i in enumerate(facts.owner[name]):
                    row[i] += float((one[name][place] * two[name][place]).sum())
            return row if scope == "row" else np.full(facts.size, row.sum())

        inner = products(grads[0], grads[1])
        out = {name: np.zeros_like(z) for name, z in x.items()}
        for mine, other in ((0, 1), (1, 0)):
            norm = products(grads[other], grads[other])
            for name in x:
                for place, i in enumerate(facts.owner[name]):
                    pull = grads[mine][name][place].copy()
                    if inner[i] < 0:
                        pull -= inner[i] / norm[i] * grads[other][name][place]
                    out[name][place] += pull
        return out

    return gradient


TERMS = [
    {"name": "infonce", "temperature": 0.3},
    {"name": "cosine-mse", "weight": 3.0},
]
INFONCE = {"name": "infonce", "temperature": 0.3}

CASES = [
    Case("matryoshka", matryoshka(0.3, {2: 1.0, 4: 1.0}), {"objective": INFONCE, "dims": [2, 4]}, hard),
    Case(
        "matryoshka",
        matryoshka(0.3, {1: 0.5, 3: 2.0}),
        {"objective": INFONCE, "dims": [1, 3], "weights": [0.5, 2.0]},
        variant="weights",
    ),
    Case("matryoshka", matryoshka_scales, {"objective": "clip", "dims": [2, 4]}, variant="clip"),
    Case(
        "sum",
        weighted,
        {
            "terms": [
                {"name": "infonce"},
                {"name": "energy-hinge", "weight": 10},
                {"name": "ntxent", "weight": 0.5, "inputs": {"anchor": "positive", "positive": "view3"}},
            ]
        },
        three,
    ),
    Case("care", care, draw=chunks),
    Case("feature-transform", transformed, {"objective": INFONCE}, hard, peek=transform, exempt=("order",)),
    Case("harmonise", harmonised, {"terms": TERMS}, scored, gradient=projected("batch"), exempt=("slope",)),
    Case("harmonise", harmonised, {"terms": TERMS, "scope": "row"}, scored, "row", gradient=projected("row")),
    *(
        Case(
            "mgda",
            mixed(how)[0],
            {"terms": TERMS, "normalize": how},
            scored,
            how,
            gradient=mixed(how)[1],
            exempt=("slope",),
        )
        for how in ("none", "norm", "loss", "loss-norm")
    ),
]
