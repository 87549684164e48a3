"""Evaluation while training, and the weights that are evaluated and saved."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit.config.recipe import Recipe
from embedkit.evaluation.report.card import keep_report
from embedkit.evaluation.report.tables import tables_of
from embedkit.methods.base import Method
from embedkit.training.loop.cache import RandomState
from embedkit.training.loop.schedule import Schedule
from embedkit.training.monitor.callbacks import Callbacks
from embedkit.training.monitor.log import Progress, RunLog
from embedkit.training.monitor.nonfinite import FiniteGuard
from embedkit.training.optim.l2sp import StartingPoint
from embedkit.training.parallel.engine import Engine
from embedkit.training.state.state import Best, RunState


def by_chosen_vectors(recipe: Recipe, model: Any) -> Any:
    """The model whose vectors choose a checkpoint: as ``evaluation.vectors`` says, else `model` itself.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> recipe = load_recipe("quickstart", smoke=True)
    >>> model = build(recipe.model, 0)
    >>> by_chosen_vectors(recipe, model) is model  # evaluation.vectors says nothing else
    True
    """
    vectors = recipe.evaluation.vectors if recipe.evaluation is not None else None
    return model if vectors is None else model.by_other_vectors(**vectors.model_dump())


class Weights:
    """The weights that leave a run: the running mean's where asked for, mixed with those of the start.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import setup
    >>> from embedkit.training.loop.build import open_inputs, opened
    >>> inputs = open_inputs(setup.check_all(load_recipe("quickstart", smoke=True)))
    >>> with opened(inputs, Path("run"), Progress()) as run, run.weights.model() as model:
    ...     print(model.encode(["a cat"]).shape)
    (1, 64)
    """

    def __init__(
        self, recipe: Recipe, state: RunState, starting: StartingPoint, engine: Engine, method: Method
    ) -> None:
        self._use_mean = state.ema is not None and recipe.train.evaluate_ema
        self._state, self._starting, self._engine, self._method = state, starting, engine, method

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """A context in which the bundle holds them; on every process."""
        bundle, ema = self._state.bundle, self._state.ema
        with contextlib.ExitStack() as stack:
            if ema is not None and self._use_mean:
                stack.enter_context(contextlib.contextmanager(ema.swapped)(bundle))
            stack.enter_context(contextlib.contextmanager(self._starting.mixed)(bundle))
            yield

    @contextlib.contextmanager
    def model(self) -> Iterator[Any]:
        """A context with the whole model as it is used outside of training, on the main process."""
        with self.leaving(), self._engine.whole_model(self._state.bundle.model) as model:
            yield self.in_use(model)

    def in_use(self, model: Any) -> Any:
        """What is scored and saved of the model."""
        return self._method.in_use(model, self._state.bundle.parts)


class Evaluator:
    r"""Scores the model of a run on its suite and keeps the best score; the random state of training stays as it is.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import setup
    >>> from embedkit.training.loop.build import open_inputs, opened
    >>> _ = Path("pairs.csv").write_text("sentence1,sentence2,score\na cat,a cat,5\na cat,a dog,3\na cat,the tax,0\n")
    >>> recipe = load_recipe("quickstart", ["evaluation={suite: own-sts, data: pairs.csv}"], smoke=True)
    >>> with opened(open_inputs(setup.check_all(recipe)), Path("run"), Progress()) as run:
    ...     run.evaluator.evaluate()
    >>> run.state.best.metric, list(run.state.history[0]["scores"])
    ('own-sts/pairs', ['own-sts/pairs'])
    """

    def __init__(
        self, recipe: Recipe, suite: Any, state: RunState, weights: Weights, engine: Engine, schedule: Schedule, *,
        folder: Path, finite: FiniteGuard, log: RunLog, progress: Progress, callbacks: Callbacks,
    ) -> None:  # fmt: skip
        self._recipe, self._suite, self._state, self._weights = recipe, suite, state, weights
        self._engine, self._schedule, self._folder, self._finite = engine, schedule, folder, finite
        self._log, self._progress, self._callbacks = log, progress, callbacks

    def evaluate(self) -> None:
        """Score the weights of now on the main process and share what is the best; call it on every process."""
        state, schedule = self._state, self._schedule
        before = RandomState(self._engine.world.device)
        with self._weights.model() as model:
            if self._engine.world.is_main:
                self._score(model)
        self._engine.share(state)
        state.idle = 0 if state.best.step == state.position.step else state.idle + 1
        if schedule.over(state) and state.position.step < schedule.total:
            step = state.position.step
            self._progress.say(f"step {step}: the run ends, {state.idle} evaluations without a new best")
        before.restore()

    def _score(self, model: Any) -> None:
        state, metric = self._state, self._state.best.metric
        step = state.position.step
        model.eval()
        with self._finite.evaluating(step):
            report = self._suite.run(by_chosen_vectors(self._recipe, model))
        scores = {f"{report.suite}/{task}": float(score) for task, score in report.scores.items()}
        value = scores[metric] if metric is not None else math.nan
        state.history.append({"step": step, "scores": scores})
        if state.best.better(value):
            state.best = Best(metric, value, step)
        self._log.evaluated(step, scores, tables_of(report))
        keep_report(self._folder, step, report)
        best = "none" if state.best.value is None else f"{state.best.value:.2f}"
        self._progress.say(f"step {step}: {metric} {value:.2f} (best {best})")
        self._callbacks.evaluate(step, scores)
