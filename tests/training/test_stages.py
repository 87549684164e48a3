"""Stages of a run: what a stage is, what it starts from, and resuming anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from embedkit.cli.app import main
from embedkit.config.recipe_io import dump_recipe, load_recipe, parse_yaml, stage_recipes
from embedkit.errors import CheckpointError, RecipeError, UserError
from embedkit.formats import load
from embedkit.formats.detect import locate
from embedkit.training import Progress, train
from tests.training import common, runs

STAGES: list[dict[str, Any]] = [
    {"name": "words", "method": "mlm", "train": {"lr": 1e-3, "groups": [{"pattern": "*embeddings*", "frozen": True}]}},
    {"name": "contrast", "data": {"train": [{"path": "builtin:pairs-train", "limit": 64}]}, "train": {"max_steps": 3}},
]


def two(**more: Any) -> dict[str, Any]:
    """Masked words with frozen embeddings, then SimCSE on other data."""
    return {
        "name": "two", "method": "simcse-unsup", "model": common.model_config(0.1).model_dump(exclude_none=True),
        "data": {"train": [{"path": "builtin:sentences", "limit": 64}]},
        "train": {"max_steps": 4, "batch_size": 16, "lr": 5e-4, "save_every": 2, "log_every": 1, "keep_checkpoints": 9},
        "stages": STAGES, **more,
    }  # fmt: skip


def run(folder: Path, resume: bool = False, recipe: dict[str, Any] | None = None) -> Any:
    return train(recipe or two(), output=folder, resume=resume, progress=Progress())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "model").glob("*.safetensors")))


def test_a_stage_is_the_recipe_with_its_own_keys_over_it() -> None:
    recipe = load_recipe(two(), ["train.batch_size=8", "stages.1.train.lr=1e-2"])
    first, second = stage_recipes(recipe)
    assert (first.method.name, second.method.name) == ("mlm", "simcse-unsup")
    assert (first.train.lr, second.train.lr) == (1e-3, 1e-2)
    assert (first.train.max_steps, second.train.max_steps) == (4, 3)
    assert first.train.batch_size == second.train.batch_size == 8  # of the command: it holds for every stage
    assert first.train.groups[0].frozen and not second.train.groups
    assert second.data.train[0].path == "builtin:pairs-train"
    assert (first.train.output, second.train.output) == ("runs/two/1-words", "runs/two/2-contrast")
    again = load_recipe(parse_yaml(dump_recipe(recipe), "text"))
    assert again == recipe and stage_recipes(again) == [first, second]
    assert not load_recipe(two(), ["stages=[]"]).stages


def test_the_smoke_size_holds_for_every_stage() -> None:
    recipe = load_recipe("mlm-simcse", smoke=True)
    assert [stage.train.max_steps for stage in stage_recipes(recipe)] == [4, 4]
    assert all(stage.model.name is None and stage.evaluation is None for stage in stage_recipes(recipe))


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        ([{"method": "mlm"}], "stages.0 has no name"),
        ([{"name": "a"}, {"name": "a"}], "stages.1 has the name of another stage"),
        ([{"name": "a", "stages": [{"name": "b"}]}], "stages.0 has the key 'stages'; it belongs to the whole recipe"),
        ([{"name": "a"}, {"name": "b", "train": {"epoch": 1}}], "stages.1: unknown key 'train.epoch'"),
        ({"name": "a"}, "stages is no list"),
        ([{"name": "../a"}], "stages.0: "),
    ],
)
def test_a_wrong_stage_is_refused_with_its_number(stages: Any, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        load_recipe({**two(), "stages": stages})


def test_a_file_cannot_allow_code_in_a_stage(tmp_path: Path) -> None:
    stage = {"name": "a", "model": {"trust_remote_code": True}}
    (tmp_path / "own.yaml").write_text(json.dumps({**two(), "stages": [stage]}))
    with pytest.raises(RecipeError, match="a file cannot allow trust_remote_code"):
        load_recipe(tmp_path / "own.yaml")


def test_all_stages_are_checked_before_the_first_begins(tmp_path: Path) -> None:
    wrong = two(stages=[STAGES[0], {"name": "b", "method": {"name": "simcse-unsup", "rate": 0.1}}])
    with pytest.raises(UserError, match="unknown"):
        run(tmp_path / "a", recipe=wrong)
    missing = two(stages=[STAGES[0], {"name": "b", "data": {"train": [{"path": str(tmp_path / "none.txt")}]}}])
    with pytest.raises(UserError, match="none.txt"):
        run(tmp_path / "b", recipe=missing)
    assert not list(tmp_path.glob("*/*"))


def test_each_stage_starts_from_the_weights_of_the_one_before(tmp_path: Path) -> None:
    result = run(tmp_path)
    words, contrast = tmp_path / "1-words", tmp_path / "2-contrast"
    assert result.output == contrast / "model" and result.steps == 3
    for folder in (words, contrast):
        assert {"model", "checkpoints", "recipe.yaml", "result.json", "log.jsonl"} <= {p.name for p in folder.iterdir()}
        assert load(folder).encode(["a dog"]).shape == (1, 32)
    assert locate(tmp_path) == result.output  # what `model.name` and the commands read
    alone = runs.run(tmp_path / "alone", two(
        stages=[], data=STAGES[1]["data"], model={**two()["model"], "config": None, "tokenizer": None,
                                                  "name": str(words / "model")},
        train={**two()["train"], "max_steps": 3},
    ))  # fmt: skip
    assert alone.losses == result.losses
    assert all(torch.equal(x, weights(tmp_path / "alone")[name]) for name, x in weights(contrast).items())
    frozen = runs.run(tmp_path / "start", two(stages=[], train={**two()["train"], "max_steps": 1, "lr": 1e-12}))
    assert frozen.steps == 1
    name = next(name for name in weights(words) if "word_embeddings" in name)
    torch.testing.assert_close(weights(words)[name], weights(tmp_path / "start")[name], atol=1e-9, rtol=0)
    assert not torch.equal(weights(contrast)[name], weights(words)[name])


@pytest.mark.parametrize("point", ["first-step-2", "first-unsaved", "between", "second-step-2"])
def test_a_run_that_was_stopped_anywhere_ends_bit_for_bit_like_a_whole_one(tmp_path: Path, point: str) -> None:
    parts = tmp_path / "run"
    wanted = run(parts)
    shutil.copytree(parts, tmp_path / "whole")
    (parts / "2-contrast" / "result.json").unlink()
    shutil.rmtree(parts / "2-contrast" / "model")
    if point == "second-step-2":
        shutil.rmtree(parts / "2-contrast" / "checkpoints" / "step-00000003")
    else:
        shutil.rmtree(parts / "2-contrast")
    if point.startswith("first"):
        (parts / "1-words" / "result.json").unlink()
        shutil.rmtree(parts / "1-words" / "model")
    if point == "first-step-2":
        shutil.rmtree(parts / "1-words" / "checkpoints" / "step-00000004")
    assert run(parts, resume=True).steps == wanted.steps
    for stage in ("1-words", "2-contrast"):
        mine, whole = weights(parts / stage), weights(tmp_path / "whole" / stage)
        assert mine.keys() == whole.keys() and all(torch.equal(mine[name], whole[name]) for name in whole)


def test_a_finished_stage_needs_no_checkpoints(tmp_path: Path) -> None:
    wanted = run(tmp_path)
    shutil.rmtree(tmp_path / "1-words" / "checkpoints")
    assert run(tmp_path, resume=True).steps == wanted.steps
    shutil.rmtree(tmp_path / "2-contrast" / "checkpoints")
    with pytest.raises(CheckpointError, match="2-contrast: the output folder holds a model, but no checkpoint"):
        run(tmp_path, resume=True)


def test_a_stage_of_another_run_is_not_taken_over(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="holds a run"):
        run(tmp_path)
    shutil.rmtree(tmp_path / "2-contrast")
    with pytest.raises(CheckpointError, match=r"another run: train.lr was 0.001, is 0.01"):
        train(two(), ["stages.0.train.lr=1e-2"], output=tmp_path, resume=True, progress=Progress())


def test_a_kept_head_is_added_once(tmp_path: Path) -> None:
    head = [{"kind": "tanh", "dim": 16}, {"kind": "linear", "train_only": True}]
    run(tmp_path, recipe=two(model={**two()["model"], "head": head}))
    for stage in ("1-words", "2-contrast"):
        assert load(tmp_path / stage).encode(["a dog"]).shape == (1, 16)


def test_plan_and_validate_read_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text(json.dumps(two()))
    assert main(["plan", str(tmp_path / "two.yaml"), "--json", str(tmp_path / "plan.json")]) == 0
    plans = json.loads((tmp_path / "plan.json").read_text())["stages"]
    assert [facts["steps"]["total"] for facts in plans] == [4, 3]
    assert [facts["method"] for facts in plans] == ["mlm", "simcse-unsup"]
    assert main(["validate", str(tmp_path / "two.yaml"), "stages.1.method=simcse-unsub"]) == 2
    assert "did you mean 'simcse-unsup'?" in capsys.readouterr().err


def test_two_processes_go_through_the_stages_together(processes: Any, tmp_path: Path) -> None:
    for result in processes(2).run(run, tmp_path / "run"):
        assert result.steps == 3
    assert weights(tmp_path / "run" / "2-contrast")
