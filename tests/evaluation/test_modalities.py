"""Retrieval between named modalities: against a plain statement, with rows that lack some, and on the command line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from embedkit.cli.app import main
from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import Opening
from embedkit.evaluation.datasets.tables import Table
from embedkit.evaluation.tasks.image_text import ImageTextSettings
from embedkit.evaluation.tasks.modalities import ModalitiesSettings, ModalitiesTask
from embedkit.evaluation.tasks.retrieval import RetrievalSettings
from embedkit.models import FeatureEncoder
from embedkit.models.combined.multi import MultiEncoder

WIDTHS = {"image": 5, "sound": 5, "place": 4}


@pytest.fixture
def model() -> MultiEncoder:
    torch.manual_seed(0)
    return MultiEncoder({name: FeatureEncoder(width, 3, start="orthogonal") for name, width in WIDTHS.items()}).eval()


def _cells(rows: int = 12) -> dict[str, list[Any]]:
    random = np.random.default_rng(0)
    cells: dict[str, list[Any]] = {name: random.standard_normal((rows, w)).tolist() for name, w in WIDTHS.items()}
    cells["sound"][3] = cells["place"][3] = cells["place"][7] = None
    cells["image"][5] = cells["image"][4]  # equal content: either is right
    return cells


def _task(cells: dict[str, list[Any]], **settings: Any) -> ModalitiesTask:
    table = Table(cells, list(range(1, len(cells["image"]) + 1)), "rows.jsonl")
    return ModalitiesTask(TaskConfig(name="rows", kind="modalities", **settings), Opening(table, "test"))


def test_hit_rates_are_those_of_a_plain_statement(model: MultiEncoder) -> None:
    cells = _cells()
    result = _task(cells).score(Embedder(model))
    rates = []
    for one, two in itertools.permutations(WIDTHS, 2):
        rows = [row for row in range(12) if cells[one][row] and cells[two][row]]
        gallery = np.array([cells[two][row] for row in rows])
        scores = (
            model.encode(np.array([cells[one][row] for row in rows]), tower=one) @ model.encode(gallery, tower=two).T
        )
        for cutoff in (1, 5, 10):
            better = [
                len({tuple(gallery[other]) for other in np.flatnonzero(line > line[place])})
                for place, line in enumerate(scores)
            ]
            rate = 100 * float(np.mean([number < cutoff for number in better]))
            assert result.metrics[f"{one}_to_{two}_hit_rate@{cutoff}"] == pytest.approx(rate)
            rates.append(rate)
        assert result.details[f"{one}_to_{two}"] == len(rows)
    assert result.score == pytest.approx(np.mean(rates))
    assert 100 * result.samples.values["value"].mean() == pytest.approx(result.score)


def test_pairs_and_columns_are_chosen(model: MultiEncoder) -> None:
    cells = _cells()
    cells["photo"] = cells.pop("image")
    cells["image"] = cells.pop("place")
    names = {"photo": "image", "sound": "sound"}
    result = _task(cells, settings={"columns": names, "cutoffs": [1]}).score(Embedder(model))
    assert set(result.metrics) == {"image_to_sound_hit_rate@1", "sound_to_image_hit_rate@1", "mean_hit_rate"}


@pytest.mark.parametrize(
    ("change", "settings", "line"),
    [
        ({"place": [None] * 12}, {}, "no row has the modality 'place'"),
        ({"sound": [None] * 11 + [[0.0] * 5]}, {}, "1 rows have both 'image' and 'sound'"),
        ({"sound": [[0.0] * 5] * 11 + [[0.0] * 4]}, {}, r"rows.jsonl:12 column 'sound': the vector has 4 numbers"),
        ({}, {"pairs": [["image", "sond"]]}, "there is no modality 'sond'; did you mean 'sound'"),
        ({}, {"columns": {"image": "image"}}, "retrieval needs two modalities"),
        ({}, {"columns": {"img": "image"}}, "there is no column 'img'"),
        ({}, {"columns": {"image": "image", "sound": "image"}}, "two columns are one modality"),
        ({}, {"pairs": [["image", "sound"], ["sound", "image"]]}, "a pair stands twice"),
        ({}, {"pairs": [["image", "image"]]}, "has one modality alone"),
        ({"class": [1] * 12}, {}, "column 'class' is int.*name the columns that are modalities with --set 'columns="),
    ],
)  # fmt: skip
def test_bad_rows_are_named(change: dict[str, Any], settings: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line):
        _task(_cells() | change, settings=settings)


def test_a_depth_of_nothing_is_refused() -> None:
    for settings in (ModalitiesSettings, ImageTextSettings, RetrievalSettings):
        with pytest.raises(ValidationError, match="greater than 0"):
            settings(cutoffs=(0, 5))
        with pytest.raises(ValidationError, match="name 5 once, it stands there twice"):
            settings(cutoffs=(5, 1, 5))


def test_pairs_of_a_wrong_form_are_told_in_our_words() -> None:
    with pytest.raises(UserError, match=r"task rows: settings.pairs.0: pairs.0 is 'image'; it must be a list"):
        _task(_cells(), settings={"pairs": ["image", "sound"]})


def test_a_model_without_these_towers_is_refused(model: MultiEncoder) -> None:
    with pytest.raises(UserError, match="the model has no named towers"):
        _task(_cells()).score(Embedder(FeatureEncoder(width=5)))
    cells = _cells()
    cells["sounds"] = cells.pop("sound")
    with pytest.raises(UserError, match="column 'sounds': the model has no tower 'sounds'; did you mean 'sound'"):
        _task(cells).score(Embedder(model))


def test_the_command_line_reads_towers(
    model: MultiEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save("model")
    inputs = np.random.default_rng(1).standard_normal((6, 5), np.float32)
    np.save("x.npy", inputs)
    np.savez("rows.npz", image=inputs, sound=inputs)
    for name in ("image", "sound"):
        assert main(["encode", "model", "x.npy", f"{name}.npy", "--tower", name]) == 0
        assert np.allclose(np.load(f"{name}.npy"), model.encode(inputs, tower=name), atol=1e-6)
    assert main(["encode", "model", "x.npy", "no.npy", "--tower", "sond"]) == 2
    assert "did you mean 'sound'" in capsys.readouterr().err
    assert main(["encode", "model", "x.npy", "no.npy"]) == 2, "two towers read vectors of 5 numbers"
    assert "--tower: the towers image, sound read such inputs (ndarray); name one" in capsys.readouterr().err
    places = np.random.default_rng(2).standard_normal((6, 4), np.float32)
    np.save("places.npy", places)
    assert main(["encode", "model", "places.npy", "place.npy"]) == 0, "one tower alone reads these"
    assert np.allclose(np.load("place.npy"), model.encode(places), atol=1e-6)
    assert main(["eval", "model", "--suite", "own-modalities", "-d", "rows.npz"]) == 0
    assert main(["export", "model", "out"]) == 2
    assert "export one: tower 'image' or 'sound'" in capsys.readouterr().err
