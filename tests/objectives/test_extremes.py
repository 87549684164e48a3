"""Extreme inputs: what comes out is defined, or refused in one line; never a silent NaN."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from embedkit.errors import NonFiniteError, UserError
from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch
from tests.objectives.cases import CASES
from tests.objectives.harness import Case, Draw, evaluate, only, tensors, warmed

FIRST = list({case.name: case for case in reversed(CASES)}.values())
every_preset = pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)


def per_vector(draw: Draw, change: Callable[[str, np.ndarray], np.ndarray]) -> Draw:
    """The same batch with other vectors; those of the guide too."""
    guide = {name: change(name, z) for name, z in draw.known.get("guide", {}).items()}
    known = {**draw.known, "guide": guide} if guide else draw.known
    return Draw({name: change(name, z) for name, z in draw.vectors.items()}, known)


def assert_finite(case: Case, draw: Draw) -> float:
    """Loss, terms and gradients are finite; state after the step holds no NaN (-inf is the log of nothing yet)."""
    objective, _ = warmed(case)
    result = evaluate(objective, draw)
    assert math.isfinite(result.loss)
    assert all(math.isfinite(term) for term in result.terms.values())
    for name, value in result.grads.items():
        assert np.isfinite(value).all(), name
    for name, value in result.state.items():
        assert not np.isnan(value).any(), name
        assert not np.isposinf(value).any(), name
    return result.loss


def last(case: Case) -> Draw:
    """The inputs that are compared elsewhere."""
    return case.steps()[-1]


@every_preset
def test_identical_embeddings(case: Case) -> None:
    """A collapsed encoder: all vectors are equal."""
    assert_finite(case, per_vector(last(case), lambda name, z: np.ones_like(z)))


@every_preset
def test_one_row(case: Case) -> None:
    """A batch of one row, with its own hard negatives where there are some."""
    assert_finite(case, only(last(case), 1))


@every_preset
def test_two_rows(case: Case) -> None:
    """The smallest batch with a negative."""
    assert_finite(case, only(last(case), 2))


@every_preset
def test_zero_vectors(case: Case) -> None:
    """A dead row: all its vectors are zero, as after a ReLU."""
    owner = last(case).batch().owner
    assert_finite(case, per_vector(last(case), lambda name, z: z * (owner[name].numpy() != 1)[:, None]))


@every_preset
def test_equal_and_opposite_pairs(case: Case) -> None:
    """Cosines of exactly 1 and -1 inside one batch."""
    vectors = {
        name: np.where((np.arange(len(z)) % 2 == 0)[:, None], 1.0, -1.0) * np.ones_like(z)
        for name, z in last(case).vectors.items()
    }
    assert_finite(case, Draw(vectors, last(case).known))


@every_preset
@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_very_long_and_very_short_vectors(case: Case, size: float) -> None:
    """Finite, or refused with a reason: some losses are powers of the length of vectors."""
    draw = per_vector(last(case), lambda name, z: z * size)
    with contextlib.suppress(UserError):
        assert_finite(case, draw)


@every_preset
def test_non_finite_embeddings_are_refused(case: Case) -> None:
    """The message says which embedding and which row."""
    objective, draw = warmed(case)
    for name, bad in zip(draw.vectors, [math.nan, math.inf, -math.inf, math.nan], strict=False):
        vectors = {key: z.copy() for key, z in draw.vectors.items()}
        vectors[name][2, 1] = bad
        leaves = tensors(vectors)
        with pytest.raises(NonFiniteError) as caught:
            objective(leaves, Draw(vectors, draw.known).batch())
        message = str(caught.value)
        assert name in message
        assert "2" in message


@every_preset
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_computed_in_fp32(case: Case, dtype: torch.dtype) -> None:
    """The loss is that of the rounded vectors in fp64, to fp32's precision; gradients come back in the input's type."""
    objective, draw = warmed(case)
    rounded = {name: z.to(dtype) for name, z in tensors(draw.vectors).items()}
    exact = float(objective({name: z.double() for name, z in rounded.items()}, draw.batch()).loss.detach())
    leaves = {name: z.requires_grad_() for name, z in rounded.items()}
    objective = objective.float()
    loss = objective(leaves, draw.batch()).loss
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=2e-4, abs=2e-5)
    loss.backward()
    for name, z in leaves.items():
        if z.grad is not None:
            assert z.grad.dtype == dtype
            assert torch.isfinite(z.grad).all(), name


@every_preset
def test_zero_vectors_in_float16(case: Case) -> None:
    """The least divisor of a vector is zero in float16: the loss and the gradients of the other rows stay finite."""
    objective, draw = warmed(case)
    owner = draw.batch().owner
    leaves = {
        name: (z * (owner[name] != 1)[:, None]).half().requires_grad_() for name, z in tensors(draw.vectors).items()
    }
    loss = objective.float()(leaves, draw.batch()).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, z in leaves.items():
        assert z.grad is None or torch.isfinite(z.grad[owner[name] != 1]).all(), name


@every_preset
def test_a_missing_role_is_refused(case: Case) -> None:
    """One line names what is missing; nothing is computed from what is not there."""
    objective, draw = warmed(case)
    for role in objective.requires:
        vectors = {name: z for name, z in draw.vectors.items() if name != role}
        known = {name: value for name, value in draw.known.items() if name != role}
        if not vectors:
            continue
        batch = Draw(draw.vectors, known).batch()
        with pytest.raises(UserError, match=role):
            objective(tensors(vectors), batch)


# ---------------------------------------------------------------------------------------------- values


def loss_of(config: dict, vectors: dict[str, list], **known: object) -> float:
    """The loss of vectors written down."""
    leaves = {name: torch.tensor(z, dtype=torch.float64) for name, z in vectors.items()}
    return float(build(config, dim=2).double()(leaves, ObjectiveBatch.of(leaves, **known)).loss)


PAIR = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def test_identical_embeddings_give_the_log_of_the_number_of_candidates() -> None:
    """Nothing can be told apart: log B for InfoNCE and CLIP, log(2B - 1) for NT-Xent."""
    same = {"anchor": [[1.0, 2.0]] * 4, "positive": [[1.0, 2.0]] * 4}
    assert loss_of({"name": "infonce"}, same) == pytest.approx(math.log(4), rel=1e-12)
    assert loss_of({"name": "clip"}, same) == pytest.approx(math.log(4), rel=1e-12)
    assert loss_of({"name": "ntxent"}, same) == pytest.approx(math.log(7), rel=1e-12)


@pytest.mark.parametrize("name", ["infonce", "clip", "ntxent", "supcon"])
def test_one_row_without_negatives_costs_nothing(name: str) -> None:
    """There is nothing to be told apart from."""
    one = {"anchor": [[1.0, 2.0]], "positive": [[2.0, -1.0]]}
    assert loss_of({"name": name}, one, label=torch.tensor([3])) == pytest.approx(0.0, abs=1e-12)


def test_supcon_without_a_positive_counts_as_zero() -> None:
    """One view and labels 0, 0, 1: the third anchor has no positive; the paper's code divides by all anchors."""
    vectors = {"anchor": PAIR}
    label = torch.tensor([0, 0, 1])
    config = {"name": "supcon", "temperature": 1.0, "base_temperature": 1.0}
    s = math.sqrt(0.5)
    row = math.log(math.exp(0.0) + math.exp(s)) - 0.0
    assert loss_of(config, vectors, label=label) == pytest.approx(2 * row / 3, rel=1e-12)
    assert loss_of({**config, "average": "positive"}, vectors, label=label) == pytest.approx(row, rel=1e-12)
    alone = torch.tensor([0, 1, 2])
    assert loss_of(config, vectors, label=alone) == 0.0
    assert loss_of({**config, "average": "positive"}, vectors, label=alone) == 0.0


def test_duplicate_captions() -> None:
    """Rows 0 and 2 have the same caption: it repels unless equal inputs are left out."""
    vectors = {"anchor": PAIR, "positive": [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]}
    keys = {"anchor": torch.tensor([0, 1, 2]), "positive": torch.tensor([10, 11, 10])}
    config = {"name": "infonce", "temperature": 1.0}
    s = math.sqrt(0.5)
    cosines = [[1, 0, 1], [0, 1, 0], [s, s, s]]

    def expected(kept: list[list[int]]) -> float:
        rows = [math.log(sum(math.exp(cosines[i][j]) for j in kept[i])) - cosines[i][i] for i in range(3)]
        return sum(rows) / 3

    every = [[0, 1, 2]] * 3
    assert loss_of(config, vectors, keys=keys) == pytest.approx(expected(every), rel=1e-12)
    masked = loss_of({**config, "equal_inputs": True}, vectors, keys=keys)
    assert masked == pytest.approx(expected([[0, 1], [0, 1, 2], [1, 2]]), rel=1e-12)


@pytest.mark.parametrize("name", ["infonce", "ntxent", "clip"])
def test_sharp_temperatures_neither_overflow_nor_vanish(name: str) -> None:
    """Logits of 1e6 in fp32: a positive that is the nearest costs nothing, one that is the farthest its distance."""
    config = {"name": name, "temperature": 1e-6}
    if name == "clip":
        config["max_scale"] = None
    a = torch.eye(4)
    near = {"anchor": a.clone().requires_grad_(), "positive": a.clone()}
    far = {"anchor": a.clone().requires_grad_(), "positive": torch.roll(a, 1, 0)}
    objective = build(config, dim=4)
    loss = objective(near, ObjectiveBatch.of(near)).loss
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    loss = objective(far, ObjectiveBatch.of(far)).loss
    assert float(loss.detach()) == pytest.approx(1e6, rel=1e-5)
    loss.backward()
    assert torch.isfinite(far["anchor"].grad).all()


def test_empty_hard_negatives_are_the_same_as_none() -> None:
    """A batch in which no row brought a hard negative."""
    rng = np.random.default_rng(1)
    a, p = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    without = loss_of({"name": "infonce"}, {"anchor": a, "positive": p})
    owner = {"anchor": torch.arange(3), "positive": torch.arange(3), "negatives": torch.zeros(0, dtype=torch.long)}
    keys = {"anchor": torch.arange(3), "positive": torch.arange(3, 6), "negatives": torch.zeros(0, dtype=torch.long)}
    empty = {"anchor": a, "positive": p, "negatives": np.empty((0, 2))}
    assert loss_of({"name": "infonce"}, empty, owner=owner, keys=keys) == without


def test_a_learnt_scale_stops_at_its_bound_and_can_come_back() -> None:
    """The parameter is clamped after the step, not in the forward pass: at the cap its gradient still flows."""
    objective = build({"name": "clip", "max_scale": 100.0}).double()
    far = {"anchor": torch.tensor(PAIR, dtype=torch.float64), "positive": torch.tensor(PAIR[::-1], dtype=torch.float64)}
    batch = ObjectiveBatch.of(far)
    objective.scale.log_scale.data.fill_(9.0)
    objective.after_step(far, batch)
    assert math.exp(float(objective.scale.log_scale)) == pytest.approx(100.0, rel=1e-6)
    objective(far, batch).loss.backward()
    assert float(objective.scale.log_scale.grad) > 1.0
