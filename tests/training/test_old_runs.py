"""What embedkit 0.1.0 wrote is read: its recipes, and a checkpoint of its, which is resumed as if nothing had changed.

``stored/run-0.1.0`` is a run of eight steps that was made at 0.1.0: recipe, data, vocabulary, the checkpoint of step 4,
the log, and the weights after step 8. Its recipe says ``train.clip``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from embedkit.config.recipe import OLD_KEYS
from embedkit.config.recipe_io import load_recipe, new_key
from embedkit.config.recipe_keys import recipe_keys
from embedkit.config.resources import recipe_names
from embedkit.errors import CheckpointError, RecipeError
from embedkit.training import train
from embedkit.training.state.checkpoint import seal
from tests.training import runs

STORED = Path(__file__).with_name("stored") / "run-0.1.0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored run to work in; another torch goes on from it as from one of its own."""
    shutil.copytree(STORED, tmp_path / "work")
    checkpoint = tmp_path / "work" / "checkpoints" / "step-00000004"
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps({**state, "torch": str(torch.__version__)}))
    seal(checkpoint)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_checkpoint_of_before_is_resumed_to_the_same_weights(folder: Path) -> None:
    shutil.move(folder / "checkpoints", folder / "run" / "checkpoints")
    progress = runs.Recorder()
    result = train("recipe.yaml", output="run", resume=True, progress=progress)
    before = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any(line.startswith("resuming from step 4") for line in progress.lines)
    assert len([line for line in progress.lines if "was written by embedkit 0.1.0; losses can differ" in line]) == 1
    assert result.losses == pytest.approx(before[4:], rel=1e-5)
    for file in ("weights", "ema"):
        wanted = load_file(folder / f"{file}-step-8.safetensors")
        now = runs.checkpoint(folder / "run", 8, file)
        assert now.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(now[name], value, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_before_on_other_data_is_refused_with_the_version_that_has_it(folder: Path) -> None:
    shutil.move(folder / "checkpoints", folder / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"the data was \w+, is \w+; finish the run with embedkit 0\.1\.0, or st"):
        train("recipe.yaml", ["data.train.0.limit=30"], output="run", resume=True, progress=runs.Recorder())


def test_a_recipe_of_before_trains_as_it_did_with_a_line_for_each_old_key(folder: Path) -> None:
    progress = runs.Recorder()
    result = train("recipe.yaml", output="anew", progress=progress)
    before = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert result.losses == pytest.approx(before, rel=1e-5)
    line = "recipe.yaml: train.clip is called train.max_grad_norm now; the old name is read in this version only"
    assert progress.lines.count(line) == 1
    written = (folder / "anew" / "recipe.yaml").read_text()
    assert "  max_grad_norm: 0.5\n" in written and "clip:" not in written


def test_old_keys_are_read_in_files_calls_and_on_the_command_line() -> None:
    base = runs.recipe()
    assert load_recipe({**base, "train": {**base["train"], "clip": 0.25}}).train.max_grad_norm == 0.25
    for overrides in (["train.clip=0.25"], {"train.clip": 0.25}, ["train={max_steps: 1, clip: 0.25}"]):
        recipe = load_recipe(base, overrides)
        assert recipe.train.max_grad_norm == 0.25
        assert any("train.clip is called train.max_grad_norm" in note for note in recipe.origin.notes), overrides
    same = {**base, "train": {**base["train"], "clip": 0.25, "max_grad_norm": 0.25}}
    assert load_recipe(same).train.max_grad_norm == 0.25  # as 0.1 wrote guide.ema beside method.momentum
    both = {**base, "train": {**base["train"], "clip": 0.25, "max_grad_norm": 0.5}}
    with pytest.raises(RecipeError, match=r"train\.clip and train\.max_grad_norm are the same setting"):
        load_recipe(both)


def test_new_names_are_known_keys_and_shipped_recipes_use_them() -> None:
    keys = recipe_keys()
    for old, new in OLD_KEYS.items():
        assert new in keys, new
        assert new_key(old) == new
    assert new_key("train.lr") == "train.lr"
    for name in recipe_names():
        assert load_recipe(name).origin.notes == (), name
