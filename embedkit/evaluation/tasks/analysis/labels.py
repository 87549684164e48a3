"""Texts or images with a label a row, as the tasks of this folder read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedkit.data.sources.class_names import class_of
from embedkit.errors import DataError
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.task import Opening, Task
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.tables import Table, content_hash, open_table


@dataclass(frozen=True)
class LabelledRows:
    """Inputs, the number of each row's label (N,), the labels' names in order, and the table they come from.

    Examples
    --------
    >>> table = Table({"text": ["a cat", "a car"], "label": ["pet", "thing"]}, [2, 3], "pets.csv")
    >>> rows = labelled_rows(table, "label")
    >>> rows.items, rows.y.tolist(), rows.classes
    (['a cat', 'a car'], [0, 1], ['pet', 'thing'])
    """

    items: list[Item]
    y: Array
    classes: list[str]
    table: Table

    @property
    def sha256(self) -> str:
        """The hash of inputs and labels."""
        return content_hash(self.items, [self.classes[number] for number in self.y])


def numbers_of(table: Table, column: str) -> tuple[Array, list[str]]:
    """The cells of a column as numbers (N,) of its sorted values, and those.

    Examples
    --------
    >>> numbers, names = numbers_of(Table({"domain": ["web", "news", "web"]}, [2, 3, 4], "a.csv"), "domain")
    >>> numbers.tolist(), names
    ([1, 0, 1], ['news', 'web'])
    """
    table.require(column)
    cells = [class_of(cell) for cell in table.columns[column]]
    names = sorted(set(cells))
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[cell] for cell in cells]), names


def labelled_rows(table: Table, label: str) -> LabelledRows:
    """The rows of a table with a column ``text`` or ``image`` and a column of labels.

    Raises
    ------
    DataError
        A column is missing, a cell is empty, or there are fewer than two labels.

    Examples
    --------
    >>> labelled_rows(Table({"text": ["a cat", "a dog"], "label": ["pet", "pet"]}, [2, 3], "pets.csv"), "label")
    Traceback (most recent call last):
        ...
    embedkit.errors.DataError: pets.csv: column 'label' has one value, 'pet'; give rows of two labels at least
    """
    items: list[Item] = inputs_of(table)
    y, classes = numbers_of(table, label)
    if len(classes) < 2:
        what = f"column {label!r} has one value, {classes[0]!r}"
        raise DataError(what, where=table.source, remedy="give rows of two labels at least")
    return LabelledRows(items, y, classes, table)


def open_labelled(task: Task, opening: Opening, label: str) -> LabelledRows:
    """The labelled rows of a task's split; columns of own data are recognised as in training.

    Examples
    --------
    >>> from embedkit.evaluation import open_suite
    >>> open_suite("own-space", {"text": ["a cat", "a car"], "label": ["pet", "thing"]}).tasks[0].rows.classes
    ['pet', 'thing']
    """
    table = open_table(task.config, opening.data, opening.split, opening.folder)
    if "image" not in table.columns:
        table = task.own_table(table, {"anchor": "text", "label": label})
    return labelled_rows(table, label)
