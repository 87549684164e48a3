"""Every preset against a naive oracle: loss to 1e-10, gradient against finite differences of the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from embedkit.objectives.registry import presets
from tests.objectives.cases import CASES
from tests.objectives.harness import Case, evaluate, facts, slope, values, warmed

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@pytest.mark.parametrize("name", list(presets))
def test_every_preset_has_an_oracle(name: str) -> None:
    assert name in {case.name for case in CASES}, f"add a case for {name!r} to tests/objectives/cases"


def test_every_case_has_a_preset() -> None:
    assert {case.name for case in CASES} <= set(presets)


@every_case
def test_loss(case: Case) -> None:
    objective, draw = warmed(case)
    at = values(objective, draw)
    expected = case.oracle(at, at, facts(case, objective, draw))
    assert evaluate(objective, draw, advance=False).loss == pytest.approx(expected, rel=1e-10, abs=1e-12)


@every_case
def test_gradient(case: Case) -> None:
    """Along three dense random directions of each array: a wrong entry cannot hide.

    Where there are many arrays of parameters, they are moved together.
    """
    objective, draw = warmed(case)
    at, known = values(objective, draw), facts(case, objective, draw)
    grads = evaluate(objective, draw, advance=False).grads
    whole = case.gradient(at, known) if case.gradient is not None else None
    parameters = [name for name in grads if name not in draw.vectors]
    groups = [[name] for name in draw.vectors]
    groups += [parameters] if len(parameters) > 6 else [[name] for name in parameters]
    rng = np.random.default_rng(11)
    for group in groups:
        for _ in range(3):
            direction = {name: rng.normal(size=grads[name].shape) for name in group}
            if whole is None:
                expected = slope(case.oracle, at, known, direction)
            else:
                expected = sum(float((whole[name] * direction[name]).sum()) for name in group)
            got = sum(float((grads[name] * direction[name]).sum()) for name in group)
            assert got == pytest.approx(expected, rel=1e-6, abs=1e-8), group
