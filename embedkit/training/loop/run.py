"""`train`: a recipe from its check to the saved model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import load_recipe, stage_recipes
from embedkit.config.stages import folder_of_stage, of_each
from embedkit.evaluation.report.card import card_of_run
from embedkit.system.disk import write_durably
from embedkit.training import setup
from embedkit.training.loop.build import Run, open_inputs, opened
from embedkit.training.loop.cache import RandomState
from embedkit.training.loop.loop import loop
from embedkit.training.loop.stages import RESULT, at_stage, is_done, side_by_side
from embedkit.training.monitor.callbacks import Callbacks
from embedkit.training.monitor.log import Progress, default_progress
from embedkit.training.optim.scale import keep_scale
from embedkit.training.parallel.memory import memory_error
from embedkit.training.parallel.signals import lost_process
from embedkit.training.state.output_folder import check_folder
from embedkit.training.state.state import load_weights


@dataclass
class TrainResult:
    """What a finished run gives.

    Attributes
    ----------
    output : Path
        The saved model folder.
    steps : int
        Optimiser steps of the run.
    loss : float
        Mean loss of the steps since the last log line (the last step at least).
    losses : list of float
        Mean loss at every log step of this process's part of the run.
    scores : dict of str to float
        The last evaluation that was made of the saved weights, ``suite/task`` -> score.
    best : dict
        ``metric``, ``value`` and ``step`` of the best evaluation.
    holdout : dict
        Of the rows that were held out: ``metric``, ``kind``, ``rows``, ``before`` and ``after``; empty without any.

    Examples
    --------
    >>> TrainResult(Path("runs/pairs/model"), steps=100, loss=0.25).steps
    100
    """

    output: Path
    steps: int
    loss: float
    losses: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    holdout: dict[str, Any] = field(default_factory=dict)


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), *, smoke: bool = False,
    resume: bool = False, output: str | Path | None = None, progress: Progress | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainResult:  # fmt: skip
    """The result of a recipe that is trained to its end: evaluated, checkpointed, the model saved.

    Parameters
    ----------
    recipe, overrides, smoke
        As in `embedkit.config.recipe_io.load_recipe`.
    resume : bool
        Resume from the latest complete checkpoint in the output folder; start anew when there is none. A folder that
        holds a model and no checkpoint is refused, as the model would be replaced.
    output : str or Path, optional
        Folder of the run instead of ``train.output``.
    progress : Progress, optional
        Where progress is shown; a bar on standard error, or below the cell of a notebook, when not given.
    callbacks : sequence of objects, optional
        Each has some of the methods of `embedkit.training.Callback` and is called when it happens.

    Raises
    ------
    UserError
        Everything a user can fix, before the model loads where that is possible.

    Examples
    --------
    >>> result = train("quickstart", smoke=True, output="runs/quickstart", progress=Progress())
    >>> result.steps, len(result.losses), result.output.name
    (4, 4, 'model')
    """
    config = load_recipe(recipe, overrides, smoke=smoke)
    return train_recipe(config, resume=resume, output=output, progress=progress, callbacks=callbacks)


def train_recipe(
    config: Recipe, early: Sequence[setup.EarlyCheck] | None = None, *, resume: bool = False,
    output: str | Path | None = None, progress: Progress | None = None, callbacks: Sequence[Any] = (),
) -> TrainResult:  # fmt: skip
    """The result of a loaded recipe, that of its last stage where it has several. See `train`.

    With `early`, the result of `check_early` for each stage, nothing that it has opened is opened again. All stages are
    checked before the first one begins.

    Examples
    --------
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> early = setup.check_early(recipe)
    >>> train_recipe(recipe, [early], output="runs/again", progress=Progress()).steps
    4
    """
    folder = Path(output) if output is not None else Path(config.train.output.replace("{name}", config.name))
    Callbacks(callbacks)  # a wrong one is refused before anything is read
    stages = stage_recipes(config)
    if early is None and config.stages:
        early = of_each(stages, setup.check_early)
    checked = [setup.check_all(stage, None if early is None else early[place]) for place, stage in enumerate(stages)]
    if not config.stages:
        return _train(checked[0], folder, progress, callbacks, resume=resume)
    check_folder(folder, resume=False)  # a run without stages stays what it is
    folders = [folder_of_stage(folder, number, stage.name) for number, stage in enumerate(stages)]
    for number, target in enumerate(folders, 1):
        is_kept = resume and number < len(folders) and (target / RESULT).is_file()  # its model alone is needed
        if not is_kept:
            check_folder(target, resume)
    for target in folders:  # by the last one a folder is known whose last stage has not begun
        target.mkdir(parents=True, exist_ok=True)
    progress = progress or default_progress()
    for number, target in enumerate(folders[:-1]):
        this = at_stage(checked, folders, number, progress)
        if not (resume and is_done(target, this.recipe)):
            _train(this, target, progress, callbacks, resume=resume)
    last = at_stage(checked, folders, len(folders) - 1, progress)
    result = _train(last, folders[-1], progress, callbacks, resume=resume)
    return replace(result, output=side_by_side(folders, folder)) if config.fuse else result


def _train(
    checked: setup.Checked, folder: Path, progress: Progress | None, callbacks: Sequence[Any], *, resume: bool
) -> TrainResult:
    """The result of one run, from a checked recipe."""
    check_folder(folder, resume)
    try:
        inputs = open_inputs(checked)
        with opened(inputs, folder, progress or default_progress(), callbacks, resume=resume) as run:
            run.callbacks.start(_facts(run))
            _score_before(run)
            with run.stop:
                losses = loop(run)
            return finish(run, losses)
    except RuntimeError as error:
        lost = lost_process(error, str(folder), "fix it, and resume from the last checkpoint with --resume")
        raise lost or memory_error(error, str(folder)) or error from error


def _score_before(run: Run) -> None:
    """Score the held-out rows before the first step; the random state of training stays as it is."""
    if run.holdout is None:
        return
    random = RandomState(run.engine.world.device)
    with run.weights.model() as model:
        if run.engine.world.is_main:
            run.holdout.before(model, run.state.position.step)
    random.restore()


def _facts(run: Run) -> dict[str, Any]:
    """What callbacks are told at the start."""
    return {
        "name": run.recipe.name, "output": str(run.folder), "step": run.state.position.step,
        "total_steps": run.total, "batch_size": run.recipe.train.batch_size, "rows": run.rows.num_rows,
    }  # fmt: skip


def finish(run: Run, losses: list[float]) -> TrainResult:
    """The result; the best weights are loaded when asked for, the model and ``result.json`` written.

    Examples
    --------
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run:
    ...     result = finish(run, losses=loop(run))
    >>> sorted(path.name for path in result.output.parent.iterdir())
    ['.lock', 'checkpoints', 'log.jsonl', 'model', 'recipe.yaml', 'result.json', 'samples.json']
    """
    state, evaluation, world = run.state, run.recipe.evaluation, run.engine.world
    load_best = evaluation is not None and evaluation.load_best
    if load_best and state.best.step not in (None, state.position.step):
        run.progress.say(f"best weights: step {state.best.step}, {state.best.metric} {state.best.value:.2f}")
        _load_best(run, state.best.step or 0)
    saved_step = state.best.step if load_best else state.position.step
    rows = [row for row in state.history if row["step"] == saved_step]
    target = run.folder / "model"
    run.ledger.finish(run.rows)
    with run.weights.leaving():
        keep_scale(state.bundle.objective, state.bundle.model)
        _note_text_tower(state.bundle.model)
        state.bundle.model.classifiers = {}  # those of the model that the run started from know other vectors
        run.inputs.method.keep(state.bundle.model, state.bundle.parts)
        run.engine.save_model(state.bundle.model, target, run.recipe, run.weights.in_use)
    if run.holdout is not None:
        with run.weights.model() as model:
            if world.is_main:
                run.holdout.after(model, saved_step or 0)
    if world.is_main:
        card_of_run(run.folder, saved_step)
    loss = losses[-1] if losses else math.nan
    scores = rows[-1]["scores"] if rows else {}
    held_out = {} if run.holdout is None else asdict(run.holdout.scores)
    result = TrainResult(target, state.position.step, loss, losses, scores, asdict(state.best), held_out)
    file = run.folder / RESULT
    if world.is_main and (losses or not file.exists()):  # a finished run that is resumed keeps its figures
        document = asdict(result) | {"output": str(target), "loss": loss if losses else None}
        write_durably(file, (json.dumps(document, indent=1) + "\n").encode())
    world.barrier()
    run.progress.stop()
    run.callbacks.end(asdict(result) | {"output": str(target)})
    return result


def _note_text_tower(model: Any) -> None:
    """A text tower that was trained with images is one whose vectors mean something, whatever it began as."""
    if model.kind == "dual" and any(parameter.requires_grad for parameter in model.text.parameters()):
        model.untrained_text = False


def _load_best(run: Run, step: int) -> None:
    """Put the weights of a checkpoint, and the running mean of it, into the state."""
    checkpoint = run.store.at(step)
    load_weights(run.state.bundle, checkpoint)
    if run.state.ema is not None:
        with checkpoint.reading("ema.safetensors"):
            run.state.ema.load_state_tensors(checkpoint.tensors("ema"))
