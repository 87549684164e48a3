"""Words shared by the data modules: a row, a bad row, and where a row came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data.sources.remote import Location
    from embedkit.data.vectors.column import Piece

Row = dict[str, Any]
"""Role -> value. ``anchor``, ``positive``: str, or a vector (float32 array); ``negatives``: list of these; ``texts``:
list of str; ``score``: float; ``label``: int; ``group``: int or str; ``features``: list of float, numbers of another
encoder; ``image``: bytes, or the path of an image file as str. In the rows of one run the same roles stand in every
row; a role that a row lacks, because its source has none, is None (``negatives``: empty)."""


def filled(row: Row, roles: Iterable[str]) -> Row:
    """The row with every one of `roles`: None, or an empty list for ``negatives``, where it has none.

    Examples
    --------
    >>> filled({"anchor": "a cat"}, ["anchor", "positive", "negatives"])
    {'anchor': 'a cat', 'positive': None, 'negatives': []}
    """
    return {role: row.get(role, [] if role == "negatives" else None) for role in roles}


class BadRow(DataError):
    """One row that cannot be used; with ``on_bad_row: skip`` it is counted under `reason` and left out.

    Parameters
    ----------
    reason : str
        Short name under which skipped rows are counted, e.g. ``"blank text"``.
    what, where, remedy : str
        As in `embedkit.errors.UserError`.

    Examples
    --------
    >>> fault = BadRow("blank text", "the text is empty", remedy="fix the row")
    >>> print(fault.at("faq.csv:7"))
    faq.csv:7: the text is empty; fix the row
    """

    def __init__(self, reason: str, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason

    def at(self, where: str) -> BadRow:
        """The same fault with its place filled in."""
        return BadRow(self.reason, self.what, where=where, remedy=self.remedy)

    def refused(self, where: str | None = None) -> BadRow:
        """The same fault outside of training, where no recipe says what is done with a bad row.

        Examples
        --------
        >>> fault = BadRow("bad vector", "number 3 is nan", remedy="fix the row, or set data.on_bad_row: skip")
        >>> print(fault.refused("a.npy:7"))
        a.npy:7: number 3 is nan; fix the row, or take it out of the file
        """
        remedy = self.remedy and self.remedy.replace("set data.on_bad_row: skip", "take it out of the file")
        return BadRow(self.reason, self.what, where=self.where or where, remedy=remedy)


Record = tuple[int, "dict[str, Any] | BadRow"]
"""The number of a row in its file (line number in text formats, 1, 2, ... in tables) and its cells by column."""


@dataclass(frozen=True)
class Part:
    """One file (or table) of a source.

    Attributes
    ----------
    name : str
        How messages call it.
    records : callable
        Starts reading from the beginning; every call gives a new iterator of `Record`.
    folder : Path or None
        Where relative image paths start.
    file : Location or None
        The file behind it, for the fingerprint of a stream.
    format : str or None
        Its format, where it is a file.
    token : str or None
        What stands for its content where it is no file.
    columns : callable, optional
        Name of a column -> its array, where the part can be read by column.
    uneven : bool
        Whether these arrays can have different numbers of rows.

    Examples
    --------
    >>> part = Part("two rows", lambda: iter([(1, {"text": "a cat"}), (2, {"text": "a dog"})]))
    >>> [cells["text"] for _, cells in part.records()]
    ['a cat', 'a dog']
    """

    name: str
    records: Callable[[], Iterator[Record]]
    folder: Path | None = None
    file: Location | None = None
    format: str | None = None
    token: str | None = None
    columns: Callable[[], Mapping[str, Piece]] | None = None
    uneven: bool = False
