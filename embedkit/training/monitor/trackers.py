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


def open_trackers(accelerator: Any, settings: Mapping[str, str | int | float | bool]) -> None:
    """Open a run in each tracker of the accelerator, and hand it the settings.

    One that fails leaves those before it open: `accelerate.Accelerator.end_training` ends them.

    Raises
    ------
    RecipeError
        With what the tracker says, without keys, and how to keep the run on this machine where it can be: mostly
        nobody has logged in.

    Examples
    --------
    >>> from accelerate import Accelerator
    >>> open_trackers(Accelerator(), {"seed": 42})  # it has none
    """
    names = list(accelerator.log_with)
    ready: list[Any] = []
    for name in names:
        accelerator.log_with, accelerator.trackers = [name], []
        try:
            accelerator.init_trackers("embedkit", config=dict(settings))
        except Exception as error:  # each has errors of its own
            accelerator.trackers = ready
            reason = _KEY.sub("***", " ".join(str(error).split()))[:200].rstrip(".!")
            raise RecipeError(
                f"the tracker {str(name)!r} does not start: {reason}", where="train.trackers",
                remedy=_OFFLINE.get(str(name), "set it up as its documentation says, or leave it out"),
            ) from error  # fmt: skip
        ready += accelerator.trackers
    accelerator.log_with, accelerator.trackers = names, ready


_KEY = re.compile(r"\b(?=[\w\-]*\d)[\w\-]{16,}")
_OFFLINE = {
    name: f"log in as its documentation says, or set {setting} in the environment to keep the run on this machine"
    for name, setting in {
        "clearml": "CLEARML_OFFLINE_MODE=1", "comet_ml": "COMET_START_ONLINE=0", "swanlab": "SWANLAB_MODE=offline",
        "wandb": "WANDB_MODE=offline",
    }.items()
}  # fmt: skip


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
        self._names: dict[str, str] = {}  # as trackers have it -> as it is here

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Hand figures to every tracker, under names that each of them takes."""
        self._step = max(step, self._step)
        names = {name: self._name(name) for name in sorted(figures, key=lambda name: (_cleaned(name) != name, name))}
        for tracker in self._entries:
            tracker.log({names[name]: value for name, value in figures.items()}, step=self._step)

    def table(self, table: Table, step: int) -> None:
        """Hand a table to the trackers that show some, all but DVCLive, each in the way that it has for them."""
        self._step = max(step, self._step)
        name = self._name(table.name)
        for tracker in self._entries:
            if tracker.name in _TABLES:
                _TABLES[tracker.name](tracker, name, table, self._step)

    def _name(self, name: str) -> str:
        """The name that trackers have for one of here; one that another name has already gets a number."""
        cleaned, number = _cleaned(name), 1
        while self._names.setdefault(cleaned, name) != name:
            number += 1
            cleaned = f"{_cleaned(name)}_{number}"
        return cleaned


def _cleaned(name: str) -> str:
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


def _as_trackio(tracker: Any, name: str, table: Table, step: int) -> None:
    import trackio

    table_of = trackio.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
    tracker.log({name: table_of}, step=step)


def _as_file(tracker: Any, name: str, table: Table, step: int) -> None:
    """A file an evaluation, which Comet's page shows as a table."""
    tracker.writer.log_table(f"{name}/step-{step:08d}.csv", table.rows, headers=list(table.columns))


def _as_aim(tracker: Any, name: str, table: Table, step: int) -> None:
    import aim

    tracker.log({name: aim.Text(table.markdown())}, step=step)


def _as_swanlab(tracker: Any, name: str, table: Table, step: int) -> None:
    import swanlab

    tracker.log({name: swanlab.Text(table.markdown())}, step=step)


_TABLES: dict[str, Callable[[Any, str, Table, int], None]] = {
    "tensorboard": _as_text, "mlflow": _as_artifact, "wandb": _as_table, "clearml": _as_table,
    "trackio": _as_trackio, "comet_ml": _as_file, "aim": _as_aim, "swanlab": _as_swanlab,
}  # fmt: skip
"""How a tracker is given a table; DVCLive has none."""
