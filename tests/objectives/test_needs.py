"""Every objective says in a line what rows lack for it, before a model is loaded."""

from __future__ import annotations

import dataclasses

import pytest

from embedkit.errors import UserError
from embedkit.objectives import build
from embedkit.objectives.base import Objective
from embedkit.objectives.probe import ROLES, Situation, trial_run
from embedkit.objectives.registry import presets
from tests.objectives.test_families_contract import SETTINGS

NAMES = frozenset({"anchor", "positive", "negatives", "view3"})
EVERYTHING = Situation(NAMES, ROLES, NAMES)
"""What rows could give at most."""
SMALL = {
    **SETTINGS,
    "distill-kl": {},
    "matryoshka": {"objective": "clip", "dims": [16, 8]},
    "set-contrast": {"size": 2},
}


def without(need: str) -> Situation:
    """Rows that lack one thing; what a guide has embedded falls with the view."""
    guided = frozenset() if need == "guide" else NAMES - {need}
    return dataclasses.replace(EVERYTHING, names=NAMES - {need}, roles=ROLES - {need}, guided=guided)


@pytest.mark.parametrize("name", list(presets))
def test_what_rows_lack_is_said_in_a_line(name: str) -> None:
    config = {"name": name, **SMALL.get(name, {})}
    objective = build(config)
    trial_run(config, EVERYTHING)
    for need in sorted(objective.requires):
        with pytest.raises(UserError) as caught:
            trial_run(config, without(need))
        text = str(caught.value)
        assert "\n" not in text, text
        assert need in text, (need, text)
        assert caught.value.remedy, text
    for options in objective.any_of:
        with pytest.raises(UserError) as caught:
            trial_run(config, dataclasses.replace(EVERYTHING, roles=ROLES - options, guided=frozenset()))
        text = str(caught.value)
        assert "\n" not in text, text
        assert any(option in text for option in options), text


def test_large_vectors_are_tried_small_and_spoken_of_as_they_are() -> None:
    sizes: list[int] = []

    def build_at(config: object, *, dim: int, num_rows: int) -> Objective:
        sizes.append(dim)
        return build(config, dim=dim, num_rows=num_rows)

    large = Situation(frozenset({"anchor", "positive"}), dim=8192)
    assert trial_run("barlow-twins", large, build_at)[1] == 8192
    assert max(sizes) < 1000, sizes
    with pytest.raises(UserError, match="at most 8192"):
        trial_run({"name": "matryoshka", "objective": "infonce", "dims": [9000]}, large)
