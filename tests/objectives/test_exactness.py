"""For every preset: tiles, and 2 or 4 processes, change nothing: loss, terms, every gradient, state after the step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from embedkit.errors import RecipeError
from embedkit.objectives.registry import presets
from tests.helpers.gloo import Processes
from tests.objectives.cases import CASES
from tests.objectives.harness import Case, Result, train, train_by_id, warmed

LIMIT = 1e-9  # of the relative error; everything is fp64

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
FIRST = list({case.name: case for case in reversed(CASES)}.values())
with_tile = [case for case in CASES if "tile" in presets[case.name].settings]
tiled_cases = [case for case in with_tile if presets[case.name].tiled]


@pytest.fixture(scope="module", params=[2, 4], ids="{}-processes".format)
def processes(request: pytest.FixtureRequest) -> Iterator[Processes]:
    """Processes that live as long as the tests of this file."""
    with Processes(request.param) as found:
        yield found


def assert_equal(got: list[Result], expected: list[Result]) -> None:
    """All numbers of all steps, relative to the largest of each array."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=LIMIT, abs=1e-12)
        assert one.terms.keys() == other.terms.keys()
        for name, term in other.terms.items():
            assert one.terms[name] == pytest.approx(term, rel=LIMIT, abs=1e-12), name
        for part in ("grads", "state"):
            ours, theirs = getattr(one, part), getattr(other, part)
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                size = max(1.0, float(np.abs(value[np.isfinite(value)]).max(initial=0.0)))
                np.testing.assert_allclose(ours[name], value, rtol=0, atol=LIMIT * size, err_msg=f"{part} {name}")


@functools.cache
def alone(identity: str) -> list[Result]:
    """The steps of a case in this process, whole tables."""
    case = next(case for case in CASES if case.id == identity)
    return train(case, {"tile": None} if case in with_tile else {})


@pytest.mark.parametrize("tile", [1, 3])
@pytest.mark.parametrize("case", tiled_cases, ids=lambda case: case.id)
def test_tiles_change_nothing(case: Case, tile: int) -> None:
    assert_equal(train(case, {"tile": tile}), alone(case.id))


@every_case
def test_processes_change_nothing(case: Case, processes: Processes) -> None:
    """Two processes with the preset's own tile, four with a small one."""
    config = {"tile": 2} if case in tiled_cases and processes.world == 4 else {}
    assert_equal(joined(processes.run(train_by_id, case.id, config), case), alone(case.id))


@pytest.mark.parametrize("processes", [4], indirect=True)
@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)
def test_processes_without_rows_change_nothing(case: Case, processes: Processes) -> None:
    """Three rows on four processes: one of them has no anchor, and no row of its own."""
    assert_equal(joined(processes.run(train_by_id, case.id, {}, 3), case), train(case, {}, 3))


def joined(every: list[list[Result]], case: Case) -> list[Result]:
    """The results of one process, with the gradients of all rows; what else they found must be the same."""
    for other in every[1:]:
        for one, two in zip(every[0], other, strict=True):
            assert one.loss == two.loss
            assert one.terms == two.terms
            for name, value in one.state.items():
                np.testing.assert_array_equal(two.state[name], value, err_msg=f"state {name} differs by process")
    out = []
    for step, draw in enumerate(case.steps()):
        grads = dict(every[0][step].grads)
        for name in draw.vectors:
            grads[name] = np.concatenate([results[step].grads[name] for results in every])
        out.append(dataclasses.replace(every[0][step], grads=grads))
    return out


@pytest.mark.parametrize("name", sorted({case.name for case in with_tile} - {case.name for case in tiled_cases}))
def test_what_cannot_be_tiled_says_so(name: str) -> None:
    """It is refused when a recipe is read, not evaluated densely in silence."""
    case = next(case for case in CASES if case.name == name)
    with pytest.raises(RecipeError, match="tile"):
        case.build(tile=2)


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.name)
def test_chunks_change_nothing(case: Case) -> None:
    """Gradient of an encoder through embeddings kept in the graph = gradient cache with one input a chunk."""
    draw = case.steps()[-1]
    width = draw.vectors["anchor"].shape[1]
    inputs = {name: torch.from_numpy(z) for name, z in draw.vectors.items()}
    start = torch.eye(width, dtype=torch.float64) + 0.1 * torch.arange(width, dtype=torch.float64)
    found = []
    for chunked in (False, True):
        objective, weight = warmed(case)[0], start.clone().requires_grad_()
        objective.zero_grad()
        embeddings = {name: x @ weight for name, x in inputs.items()}
        if chunked:
            leaves = {name: z.detach().requires_grad_() for name, z in embeddings.items()}
            objective(leaves, draw.batch()).loss.backward()
            for name, x in inputs.items():
                cached = leaves[name].grad
                for row in range(len(x)) if cached is not None else []:
                    ((x[row] @ weight) * cached[row]).sum().backward()
        else:
            objective(embeddings, draw.batch()).loss.backward()
        parameters = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
        found.append({"weight": weight.grad, **parameters})
    plain, cache = found
    assert plain.keys() == cache.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(cache[name], grad, rtol=LIMIT, atol=LIMIT * max(1.0, float(grad.abs().max())))


@every_case
def test_gradients_reach_every_input_that_counts(case: Case) -> None:
    """A comparison of zeros would prove nothing."""
    last = alone(case.id)[-1]
    assert any(np.abs(grad).max(initial=0.0) > 1e-6 for grad in last.grads.values())


def test_cases_have_names_of_their_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
