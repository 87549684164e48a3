"""What a stage takes from the one before it: weights, and rows that its model makes; and all stages as one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from embedkit.config.recipe import Recipe, SourceConfig
from embedkit.config.sections import StageConfig
from embedkit.config.stages import continued, folder_of_stage
from embedkit.errors import CheckpointError
from embedkit.formats.fusion import fuse
from embedkit.registry import services
from embedkit.system.processes import join
from embedkit.training import setup
from embedkit.training.monitor.log import Progress
from embedkit.training.state.state import recipe_differences

RESULT = "result.json"
"""Figures of a run; the last file that it writes."""

_KEYS = ("split", "where", "limit")


def at_stage(
    checked: Sequence[setup.Checked], folders: Sequence[Path], number: int, progress: Progress
) -> setup.Checked:  # fmt: skip
    """A stage as it is trained: with the weights of the one before it, and rows made by its model, where it has such.

    Its recipe is whole: it can be trained once more by itself.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe, stage_recipes
    >>> checked = [setup.check_all(stage) for stage in stage_recipes(load_recipe("mlm-simcse"))]
    >>> folders = [Path("runs/own/1-mlm"), Path("runs/own/2-simcse")]
    >>> [at_stage(checked, folders, number, Progress()).recipe.model.name for number in (0, 1)]
    ['bert-base-uncased', 'runs/own/1-mlm/model']
    """
    this = checked[number]
    recipe, stage = this.recipe.model_copy(update={"stage": StageConfig()}), this.recipe.stage
    recipe = recipe.with_origin(this.recipe.origin)
    if number == 0:
        return replace(this, recipe=recipe)
    model = folders[number - 1] / "model"
    if stage.start == "before":
        recipe = continued(recipe, checked[number - 1].recipe, model)
    if stage.rows is None:
        return replace(this, recipe=recipe)
    source = _made(this.recipe, model, folders[number], progress)
    data = recipe.data.model_copy(update={"train": [source]})
    return replace(this, recipe=recipe.model_copy(update={"data": data}).with_origin(recipe.origin), sources=None)


def _made(stage: Recipe, model: Path, folder: Path, progress: Progress) -> SourceConfig:
    """The file with the rows of a stage, made where it is not there; its name holds what it was asked for with."""
    rows, source = stage.stage.rows, stage.data.train[0]
    assert rows is not None
    request = json.dumps([rows.model_dump(), source.model_dump(mode="json")], sort_keys=True)
    target = folder / f"rows-{hashlib.sha256(request.encode()).hexdigest()[:8]}.parquet"
    options = {key: getattr(source, key) or None for key in _KEYS} | rows.settings
    state = join()
    if rows.name == "mine":
        options["columns"] = source.columns
        if not target.is_file():
            progress.say(f"{stage.name}: embedkit mine, by the model {model}")
            services["mine"](source.path, model, output=target, **options)
        state.wait_for_everyone()
        return SourceConfig(path=str(target))
    with state.main_process_first():
        if not target.is_file():
            progress.say(f"{stage.name}: embedkit label, by the model {model}")
            services["label"](source.path, model, output=target, replace=True, **options)
    return SourceConfig(path=str(target), columns=source.columns)


def is_done(folder: Path, recipe: Recipe) -> bool:
    """Whether a stage has ended; its figures are written last.

    Raises
    ------
    CheckpointError
        It has, with another recipe.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> is_done(Path("runs/mlm-simcse/1-mlm"), load_recipe("mlm-simcse"))
    False
    """
    if not ((folder / RESULT).is_file() and (folder / "model").is_dir()):
        return False
    differences = recipe_differences((folder / "recipe.yaml").read_text("utf-8"), recipe, folder)
    if differences:
        raise CheckpointError(
            "the stage belongs to another run: " + "; ".join(differences), where=str(folder),
            remedy="give the same settings, or start anew in another train.output",
        )  # fmt: skip
    return True


def side_by_side(folders: Sequence[Path], output: Path) -> Path:
    """Write the models of all stages as one, in the folder that would be that of one stage more.

    Returns
    -------
    Path
        The model folder.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folders = [Path("run/1-a"), Path("run/2-b")]
    >>> for folder in folders:
    ...     _ = StaticEncoder(tokenizer(), dim=4).save(folder / "model")
    >>> side_by_side(folders, Path("run")).as_posix()
    'run/3-all/model'
    """
    target = folder_of_stage(output, len(folders), "all") / "model"
    state = join()
    if state.is_main_process:
        fuse([folder / "model" for folder in folders], device="cpu").save(target)
    state.wait_for_everyone()
    return target
