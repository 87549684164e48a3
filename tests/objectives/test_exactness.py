"""For every preset: tiles, and 2 or 4 processes, change nothing: loss, terms, every gradient, state after the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from embedkit.errors import RecipeError
from embedkit.objectives.registry import load, presets
from tests.helpers.gloo import Processes
from tests.objectives.cases import CASES
from tests.objectives.harness import Case, Result, train, train_by_id

load()

LIMIT = 1e-9  # of the relative error; everything is fp64

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
with_tile = [case for case in CASES if "tile" in presets[case.name].settings]
tiled_cases = [case for case in with_tile if presets[case.name].tiled]


@pytest.fixture(scope="module", params=[2, 4])
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
                size = max(1.0, float(np.abs(value).max(initial=0.0)))
                np.testing.assert_allclose(ours[name], value, rtol=0, atol=LIMIT * size, err_msg=f"{part} {name}")


@pytest.mark.parametrize("case", tiled_cases, ids=lambda case: case.id)
def test_tiles_change_nothing(case: Case) -> None:
    dense = train(case, {"tile": None})
    for tile in (1, 2, 3):
        assert_equal(train(case, {"tile": tile}), dense)


@every_case
def test_processes_change_nothing(case: Case, processes: Processes) -> None:
    alone = train(case, {})
    tiles = [{}, {"tile": 2}] if case in tiled_cases else [{}]
    for config in tiles:
        assert_equal(joined(processes.run(train_by_id, case.id, config), case), alone)


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


@every_case
def test_gradients_reach_every_input_that_counts(case: Case) -> None:
    """A comparison of zeros would prove nothing."""
    last = train(case, {})[-1]
    assert any(np.abs(grad).max(initial=0.0) > 1e-6 for grad in last.grads.values())


def test_cases_have_names_of_their_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
