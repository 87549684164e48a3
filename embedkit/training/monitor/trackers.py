"""Experiment trackers of a run, which accelerate opens: the figures of its log, and tables of its evaluations."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embedkit.config.recipe import Recipe
from embedkit.errors import RecipeError
from embedkit.evaluation.report.tables import Table


def check_trackers(recipe: Recipe) -> None:
    """Refuse a tracker whose package is not installed: accelerate would leave it out in silence.

    Raises
    ------
    RecipeError
        With the command that installs it.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> check_trackers(load_recipe("quickstart"))
    """
    for tracker in recipe.train.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise RecipeError(
                f"the package {tracker!r} is not installed", where="train.trackers",
                remedy=f"pip install {tracker.replace('_', '-')}",
            )  # fmt: skip


class Trackers:
    """The trackers of a run that are open.

    Steps never go back, because wandb drops what comes behind its last step: scores of an earlier model, which is the
    best and is saved, stand at the step of now.

    Parameters
    ----------
    entries : sequence of accelerate.tracking.GeneralTracker
        Those of the accelerator.

    Examples
    --------
    >>> class Printed:
    ...     name = "printed"
    ...     def log(self, values, step):
    ...         print(step, values)
    >>> trackers = Trackers([Printed()])
    >>> trackers.figures({"recall@1": 61.2}, step=10)
    10 {'recall_at_1': 61.2}
    >>> trackers.table(Table("eval/sts/scores", ["task"], [["stsb"]]), step=10)  # no tracker here has tables
    """

    def __init__(self, entries: Sequence[Any]) -> None:
        self._entries, self._step = entries, 0

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Hand figures to every tracker, under names that each of them takes."""
        self._step = max(step, self._step)
        for tracker in self._entries:
            tracker.log({_taken(name): value for name, value in figures.items()}, step=self._step)

    def table(self, table: Table, step: int) -> None:
        """Hand a table to the trackers that show some: TensorBoard as text, MLflow as an artifact, wandb, ClearML."""
        self._step = max(step, self._step)
        for tracker in self._entries:
            if tracker.name in _TABLES:
                _TABLES[tracker.name](tracker, _taken(table.name), table, self._step)


def _taken(name: str) -> str:
    """The name in what MLflow takes, which is least: characters of words, ``-``, ``.``, ``:``, ``/`` and spaces."""
    return re.sub(r"[^\w\-.:/ ]", "_", name.replace("@", "_at_"))


def _as_text(tracker: Any, name: str, table: Table, step: int) -> None:
    tracker.writer.add_text(name, table.markdown(), global_step=step)


def _as_artifact(tracker: Any, name: str, table: Table, step: int) -> None:
    """A file an evaluation, which MLflow's page shows as a table; to add to one file it would fetch that each time."""
    import mlflow

    columns = {column: [row[place] for row in table.rows] for place, column in enumerate(table.columns)}
    mlflow.log_table(columns, f"{name}/step-{step:08d}.json", run_id=tracker.tracker.info.run_id)


def _as_table(tracker: Any, name: str, table: Table, step: int) -> None:
    tracker.log_table(name, columns=list(table.columns), data=[list(row) for row in table.rows], step=step)


_TABLES: dict[str, Callable[[Any, str, Table, int], None]] = {
    "tensorboard": _as_text, "mlflow": _as_artifact, "wandb": _as_table, "clearml": _as_table,
}  # fmt: skip
"""How a tracker is given a table; the others have none, or none that all their versions have."""
