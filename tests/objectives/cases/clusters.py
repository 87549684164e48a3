"""Online clusters, interpolated negatives, several positives, student and teacher together, the cosine hinge."""

from __future__ import annotations

import numpy as np

from embedkit.objectives.base import Objective
from tests.objectives.cases.banks import SIZE, queue
from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles.banks import moco_rows
from tests.objectives.oracles.plain import Vectors, cosine, lse, mean, unit


def spread(rng: np.random.Generator, step: int) -> Draw:
    """Nine rows, the mean cosine of which is near zero."""
    return views(rng, size=9, dim=4)


def nearest(z: np.ndarray, centroids: list[np.ndarray]) -> list[int]:
    """Numbers of the centroids, the most alike first."""
    return sorted(range(len(centroids)), key=lambda k: -cosine(z, centroids[k]))


def moved(centroids: list[np.ndarray], anchors: Vectors, rate: float, update: str) -> list[np.ndarray]:
    """The centroids after a step."""
    members: list[list[np.ndarray]] = [[] for _ in centroids]
    for z in anchors:
        members[nearest(z, centroids)[0]].append(z)
    new = []
    for old, own in zip(centroids, members, strict=True):
        total = sum(own) / (len(own) if update == "mean" else 1) if own else old
        new.append((1 - rate) * old + rate * total if own else old)
    return new


def clusters(facts: Facts, count: int, start: float, rate: float, update: str) -> list[np.ndarray] | None:
    """The centroids before this step: none until a batch is spread enough."""
    centroids: list[np.ndarray] | None = None
    for draw in facts.history:
        a, p = draw.vectors["anchor"], draw.vectors["positive"]
        if centroids is not None:
            centroids = moved(centroids, a, rate, update)
        elif mean(cosine(x, y) for x in a for y in p) <= start:
            rows = [int(draw.batch().random("centroids").integers(len(a)))]
            while len(rows) < count:
                free = [j for j in range(len(a)) if j not in rows]
                rows.append(min(free, key=lambda j: cosine(a[rows[-1]], p[j])))
            centroids = [a[i] for i in rows]
    return centroids


def clusterns(
    count: int = 3, start: float = 0.4, rate: float = 1e-3, update: str = "sum", hard: bool = True, tau: float = 0.05,
    margin: tuple[float, float, float] = (0.0, 0.0, 0.3), drop: bool = False,
) -> Oracle:  # fmt: skip
    """InfoNCE with the second nearest centroid of every row, and the margin loss over rows of one cluster."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        weight, alpha, beta = margin
        held = clusters(facts, count, start, rate, update)
        assert held is not None or not facts.history
        now = [] if held is None else moved(held, fixed["anchor"], rate, update)
        order = [nearest(z, now) for z in fixed["anchor"]] if now else []
        total = []
        for i, a in enumerate(x["anchor"]):
            logits = [cosine(a, p) / tau for j, p in enumerate(x["positive"])
                      if j == i or not (drop and order and order[j][0] == order[i][0])]  # fmt: skip
            own = cosine(a, x["positive"][i])
            logits += [cosine(a, now[near[1]]) / tau for near in order if hard]
            row = lse(logits) - own / tau
            if order and weight:
                same = [near[0] == order[i][0] for near in order]
                gaps = [s * (cosine(a, p) - own) for s, p in zip(same, x["positive"], strict=True)]
                row += weight * mean(max(0, d + alpha) + max(0, -d - beta) for d in gaps)
            total.append(row)
        return mean(total)

    return loss


def by_cluster(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Positives are those of the anchor's cluster; no candidates from centroids."""
    held = clusters(facts, 3, 0.4, 1e-3, "sum")
    assert held is not None
    now = moved(held, fixed["anchor"], 1e-3, "sum")
    label = [nearest(z, now)[0] for z in fixed["anchor"]]
    assert max(map(label.count, label)) > 1
    total = []
    for i, a in enumerate(x["anchor"]):
        scores = [cosine(a, p) / 0.05 for p in x["positive"]]
        near = [s for s, k in zip(scores, label, strict=True) if k == label[i]]
        far = [s for s, k in zip(scores, label, strict=True) if k != label[i]]
        total.append(mean(lse([s, *far]) - s for s in near))
    return mean(total)


def multi_positive(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """The sum of InfoNCE to each further view, each with the hard negatives."""
    total = 0.0
    for name in ("positive", "view3"):
        rows = []
        for i, a in enumerate(x["anchor"]):
            logits = [cosine(a, c) / 0.05 for c in [*x[name], *x["negatives"]]]
            rows.append(lse(logits) - logits[i])
        total += mean(rows)
    return total


def distilled(student: bool) -> Oracle:
    """SupCon of students against students and teachers, or teachers alone."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        z, rows = x["anchor"], []
        for i, a in enumerate(z):
            keys = [(c, k) for j, (c, k) in enumerate(zip(z, facts.label, strict=True)) if student and j != i]
            keys += list(zip(facts.guide["anchor"], facts.label, strict=True))
            logits = [cosine(a, c) / 0.07 for c, _ in keys]
            rows.append(mean(lse(logits) - s for s, (_, k) in zip(logits, keys, strict=True) if k == facts.label[i]))
        return mean(rows)

    return loss


def interpolated_queue(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """MoCo on mixtures of the queue."""
    held = queue(facts, "positive")
    share, partner = facts.state["share"], facts.state["partner"].astype(int)
    mixed = [share[j] * held[j] + (1 - share[j]) * held[partner[j]] for j in range(len(held))]
    return mean(moco_rows(x["anchor"], fixed["positive"], np.array(mixed), 0.2))


def interpolated_batch(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Negatives are mixtures of two rows' positives that are not the anchor's."""
    p, rows = unit(x["positive"]), []
    share, partner = facts.state["share"], facts.state["partner"].astype(int)
    for i, a in enumerate(x["anchor"]):
        mixed = [share[j] * p[j] + (1 - share[j]) * p[partner[j]] for j in range(len(p)) if i not in (j, partner[j])]
        logits = [cosine(a, c) / 0.2 for c in [p[i], *mixed]]
        rows.append(lse(logits) - logits[0])
    return mean(rows)


def hinge(margin: float, attract: float, repel: float) -> Oracle:
    """The row's own negatives only."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        total = 0.0
        for row, n in zip(facts.owner["negatives"], x["negatives"], strict=True):
            a, p = x["anchor"][row], x["positive"][row]
            total += max(0.0, margin - attract * cosine(a, p) + repel * cosine(a, n))
        return total / facts.size

    return loss


def ring(objective: Objective, draw: Draw) -> dict[str, np.ndarray]:
    """Partners and shares that the objective draws for its bank."""
    batch = draw.batch()
    count = SIZE if "vectors" in dict(objective.bank.named_buffers()) else batch.size
    rng = batch.random("interpolation")
    order = rng.permutation(count)
    partner = np.empty(count, int)
    for place, j in enumerate(order):
        partner[j] = order[(place + 1) % count]
    return {"partner": partner, "share": rng.beta(1.6, 1.6, size=(count, 1))[:, 0]}


def three(rng: np.random.Generator, step: int) -> Draw:
    """Three views and ragged hard negatives."""
    return views(rng, count=3, hard=[2, 0, 1, 1, 2])


def taught(rng: np.random.Generator, step: int) -> Draw:
    """One view with labels, and a teacher's vectors."""
    draw = views(rng, count=1, size=6, label=np.array([0, 0, 1, 1, 2, 1]))
    return Draw(draw.vectors, {**draw.known, "guide": {"anchor": rng.normal(size=(6, 4))}})


def hard(rng: np.random.Generator, step: int) -> Draw:
    """Two views and ragged hard negatives."""
    return views(rng, hard=[2, 0, 1, 1, 2])


MARGIN = {"margin_weight": 0.5, "alpha": 0.1, "beta": 0.3}
CASES = [
    Case("clusterns", clusterns(), {"clusters": 3}, spread, warm=3, exempt=("length",)),
    Case("clusterns", clusterns(), {"clusters": 3}, spread, "before-the-start"),
    Case("clusterns", clusterns(margin=(0.5, 0.1, 0.3)), {"clusters": 3, **MARGIN}, spread, "margin", warm=2),
    Case(
        "clusterns", clusterns(4, 0.9, 0.3, "mean", False, 0.2, (2.0, 0.2, 0.1), True),
        {"clusters": 4, "start_cosine": 0.9, "rate": 0.3, "update": "mean", "hard": False, "temperature": 0.2,
         "margin_weight": 2.0, "alpha": 0.2, "beta": 0.1, "drop_same": True}, spread, "settings", warm=3,
    ),
    Case("clusterns", by_cluster, {"clusters": 3, "hard": False, "target": {"name": "same", "by": "cluster"},
                                   "others": 0.0}, spread, "by-cluster", warm=2),
    Case("multi-positive", multi_positive, draw=three),
    Case("csd", distilled(True), draw=taught),
    Case("csd", distilled(False), {"keys": "guide"}, taught, "paper"),
    Case("moco-interpolated", interpolated_queue, {"size": SIZE, "random_start": False}, warm=2, peek=ring,
         exempt=("order", "slope")),
    Case("infonce-interpolated", interpolated_batch, peek=ring, exempt=("order",)),
    Case("cosine-hinge", hinge(0.15, 1, 1), draw=hard),
    Case("cosine-hinge", hinge(0.5, 2, 0.5), {"margin": 0.5, "attract": 2.0, "repel": 0.5}, hard, "settings"),
]  # fmt: skip
