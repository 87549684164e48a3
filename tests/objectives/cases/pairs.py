"""Pairs with scores, hinges, distillation, and regression behind a predictor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.objectives.harness import Arrays, Case, Draw, Facts, Oracle, views
from tests.objectives.oracles import pairs, softmax
from tests.objectives.oracles.plain import cosine, dot, mean, table, unit

HARD = [1, 2, 0, 3, 1]


def scored(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with scores, two of them equal."""
    return views(rng, score=np.array([0.2, 0.9, 0.2, -0.4, 0.6]))


def hard(rng: np.random.Generator, step: int) -> Draw:
    """Pairs with any number of hard negatives a row."""
    return views(rng, hard=HARD)


def hard_scored(rng: np.random.Generator, step: int) -> Draw:
    """Hard negatives, and one margin a row."""
    return views(rng, hard=HARD, score=rng.normal(size=5))


def rated(rng: np.random.Generator, step: int) -> Draw:
    """Hard negatives, and a teacher's score of each candidate."""
    draw = views(rng, hard=HARD)
    draw.known["scores"] = {name: rng.normal(size=len(draw.vectors[name])) for name in ("positive", "negatives")}
    return draw


def taught(rng: np.random.Generator, step: int, width: int = 6, negatives: bool = True) -> Draw:
    """Hard negatives, and a teacher's vectors of another size."""
    draw = views(rng, hard=HARD if negatives else None)
    guide = {name: rng.normal(size=(len(z), width)) for name, z in draw.vectors.items()}
    return Draw(draw.vectors, {**draw.known, "guide": guide})


def taught_pairs(rng: np.random.Generator, step: int) -> Draw:
    """A teacher's vectors of another size, no hard negatives."""
    return taught(rng, step, negatives=False)


def taught_same(rng: np.random.Generator, step: int) -> Draw:
    """A teacher's vectors of the same size."""
    return taught(rng, step, width=4)


def target_network(rng: np.random.Generator, step: int) -> Draw:
    """Two views, and their vectors by the running mean of the encoder."""
    return taught(rng, step, width=4, negatives=False)


def cosent(scale: float) -> Oracle:
    """CoSENT."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        similarity = [cosine(a, b) for a, b in zip(x["anchor"], x["positive"], strict=True)]
        return pairs.ordered_pairs(facts.score, similarity, scale)

    return loss


def angle(scale: float) -> Oracle:
    """AnglE's angle term."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        similarity = [pairs.angle_similarity(a, b) for a, b in zip(x["anchor"], x["positive"], strict=True)]
        return pairs.ordered_pairs(facts.score, similarity, scale)

    return loss


def cosine_mse(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """Square of cosine less score."""
    return mean((cosine(a, b) - s) ** 2 for a, b, s in zip(x["anchor"], x["positive"], facts.score, strict=True))


def hinge(margin: float) -> Oracle:
    """PromCSE's hinge."""
    return lambda x, fixed, facts: pairs.energy_hinge(
        x["anchor"], x["positive"], x.get("negatives", np.empty((0, 4))), margin
    )


def distill(tau: float, tau_teacher: float, symmetric: bool = False) -> Oracle:
    """KL between rows of similarities."""

    def rows(x: Arrays, facts: Facts, one: str, two: str) -> float:
        tables = []
        for vectors in (x, facts.guide):
            candidates = [vectors[two]] + ([vectors["negatives"]] if "negatives" in vectors else [])
            tables.append(table(vectors[one], np.concatenate(candidates)))
        return mean(softmax.soft_target_rows(*tables, tau, tau_teacher))

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        forth = rows(x, facts, "anchor", "positive")
        if not symmetric:
            return forth
        x = {name: z for name, z in x.items() if name != "negatives"}
        return 0.5 * (forth + rows(x, facts, "positive", "anchor"))

    return loss


def distill_scores(tau: float, tau_teacher: float, like: Callable[..., float]) -> Oracle:
    """KL from a teacher's scores of a row's own candidates, times the square of the student's temperature."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        owner, rows = facts.owner["negatives"], []
        for i in range(facts.size):
            own = [(x["positive"][i], facts.scores["positive"][i])]
            own += [(n, s) for n, s, o in zip(x["negatives"], facts.scores["negatives"], owner, strict=True) if o == i]
            student = np.array([[like(x["anchor"][i], z) for z, _ in own]])
            teacher = np.array([[score for _, score in own]])
            rows += softmax.soft_target_rows(student, teacher, tau, tau_teacher)
        return mean(rows) * tau**2

    return loss


def margin_mse(similarity: str, teacher: bool | str) -> Oracle:
    """Margins of the student and of a teacher (its vectors, or its scores), or of the data."""
    like = dot if similarity == "dot" else cosine

    def margins(v: Arrays, owner: np.ndarray) -> list[float]:
        a, p = v["anchor"], v["positive"]
        return [like(a[i], p[i]) - like(a[i], n) for i, n in zip(owner, v["negatives"], strict=True)]

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        owner = facts.owner["negatives"]
        if teacher == "scores":
            own, other = facts.scores["positive"], facts.scores["negatives"]
            target = [own[i] - other[k] for k, i in enumerate(owner)]
        else:
            target = margins(facts.guide, owner) if teacher else [facts.score[i] for i in owner]
        return pairs.margin_mse(margins(x, owner), target)

    return loss


def embedding_mse(normalize: bool) -> Oracle:
    """Mean square over all columns of all vectors."""

    def loss(x: Arrays, fixed: Arrays, facts: Facts) -> float:
        terms = []
        for name, target in facts.guide.items():
            a, b = (unit(x[name]), unit(target)) if normalize else (x[name], target)
            terms += [(p - q) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)]
        return mean(terms)

    return loss


PREDICTOR = ("predictor.first.weight", "predictor.scale", "predictor.shift", "predictor.second.weight",
             "predictor.second.bias")  # fmt: skip


def predicted(x: Arrays, name: str) -> np.ndarray:
    """The predictor's output for one view."""
    return pairs.predictor(x[name], *(x[part] for part in PREDICTOR))


def simsiam(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """SimSiam: the other view's embedding is the target, without gradient."""
    return pairs.simsiam(predicted(x, "anchor"), fixed["anchor"], predicted(x, "positive"), fixed["positive"])


def byol(x: Arrays, fixed: Arrays, facts: Facts) -> float:
    """BYOL: the guide's vectors are the target."""
    forth = pairs.byol(predicted(x, "anchor"), facts.guide["positive"])
    return forth + pairs.byol(predicted(x, "positive"), facts.guide["anchor"])


CASES = [
    Case("cosent", cosent(20.0), draw=scored),
    Case("cosent", cosent(3.0), {"scale": 3.0}, scored, "scale"),
    Case("angle", angle(20.0), draw=scored),
    Case("cosine-mse", cosine_mse, draw=scored),
    Case("energy-hinge", hinge(0.2), draw=hard),
    Case("energy-hinge", hinge(0.7), {"margin": 0.7}, variant="no-negatives"),
    Case("distill-kl", distill(0.05, 0.05), draw=taught),
    Case("distill-kl", distill(0.3, 0.2), {"temperature": 0.3, "teacher_temperature": 0.2}, taught_pairs, "pairs"),
    Case("distill-kl", distill(0.3, 0.05, True), {"temperature": 0.3, "symmetric": True}, taught_pairs, "symmetric"),
    Case(
        "distill-kl",
        distill_scores(0.3, 0.7, dot),
        {"temperature": 0.3, "teacher_temperature": 0.7, "similarity": "dot"},
        rated,
        "scores",
    ),
    Case("margin-mse", margin_mse("dot", "scores"), {}, rated, "scores-of-all", exempt=("length",)),
    Case("margin-mse", margin_mse("dot", True), draw=taught),
    Case("margin-mse", margin_mse("cosine", False), {"similarity": "cosine"}, hard_scored, "score"),
    Case("embedding-mse", embedding_mse(False), draw=taught_same, exempt=("length",)),
    Case("embedding-mse", embedding_mse(True), {"normalize": True}, taught_same, "unit"),
    Case("simsiam", simsiam, {"hidden": 3}, exempt=("slope",)),
    Case("byol", byol, {"hidden": 3}, target_network),
]
