"""Matryoshka, weighted sums, harmonised gradients and moved features against what they are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedkit.errors import RecipeError, UserError
from embedkit.objectives.base import Objective, ObjectiveBatch
from embedkit.objectives.probe import Situation, trial_run
from embedkit.objectives.registry import build

DIM, ROWS = 4, 6
# The first term pulls anchors to "positive", the second to "view3"; unlike views make their gradients conflict.
TERMS = [
    {"name": "cosine-mse", "weight": 3.0},
    {"name": "cosine-mse", "label": "other", "inputs": {"positive": "view3"}, "weight": 0.5},
    {"name": "embedding-mse", "weight": 2.0},
]


def drawn(seed: int = 0, size: int = ROWS, **known: Any) -> tuple[dict[str, Tensor], ObjectiveBatch]:
    """Anchor, positive, view3 and two hard negatives a row, with scores and a guide for the anchors."""
    rng = np.random.default_rng(seed)
    sizes = {"anchor": size, "positive": size, "view3": size, "negatives": 2 * size}
    embeddings = {n: torch.from_numpy(rng.normal(size=(count, DIM))) for n, count in sizes.items()}
    score = torch.from_numpy(rng.uniform(-1, 1, size=size))
    guide = {"anchor": torch.from_numpy(rng.normal(size=(size, DIM)))}
    return embeddings, ObjectiveBatch.of(embeddings, **{"score": score, "guide": guide, **known})


def gradients(
    objective: Objective, embeddings: dict[str, Tensor], batch: ObjectiveBatch
) -> tuple[float, dict[str, Any]]:
    """Loss, and gradients on embeddings and parameters as arrays."""
    objective.zero_grad()
    leaves = {name: z.clone().requires_grad_() for name, z in embeddings.items()}
    loss = objective(leaves, batch).loss
    loss.backward()
    every = {**leaves, **dict(objective.named_parameters())}
    return float(loss.detach()), {
        n: np.zeros(x.shape) if x.grad is None else x.grad.numpy().copy() for n, x in every.items()
    }


def clip(dim: int | None = None) -> Objective:
    return build("clip", dim=dim).double()


# --- Matryoshka ------------------------------------------------------------------------------------------------------


def test_whole_prefix_is_the_objective_itself() -> None:
    embeddings, batch = drawn()
    wrapped = build({"name": "matryoshka", "objective": "clip", "dims": [DIM]}, dim=DIM).double()
    loss, grads = gradients(wrapped, embeddings, batch)
    expected, wanted = gradients(clip(), embeddings, batch)
    assert loss == expected
    np.testing.assert_array_equal(grads["anchor"], wanted["anchor"])


def test_prefixes_are_weighted_and_logged() -> None:
    """One copy of the learnt scale a prefix; gradients of columns beyond a prefix come from the larger ones only."""
    embeddings, batch = drawn()
    dims, weights = [1, 3, 4], [0.5, 2.0, 0.0]
    wrapped = build({"name": "matryoshka", "objective": "clip", "dims": dims, "weights": weights}, dim=DIM).double()
    out = wrapped(embeddings, batch)
    total, wanted = 0.0, np.zeros((ROWS, DIM))
    for size, weight in zip(dims, weights, strict=True):
        cut = {name: z[:, :size] for name, z in embeddings.items()}
        loss, grads = gradients(clip(), cut, batch)
        total += weight * loss
        wanted[:, :size] += weight * grads["anchor"]
        assert float(out.terms[f"dim{size}"]) == pytest.approx(weight * loss, rel=1e-12)
    loss, grads = gradients(wrapped, embeddings, batch)
    assert loss == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(grads["anchor"], wanted, atol=1e-13)
    assert len([n for n in grads if n.startswith("inner")]) == 3


def test_normalised_prefixes_have_length_one() -> None:
    embeddings, batch = drawn()
    dot = {"name": "margin-mse", "similarity": "dot"}
    cosine = {"name": "margin-mse", "similarity": "cosine"}
    batch = replace(batch, guide={})
    losses = [
        float(build({"name": "matryoshka", "objective": o, "dims": [2], "normalize": n})(embeddings, batch).loss)
        for o, n in [(dot, True), (cosine, False), (dot, False)]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_the_guide_is_cut_only_when_asked_for() -> None:
    embeddings, batch = drawn()
    config = {"name": "matryoshka", "objective": "embedding-mse", "dims": [2]}
    with pytest.raises(UserError, match="cut_guide"):
        build(config)(embeddings, batch)
    loss = float(build({**config, "cut_guide": True})(embeddings, batch).loss)
    gap = embeddings["anchor"][:, :2] - batch.guide["anchor"][:, :2]
    assert loss == pytest.approx(float((gap**2).mean()), rel=1e-12)


def test_each_prefix_has_its_own_state() -> None:
    inner = {"name": "swav", "prototypes": 3, "queue": 2, "queue_from": 0}
    wrapped = build({"name": "matryoshka", "objective": inner, "dims": [2, 4]}, dim=DIM).double()
    wrapped.after_step(*drawn())
    assert [tuple(part.queue.shape) for part in wrapped.inner] == [(2, 2, 2), (2, 2, 4)]
    assert all(int(part.filled) == 2 for part in wrapped.inner)


def test_prefixes_longer_than_the_embedding_are_refused() -> None:
    with pytest.raises(UserError, match="4 columns"):
        build({"name": "matryoshka", "objective": "clip", "dims": [8]})(*drawn())


# --- sums ------------------------------------------------------------------------------------------------------------


def test_sum_is_weighted_logged_and_fed_by_name() -> None:
    embeddings, batch = drawn()
    out = build({"name": "sum", "terms": TERMS})(embeddings, batch)
    first = float(build("cosine-mse")(embeddings, batch).loss)
    other = float(build("cosine-mse")({"anchor": embeddings["anchor"], "positive": embeddings["view3"]}, batch).loss)
    third = float(build("embedding-mse")(embeddings, batch).loss)
    terms = {name: float(value) for name, value in out.terms.items()}
    wanted = {"cosine-mse": 3 * first, "other": 0.5 * other, "embedding-mse": 2 * third}
    assert terms == pytest.approx(wanted, rel=1e-12)
    assert float(out.loss) == pytest.approx(sum(terms.values()), rel=1e-12)


def test_sum_moves_owners_keys_and_guides_with_the_names() -> None:
    """A term whose positive is "negatives" sees what is known of the negatives under that name."""
    embeddings, batch = drawn(guide={"negatives": torch.zeros(2 * ROWS, DIM, dtype=torch.float64)})
    total = build({"name": "sum", "terms": [{"name": "cosine-mse", "inputs": {"positive": "negatives"}}]})
    seen, known = total.inputs_of(0, embeddings, batch)
    assert set(seen) == {"anchor", "positive", "view3"}
    for before, after in [(batch.owner, known.owner), (batch.keys, known.keys), (batch.guide, known.guide)]:
        assert torch.equal(after["positive"], before["negatives"])
    assert total.requires == {"anchor", "negatives", "score"}


def test_a_term_sees_the_views_that_it_names() -> None:
    """Further views and their gradient are the other terms' alone; views that a term needs cannot be left out."""
    embeddings, batch = drawn()
    del embeddings["negatives"]
    both = {name: z for name, z in embeddings.items() if name != "view3"}
    term = {"name": "ntxent", "views": ["anchor", "positive"]}
    loss, grads = gradients(build({"name": "sum", "terms": [term]}).double(), embeddings, batch)
    wanted, wanted_grads = gradients(build("ntxent").double(), both, batch)
    assert loss == pytest.approx(wanted, rel=1e-12)
    assert not grads["view3"].any()
    np.testing.assert_allclose(grads["anchor"], wanted_grads["anchor"], rtol=1e-12)
    assert "view3" not in build({"name": "sum", "terms": [term]}).accepts
    for bad, told in (
        ({**term, "views": ["left"]}, "a list of some of anchor"),
        ({**term, "views": ["positive"]}, "anchor"),
    ):
        with pytest.raises(UserError, match=told):
            build({"name": "sum", "terms": [bad]})


@pytest.mark.parametrize(
    ("term", "line"),
    [
        ({"views": ["anchor", "nope"]}, "objective.terms.1: views is .*some of anchor, positive, view3, view4 ..."),
        ({"temperature": -1}, "objective.terms.1: temperature is -1; it must be"),
        ({"label": "clip"}, "objective.terms.1.label: two terms are called 'clip'"),
        ({"name": "ntxnt"}, "objective.terms.1.name: unknown objective 'ntxnt'"),
    ],
)
def test_what_is_wrong_in_a_term_is_told_at_its_place(term: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        build({"name": "sum", "terms": [{"name": "clip"}, {"name": "ntxent"} | term]})


@pytest.mark.parametrize("parts", [3, 5])
def test_parts_of_any_number_are_tried_at_a_size_that_they_divide(parts: int) -> None:
    term = {"name": "part-diversity", "parts": parts}
    config = {"name": "sum", "terms": [{"name": "clip"}, term]}
    _, dim = trial_run(config, Situation(frozenset({"anchor", "positive"})))
    assert dim % parts == 0
    with pytest.raises(RecipeError, match="objective.terms.1.parts: .* parts do not divide 16 coordinates"):
        trial_run(config, Situation(frozenset({"anchor", "positive"}), dim=16))


def test_sum_names_a_missing_input() -> None:
    embeddings, batch = drawn()
    del embeddings["view3"]
    with pytest.raises(UserError, match=r"'other'.*'view3'"):
        build({"name": "sum", "terms": TERMS})(embeddings, batch)


def test_nested_terms_keep_a_setting_called_like_a_key_of_the_sum() -> None:
    inner = {"name": "sum", "terms": [{"name": "cosine-mse", "weight": 4.0}]}
    embeddings, batch = drawn()
    out = build({"name": "sum", "terms": [{"objective": inner, "weight": 0.5, "label": "inside"}]})(embeddings, batch)
    assert float(out.loss) == pytest.approx(2.0 * float(build("cosine-mse")(embeddings, batch).loss), rel=1e-12)
    assert set(out.terms) == {"inside", "inside/cosine-mse"}


def test_sums_advance_the_state_of_every_term() -> None:
    queue = {"name": "swav", "prototypes": 3, "queue": 4, "queue_from": 0}
    total = build({"name": "sum", "terms": [queue, {**queue, "label": "b", "inputs": {"anchor": "view3"}}]}, dim=DIM)
    embeddings, batch = drawn()
    total.after_step({n: z.float() for n, z in embeddings.items()}, batch)
    for part, name in zip(total.inner, ("anchor", "view3"), strict=True):
        wanted = embeddings[name] / embeddings[name].norm(dim=1, keepdim=True)
        torch.testing.assert_close(part.queue[0], wanted[:4].float())


def test_care_is_ntxent_and_gram_equivariance() -> None:
    embeddings, batch = drawn(group=torch.tensor([3, 3, 5, 5, 5, 9]))
    embeddings = {name: embeddings[name] for name in ("anchor", "positive")}
    a, p = (embeddings[n].numpy() / np.linalg.norm(embeddings[n].numpy(), axis=1, keepdims=True) for n in embeddings)
    chunks = []
    for group in ([0, 1], [2, 3, 4], [5]):
        rows = [sum((a[i] @ a[j] - p[i] @ p[j]) ** 2 for j in group if j != i) for i in group]
        chunks.append(2 * sum(rows) / len(group))
    z, ntxent = np.concatenate([a, p]), []
    for i in range(2 * ROWS):
        weights = [np.exp(z[i] @ z[j] / 0.5) for j in range(2 * ROWS) if j != i]
        ntxent.append(np.log(sum(weights)) - z[i] @ z[(i + ROWS) % (2 * ROWS)] / 0.5)
    out = build("care")(embeddings, batch)
    assert float(out.terms["gram-equivariance"]) == pytest.approx(0.03 * np.mean(chunks), rel=1e-10)
    assert float(out.loss) == pytest.approx(np.mean(ntxent) + 0.03 * np.mean(chunks), rel=1e-10)


# --- harmonised gradients --------------------------------------------------------------------------------------------


def term_gradients(embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> list[dict[str, np.ndarray]]:
    """Weighted gradient of each of `TERMS`, each computed alone."""
    found = []
    for term in TERMS:
        _, grads = gradients(build({"name": "sum", "terms": [term]}), embeddings, batch)
        found.append({name: grads[name] for name in embeddings})
    return found


def surgery(grads: list[np.ndarray], orders: list[list[int]]) -> np.ndarray:
    """Sum of flat gradients after surgery (Yu et al. 2020, algorithm 1): project out what points the other way."""
    total = np.zeros_like(grads[0])
    for i, order in enumerate(orders):
        moved = grads[i].copy()
        for j in order:
            if j != i and moved @ grads[j] < 0:
                moved -= (moved @ grads[j]) / (grads[j] @ grads[j]) * grads[j]
        total += moved
    return total


def flat(grads: dict[str, np.ndarray], row: int | None, owner: dict[str, Tensor]) -> np.ndarray:
    """All entries of a gradient, or those of one row, as one vector."""
    parts = [g if row is None else g[owner[n].numpy() == row] for n, g in grads.items()]
    return np.concatenate([p.ravel() for p in parts])


def orders(batch: ObjectiveBatch) -> list[list[int]]:
    """The random orders of a step, as documented: three permutations."""
    generator = batch.generator("harmonise")
    return [torch.randperm(3, generator=generator).tolist() for _ in range(3)]


@pytest.mark.parametrize("scope", ["batch", "row"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_conflicting_gradients_are_projected(scope: str, seed: int) -> None:
    embeddings, batch = drawn(seed, step=seed)
    single = term_gradients(embeddings, batch)
    got, plain = (
        gradients(build({"name": name, "terms": TERMS, **more}), embeddings, batch)
        for name, more in [("harmonise", {"scope": scope}), ("sum", {})]
    )
    assert got[0] == pytest.approx(plain[0], rel=1e-12)  # the value is the sum's
    assert np.abs(got[1]["anchor"] - plain[1]["anchor"]).max() > 1e-4  # the terms do conflict
    for row in [None] if scope == "batch" else range(ROWS):
        wanted = surgery([flat(g, row, batch.owner) for g in single], orders(batch))
        np.testing.assert_allclose(flat(got[1], row, batch.owner), wanted, atol=1e-14)


def test_two_harmonised_gradients_no_longer_oppose_either_term() -> None:
    embeddings, batch = drawn(3)
    terms = TERMS[:2]
    single = [flat(g, None, batch.owner) for g in term_gradients(embeddings, batch)[:2]]
    _, grads = gradients(build({"name": "harmonise", "terms": terms}), embeddings, batch)
    together = flat(grads, None, batch.owner)
    assert all(together @ one >= -1e-15 for one in single)


def test_terms_that_agree_are_summed() -> None:
    embeddings, batch = drawn(1)
    terms = [{"name": "clip"}, {"name": "clip", "label": "again", "weight": 2.0}]
    objective, plain = (build({"name": name, "terms": terms}).double() for name in ("harmonise", "sum"))
    (loss, grads), (expected, wanted) = (gradients(o, embeddings, batch) for o in (objective, plain))
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, value in wanted.items():
        np.testing.assert_allclose(grads[name], value, atol=1e-13, err_msg=name)
    assert float(objective(embeddings, batch).metrics["conflict"]) == 0.0


@pytest.mark.parametrize(("step", "threshold"), [(0, -0.2), (5, -0.6), (10, -1.0)])
def test_rows_that_disagree_too_much_are_dropped_less_and_less(step: int, threshold: float) -> None:
    embeddings, batch = drawn(4, size=40, step=step, total_steps=10)
    terms = TERMS[:2]
    single = term_gradients(embeddings, batch)[:2]
    dropped = []
    for row in range(batch.size):
        a, b = (flat(g, row, batch.owner) for g in single)
        dropped.append(a @ b < threshold * np.linalg.norm(a) * np.linalg.norm(b))
    assert any(dropped) == (step < 10)
    config = {"name": "harmonise", "terms": terms, "scope": "row"}
    _, kept_all = gradients(build(config), embeddings, batch)
    objective = build({**config, "drop_below": -0.2})
    _, grads = gradients(objective, embeddings, batch)
    for row, gone in enumerate(dropped):
        wanted = flat(kept_all, row, batch.owner) * (not gone)
        np.testing.assert_allclose(flat(grads, row, batch.owner), wanted, atol=1e-15)
    assert float(objective(embeddings, batch).metrics["dropped"]) == pytest.approx(np.mean(dropped))


def test_harmonised_loss_can_be_read_without_gradients() -> None:
    embeddings, batch = drawn()
    with torch.no_grad():
        loss = build({"name": "harmonise", "terms": TERMS})(embeddings, batch).loss
    assert float(loss) == pytest.approx(float(build({"name": "sum", "terms": TERMS})(embeddings, batch).loss))


# --- weights of the shortest mixture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_shortest_mixture_is_that_of_a_general_solver(size: int, rank: int) -> None:
    from scipy.optimize import minimize

    from embedkit.objectives.compose.pareto import min_norm

    random = np.random.default_rng(size * 10 + rank)
    for _ in range(20):
        vectors = random.normal(size=(size, rank)) * random.uniform(0.1, 3, size=(size, 1))
        gram = vectors @ vectors.T
        weights = min_norm(gram)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
        best = minimize(
            lambda w, g=gram: w @ g @ w, np.full(size, 1 / size), jac=lambda w, g=gram: 2 * g @ w, method="SLSQP",
            bounds=[(0, 1)] * size, constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14},
        )  # fmt: skip
        assert weights @ gram @ weights <= best.fun + 1e-7 * abs(gram).max()
        slopes = gram @ weights  # no vector points against the mixture: no term grows
        assert slopes.min() >= weights @ gram @ weights - 1e-6 * abs(gram).max()


def test_equal_gradients_are_weighed_in_some_way_and_zero_ones_make_the_mixture_zero() -> None:
    from embedkit.objectives.compose.pareto import min_norm

    assert min_norm(np.ones((3, 3))).sum() == pytest.approx(1)
    assert min_norm(np.diag([2.0, 0.0])).tolist() == [0.0, 1.0]
    opposed = np.array([[1.0, -2.0], [-2.0, 4.0]])  # g and -2 g
    assert min_norm(opposed) == pytest.approx([2 / 3, 1 / 3])


# --- moved features --------------------------------------------------------------------------------------------------


def test_positives_move_apart_and_negatives_mix() -> None:
    embeddings, batch = drawn(step=3)
    objective = build({"name": "feature-transform", "objective": "infonce"})
    moved = objective.transform(embeddings, batch)
    a, p, n = (z / z.norm(dim=1, keepdim=True) for z in (embeddings[k] for k in ("anchor", "positive", "negatives")))
    torch.testing.assert_close(moved["anchor"] + moved["positive"], a + p)
    assert bool(((moved["anchor"] * moved["positive"]).sum(1) < (a * p).sum(1)).all())
    rng = batch.random("feature-transform")
    m = 1 + rng.beta(2.0, 2.0, size=(ROWS, 1))
    np.testing.assert_allclose(moved["anchor"], m * a.numpy() + (1 - m) * p.numpy(), atol=1e-14)
    mix, ring = rng.beta(1.6, 1.6, size=(2 * ROWS, 1)), rng.permutation(2 * ROWS).tolist()
    order = [ring[(ring.index(i) + 1) % (2 * ROWS)] for i in range(2 * ROWS)]
    np.testing.assert_allclose(moved["negatives"], mix * n.numpy() + (1 - mix) * n.numpy()[order], atol=1e-14)
    assert torch.equal(objective(embeddings, batch).loss, build("infonce")(moved, batch).loss)


def test_nothing_moves_when_both_are_off() -> None:
    embeddings, batch = drawn()
    config = {"name": "feature-transform", "objective": "infonce", "extrapolate": None, "interpolate": None}
    assert torch.equal(build(config)(embeddings, batch).loss, build("infonce")(embeddings, batch).loss)


def test_a_queue_gets_the_features_as_they_were() -> None:
    inner = {"name": "swav", "prototypes": 3, "queue": ROWS, "queue_from": 0}
    objective = build({"name": "feature-transform", "objective": inner}, dim=DIM).double()
    embeddings, batch = drawn()
    objective.after_step(embeddings, batch)
    wanted = embeddings["anchor"] / embeddings["anchor"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(objective.inner[0].queue[0], wanted)
