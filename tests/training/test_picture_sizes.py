"""Pictures smaller than a crop or a patch are a line before a model is read; no usable picture is an error."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import DataError
from embedkit.training import picture_sizes, setup

Lines = Callable[..., list[str]]


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """The notes on pictures of these sides, of a recipe with settings."""

    def make(sides: list[tuple[int, int]], name: str = "simclr", *settings: str) -> list[str]:
        with open(tmp_path / "photos.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image"])
            for number, size in enumerate(sides):
                Image.new("RGB", size).save(tmp_path / f"{number}.png")
                table.writerow([f"{number}.png"])
        changes = [f"data.train=[{{path: {tmp_path / 'photos.csv'}}}]", "train.batch_size=2", *settings]
        recipe = load_recipe(name, changes, smoke=True)
        notes = setup.open_rows(recipe, setup.build_method(recipe)).notes
        return [note for note in notes if "pictures" in note]

    return make


@pytest.mark.parametrize(
    ("sides", "settings", "told"),
    [
        ([(40, 30), (8, 9)], [], None),
        ([(40, 30), (8, 7), (4, 40)], [], "2 of 3 pictures are smaller than a patch of the tower, 8 x 8, and are "
         "enlarged; the first: {}:3 (8 x 7)"),
        ([(40, 30), (1, 1)], [], "1 of 2 pictures is smaller than a patch of the tower, 8 x 8, and is enlarged; 1 of 2 "
         "pictures have fewer pixels than there are views of each, 2; the first: {}:3 (1 x 1)"),
        ([(40, 30), (15, 90)], ["method.transform=null", "method.views=[{count: 2}, {size: 16, count: 2}]"],
         "1 of 2 pictures is smaller than a crop, 16 x 16, and is enlarged; the first: {}:3 (15 x 90)"),
    ],
)  # fmt: skip
def test_small_pictures_are_a_line(
    sides: list[tuple[int, int]], settings: list[str], told: str | None, lines: Lines, tmp_path: Path
) -> None:
    wanted = [] if told is None else [told.format(tmp_path / "photos.csv")]
    assert lines(sides, "simclr", *settings) == wanted


def test_no_picture_with_as_many_pixels_as_views_is_an_error(lines: Lines) -> None:
    views = ["method.transform=null", "method.views=[{count: 5}]"]
    told = "no picture has as many pixels as there are views of it, 5: this, the largest, has 2 x 2; give larger"
    with pytest.raises(DataError, match=told):
        lines([(1, 2), (2, 2), (1, 1)], "simclr", *views)
    assert len(lines([(1, 2), (2, 3), (1, 1)], "simclr", *views)) == 1


def test_pictures_of_many_rows_are_looked_at_in_part(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_sizes, "MOST", 3)
    [line] = lines([(40, 30), (1, 1), (1, 1), (1, 1), (1, 1)])
    assert line.startswith("2 of 3 pictures looked at are smaller than a patch")


def test_what_is_no_picture_is_told_where_it_is_read(lines: Lines, tmp_path: Path) -> None:
    assert lines([(40, 30), (40, 30)]) == []
    (tmp_path / "0.png").write_bytes(b"no picture")
    recipe = load_recipe(
        "simclr", [f"data.train=[{{path: {tmp_path / 'photos.csv'}}}]", "train.batch_size=2"], smoke=True
    )
    assert setup.open_rows(recipe, setup.build_method(recipe)).num_rows == 2
