"""What is wrong with vectors is told with file and row before a model is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import DataError
from embedkit.training import setup
from embedkit.training.evaluation.holdout import kind_of
from embedkit.training.loop.build import open_inputs

ROWS = 40


@pytest.mark.parametrize("source", ["rows.npz", "rows.jsonl"])
def test_a_place_that_is_none_is_named_by_file_and_row(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = np.stack([np.linspace(-90, 90, ROWS), np.linspace(-180, 360, ROWS)], axis=1)
    train = [{"path": source, "columns": {"image": "image", "place": "place"}}]
    settings = {"data.train": train, "train.batch_size": 8, "train.max_steps": 1, "train.holdout": 0.0}

    def write() -> None:
        image = np.random.default_rng(0).standard_normal((ROWS, 3))
        if source == "rows.npz":
            np.savez(source, image=image, place=places)
        else:
            lines = (
                f'{{"image": {one.tolist()}, "place": {two.tolist()}}}\n'
                for one, two in zip(image, places, strict=True)
            )
            Path(source).write_text("".join(lines))

    write()
    assert open_inputs(setup.check_all(load_recipe("csp", settings))).rows.num_rows == ROWS
    places[12] = [151.2, -33.9]
    write()
    with pytest.raises(DataError, match=rf"{source}:13: the place of place is 151.2, -33.9; give latitude"):
        open_inputs(setup.check_all(load_recipe("csp", settings)))


def test_vectors_that_are_held_out_are_pairs() -> None:
    row = {"anchor": np.ones(4, np.float32), "positive": np.ones(4, np.float32)}
    assert kind_of([row]) == "pairs"
    assert kind_of([{**row, "negatives": [], "score": None}]) == "pairs"
    assert kind_of([{**row, "positive": None}]) is None


def test_places_of_three_numbers_are_left_to_the_check_of_widths(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", anchor=np.zeros((16, 2)), positive=np.zeros((16, 3)))
    train = [{"path": str(tmp_path / "rows.npz")}]
    settings = {"data.train": train, "train.batch_size": 8, "model.feature.waves": 4}
    with pytest.raises(DataError, match="vectors of positive have 3 numbers, those of anchor 2, .* recipe align"):
        open_inputs(setup.check_all(load_recipe("feature-pairs", settings)))


def test_two_widths_are_two_towers(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", anchor=np.eye(16, 2), positive=np.eye(16, 3))
    train = {"path": str(tmp_path / "rows.npz")}
    settings = {"data.train": [train], "train.batch_size": 8}
    with pytest.raises(DataError, match=r"recipe align, columns: \{COLUMN: first, OTHER_COLUMN: second\}"):
        open_inputs(setup.check_all(load_recipe("feature-pairs", settings)))
    settings["model.feature.width"] = 2
    with pytest.raises(DataError, match=r"the model reads 2; leave model\.feature\.width out: the data say it"):
        open_inputs(setup.check_all(load_recipe("feature-pairs", settings)))
    aligned = {"data.train": [{**train, "columns": {"anchor": "first", "positive": "second"}}], "train.batch_size": 8}
    widths = open_inputs(setup.check_all(load_recipe("align", aligned))).rows.widths
    assert sorted(widths.values()) == [2, 3]
