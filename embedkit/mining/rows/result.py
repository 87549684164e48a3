"""What select, label, score and generate give back: rows, a report, and the file that holds the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from embedkit.mining.output import write_rows
from embedkit.mining.rows.table import check_cells

if TYPE_CHECKING:
    from datasets import Dataset


class Account(Protocol):
    """The account of a call.

    Examples
    --------
    >>> from embedkit.mining.labels.api import LabelReport
    >>> next(LabelReport(rows=3, sizes=[2, 1]).lines())
    '3 rows in 2 clusters of 1 to 2 rows, 1.5 on average'
    """

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""


R = TypeVar("R", bound=Account)


@dataclass(frozen=True)
class RowsResult(Generic[R]):
    """Rows of a call, with its report.

    Attributes
    ----------
    rows : list of dict
        The rows of the output.
    report : object
        Counts and examples: ``lines()`` for people, ``to_json()`` for programs.
    output : Path or None
        The file that holds the rows.

    Examples
    --------
    >>> import embedkit
    >>> result = embedkit.select(["a cat", "A  cat", "a dog"], "equal-text")
    >>> result.to_dataset()["text"][:]
    ['a cat', 'a dog']
    """

    rows: list[dict[str, Any]]
    report: R
    output: Path | None = None

    def to_dataset(self) -> Dataset:
        """The rows as a ``datasets.Dataset``."""
        from datasets import Dataset

        return Dataset.from_list(self.rows)


def finish(rows: list[dict[str, Any]], report: R, target: Path | None) -> RowsResult[R]:
    """The result, with its rows in the file `target` where there is one.

    Examples
    --------
    >>> from embedkit.mining.labels.api import LabelReport
    >>> finish([{"text": "a cat", "label": 0}], LabelReport(rows=1, sizes=[1]), Path("out.jsonl")).output.name
    'out.jsonl'
    """
    if target is not None:
        check_cells(rows, target)
        write_rows(target, rows)
    return RowsResult(rows, report, target)


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """`most` of the items, evenly spaced; all where there are fewer.

    Examples
    --------
    >>> spread([1, 2, 3, 4, 5, 6], 3)
    [1, 3, 5]
    """
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]
