"""A user's own data: which suite they are for, and the names that their results get.

A guess is made only where one reading is possible, and each is among the notes of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedkit.config.resources import suite_names
from embedkit.errors import UserError
from embedkit.evaluation.core.suites import SuiteConfig, load_suite
from embedkit.evaluation.core.task import TASKS
from embedkit.evaluation.datasets.beir import is_collection
from embedkit.evaluation.datasets.look import Data, is_object, look, name_of
from embedkit.evaluation.datasets.tables import find_file

DEFAULT = "sts"
"""The suite of a call that names neither a suite nor data."""


@dataclass(frozen=True)
class Reading:
    """A suite that data can be scored by, and what it takes them for.

    Examples
    --------
    >>> recognise([{"question": "how?", "answer": "so"}])
    Reading(suite='own-retrieval', taken_for="questions and answers (columns 'question', 'answer')")
    """

    suite: str
    taken_for: str


def own_suites() -> list[SuiteConfig]:
    """The shipped suites for a user's own data.

    Examples
    --------
    >>> [suite.name for suite in own_suites()][:3]
    ['own-analogies', 'own-anomaly', 'own-attention']
    """
    return [suite for suite in map(load_suite, suite_names()) if is_own(suite)]


def is_own(suite: SuiteConfig) -> bool:
    """Whether a suite scores the user's own data rather than files of known names.

    Examples
    --------
    >>> is_own(load_suite("own-sts")), is_own(load_suite("sts"))
    (True, False)
    """
    return all(task.own for task in suite.tasks)


def named(suite: SuiteConfig, data: Data | None) -> SuiteConfig:
    """A suite for own data with its tasks called after `data`; others, and without data, as they are.

    Examples
    --------
    >>> named(load_suite("own-sts"), "my_scores.csv").tasks[0].name
    'my_scores'
    """
    if data is None or not any(task.own for task in suite.tasks):
        return suite
    name = name_of(data)
    several = sum(task.own for task in suite.tasks) > 1
    names = {task.name: f"{name}-{task.name}" if several else name for task in suite.tasks if task.own}
    tasks = [task.model_copy(update={"name": names.get(task.name, task.name)}) for task in suite.tasks]
    return suite.model_copy(update={"tasks": tasks, "main": names.get(suite.main, suite.main)})


def resolve(
    suite: SuiteConfig, data: Data | None = None, tasks: Sequence[str] | None = None
) -> tuple[SuiteConfig, list[str]]:
    """The suite that `data` are scored by, and the notes about it.

    A suite of known names (``retrieval`` is SciFact and Cranfield) given one file, one collection or rows in memory
    becomes the suite for own data of the same kind of task, with its settings: a score is never filed under the name of
    a benchmark that the data are not. Where `tasks` name one, the user says what the data are.

    Examples
    --------
    >>> config, notes = resolve(load_suite("retrieval"), [{"query": "how do I pay?", "positive": "by card"}])
    >>> config.name, notes
    ('own-retrieval', ['the data is not the data of suite retrieval: scored under its own name, suite own-retrieval'])
    """
    if data is None or tasks is not None or is_own(suite):
        return named(suite, data), []
    alone = is_object(data) or Path(data).is_file() or is_collection(Path(data))
    kinds = {task.kind for task in suite.tasks}
    own = next((one for one in own_suites() if {task.kind for task in one.tasks} == kinds), None)
    if not alone or own is None:
        return suite, []
    settings = dict(suite.settings)
    for key in set.intersection(*(set(task.settings) for task in suite.tasks)):
        values = [task.settings[key] for task in suite.tasks]
        if all(value == values[0] for value in values) and key not in _NAMES_OF_COLUMNS:
            settings[key] = values[0]
    config = named(own.model_copy(update={"settings": own.settings | settings}), data)
    title = "the data" if is_object(data) else str(data)
    note = f"{title} is not the data of suite {suite.name}: scored under its own name, suite {own.name}"
    return config, [note]


_NAMES_OF_COLUMNS = ("label", "subsets")
"""Settings that describe a benchmark's file, not how it is scored."""


def readings(data: Data) -> list[Reading]:
    """Every suite that `data` can be read by; the shipped ones of known file names first, else those for own data.

    Raises
    ------
    DataError
        There is nothing, or nothing that can be read.

    Examples
    --------
    >>> [one.suite for one in readings([{"question": "how?", "answer": "so"}])]
    ['own-retrieval']
    """
    if not is_object(data) and Path(data).is_dir() and not is_collection(Path(data)):
        suites = [suite for suite in map(load_suite, suite_names()) if not is_own(suite)]
        tasks_there = {
            suite.name: [task.name for task in suite.tasks if _holds(Path(data), suite, task.file or task.name)]
            for suite in suites
        }
        words = {name: f"the data of suite {name} ({', '.join(tasks)})" for name, tasks in tasks_there.items() if tasks}
        shipped = [Reading(name, text) for name, text in words.items()]
        if shipped:
            return shipped
    content = look(data)
    pairs = [(suite.name, TASKS[suite.tasks[0].kind].reading(content)) for suite in own_suites()]
    return [Reading(name, text) for name, text in pairs if text is not None]


def _holds(data: Path, suite: SuiteConfig, name: str) -> bool:
    if name.startswith("builtin:"):
        return False
    return find_file(data, name, suite.folder) is not None or any(
        is_collection(base / name) for base in (data, data / (suite.folder or ""))
    )


def recognise(data: Data | None) -> Reading:
    """The one suite for `data`, where the user names none; `DEFAULT` without data.

    Raises
    ------
    UserError
        No reading is possible, or several are; they are listed.

    Examples
    --------
    >>> recognise([{"text": "a cat", "label": "animal"}, {"text": "a car", "label": "thing"}]).suite
    'own-classification'
    """
    if data is None:
        return Reading(DEFAULT, "")
    title = "the data" if is_object(data) else str(data)
    possible = readings(data)
    matches = [one for one in possible if one.suite == DEFAULT] or possible
    if len(matches) == 1:
        return matches[0]
    if possible:
        choices = "; ".join(f"{one.suite} ({one.taken_for})" for one in possible)
        raise UserError("the data can be read in several ways", where=title, remedy=f"choose with --suite: {choices}")
    columns = ", ".join(map(repr, table.columns)) if (table := look(data).table) is not None else "no table"
    names = ", ".join(suite.name for suite in own_suites())
    raise UserError("cannot tell what is to be scored", where=title,
                    remedy=f"choose with --suite ({names}); its columns are {columns}, to be named with "
                    "--set 'columns={COLUMN: ROLE}'")  # fmt: skip
