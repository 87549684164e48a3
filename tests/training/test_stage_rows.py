"""Stages whose rows the model of the stage before makes, stages from new weights, and the model of all stages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import embedkit
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import CheckpointError, RecipeError
from embedkit.training import Progress, train
from tests.training import common, runs

LABEL = {"name": "label", "clusters": 2, "seed": 3}
MINE = {"name": "mine", "num_negatives": 2}


def two(rows: dict[str, Any] | None, start: str = "before", **more: Any) -> dict[str, Any]:
    """Pairs, then pairs with rows that the model of the first stage makes."""
    stage = {"start": start, "rows": rows}
    return {
        "name": "two", "method": "pairs", "model": common.model_config(0.0).model_dump(exclude_none=True),
        "data": {"train": [{"path": "builtin:pairs-train", "limit": 64}]},
        "train": {"max_steps": 3, "batch_size": 8, "lr": 5e-4, "save_every": 2, "log_every": 1},
        "stages": [{"name": "first"}, {"name": "second", "stage": stage}], **more,
    }  # fmt: skip


def run(folder: Path, recipe: dict[str, Any], resume: bool = False, *changes: str) -> Any:
    return train(recipe, list(changes), output=folder, resume=resume, progress=Progress())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "model").glob("*.safetensors")))


def rows_of(folder: Path) -> Path:
    (file,) = (folder / "2-second").glob("rows-*.parquet")
    return file


@pytest.mark.parametrize(("rows", "call"), [(LABEL, embedkit.label), (MINE, embedkit.mine)], ids=["label", "mine"])
def test_the_rows_are_those_of_the_command_with_the_model_of_the_stage_before(
    rows: dict[str, Any], call: Any, tmp_path: Path
) -> None:
    result = run(tmp_path, two(rows))
    settings = {key: value for key, value in rows.items() if key != "name"}
    wanted = call("builtin:pairs-train", str(tmp_path / "1-first"), limit=64, **settings).rows
    made = pq.read_table(rows_of(tmp_path)).to_pylist()
    assert made == wanted and len(made) > 32
    alone = runs.run(tmp_path / "alone", two(
        rows, stages=[], data={"train": [{"path": str(rows_of(tmp_path))}]},
        model={"name": str(tmp_path / "1-first" / "model"), "max_length": common.model_config(0.0).max_length},
    ))  # fmt: skip
    assert alone.losses == result.losses
    assert result.output == tmp_path / "2-second" / "model"
    whole = load_recipe(tmp_path / "2-second" / "recipe.yaml")  # the recipe of the stage can be trained by itself
    assert whole.stage.rows is None and whole.data.train[0].path == str(rows_of(tmp_path))


def test_a_stage_from_new_weights_knows_nothing_of_the_one_before(tmp_path: Path) -> None:
    run(tmp_path, two(None, start="new"))
    first, second = weights(tmp_path / "1-first"), weights(tmp_path / "2-second")
    assert all(torch.equal(first[name], second[name]) for name in first)  # same recipe, same seed, same data
    run(tmp_path / "on", two(None))
    assert any(not torch.equal(first[name], one) for name, one in weights(tmp_path / "on" / "2-second").items())


def test_the_models_of_all_stages_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = two(LABEL, start="new", fuse=True)
    result = run(tmp_path, recipe)
    texts = ["a dog", "the sea at night"]
    parts = [embedkit.load(tmp_path / name, device="cpu").encode(texts) for name in ("1-first", "2-second")]
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    joint = embedkit.load(tmp_path, device="cpu").encode(texts)
    np.testing.assert_allclose(joint, np.concatenate(units, axis=1) / np.sqrt(2), atol=1e-6)
    assert result.output == tmp_path / "3-all" / "model"
    assert main(["doctor", str(tmp_path)]) in (0, 1)
    assert "3-all: the models of all stages side by side" in capsys.readouterr().out
    assert run(tmp_path, recipe, resume=True).output == result.output


def test_what_was_made_is_not_made_again_and_a_stopped_run_ends_like_a_whole_one(tmp_path: Path) -> None:
    run(tmp_path / "run", two(MINE))
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    second = tmp_path / "run" / "2-second"
    made = rows_of(tmp_path / "run").stat().st_mtime_ns
    (second / "result.json").unlink()
    shutil.rmtree(second / "model")
    shutil.rmtree(second / "checkpoints" / "step-00000003")
    run(tmp_path / "run", two(MINE), resume=True)
    assert rows_of(tmp_path / "run").stat().st_mtime_ns == made
    whole = weights(tmp_path / "whole" / "2-second")
    assert all(torch.equal(whole[name], one) for name, one in weights(second).items())
    with pytest.raises(CheckpointError, match=r"belongs to another run: data.train.0.path was"):
        run(tmp_path / "run", two(MINE), True, "stages.1.stage.rows.num_negatives=1")


def test_two_processes_make_the_rows_once(processes: Any, tmp_path: Path) -> None:
    for name, rows in (("label", LABEL), ("mine", MINE)):
        run(tmp_path / f"{name}-alone", two(rows))
        for result in processes(2).run(run, tmp_path / name, two(rows)):
            assert result.steps == 3
        made, wanted = (pq.read_table(rows_of(tmp_path / one)) for one in (name, f"{name}-alone"))
        assert made.column_names == wanted.column_names and made.num_rows == wanted.num_rows


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows": {"name": "minne"}}, "stages.1: stage.rows: no command named 'minne' makes rows; did you mean 'mine'"),
        ({"rows": {**MINE, "model": "a"}}, "model is known from data.train and the stage before; take model out"),
        ({"start": "anew"}, "stage.start"),
    ],
)  # fmt: skip
def test_what_a_stage_cannot_take_is_refused_when_the_recipe_is_read(change: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        load_recipe(two(None, stages=[{"name": "first"}, {"name": "second", "stage": change}]))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"stages": [{"name": "a", "stage": {"rows": LABEL}}]}, "stages.0: stage.rows needs the model of a stage"),
        ({"stages": [], "stage": {"start": "new"}}, "stage.start needs the model of a stage before"),
        ({"stages": [{"name": "a"}], "fuse": True}, "give two stages or more"),
        ({"data": {"train": ["builtin:pairs-train"] * 2}}, "label makes rows of one source, and data.train has 2"),
        ({"data": {"train": [{"path": "a.csv", "separator": ";"}]}}, "label does not take data.train.0.separator"),
    ],
)  # fmt: skip
def test_a_stage_without_one_before_or_with_data_that_no_command_reads(more: dict[str, Any], match: str) -> None:
    from embedkit.config.recipe_io import stage_recipes

    with pytest.raises(RecipeError, match=match):
        stage_recipes(load_recipe({**two(LABEL), **more}))
