"""Settings that nothing reads because another one is off: a line when a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.training import setup
from embedkit.training.idle import NEEDS, idle_settings

BESIDE = {
    "data.per_label": (4, "data.sampler=by-label"), "data.mixing_temperature": (3.0, "data.mixing=temperature"),
    "data.shuffle_buffer": (50, "data.train=[{path: a.csv, stream: true}]"),
    "data.lanes": (2, "data.train=[{path: a.csv, stream: true}]"), "train.evaluate_ema": (False, "train.ema=0.9"),
    "train.keep_chunks": (0, "train.chunk_tokens=4096"),
}  # fmt: skip


@pytest.mark.parametrize("key", NEEDS)
def test_what_another_setting_switches_off_is_told_and_what_is_read_is_not(key: str) -> None:
    value, beside = BESIDE[key]
    (line,) = idle_settings(load_recipe("pairs", [f"{key}={value}"]))
    assert line.startswith(f"{key} has no effect without ")
    assert list(idle_settings(load_recipe("pairs", [f"{key}={value}", beside]))) == []


def test_what_a_shipped_recipe_sets_is_not_told() -> None:
    assert load_recipe("csd").data.per_label == 4
    assert list(idle_settings(load_recipe("csd", ["data.sampler=shuffled"]))) == []


def test_the_lines_stand_among_those_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("anchor,positive\n" + "".join(f"a {i},b {i}\n" for i in range(8)))
    sources = f"data.train=[{{path: {tmp_path / 'a.csv'}}}]"
    recipe = load_recipe("pairs", [sources, "train.batch_size=4", "data.per_label=4"])
    notes = setup.open_rows(recipe, setup.build_method(recipe)).notes
    assert "data.per_label has no effect without data.sampler: by-label" in notes
