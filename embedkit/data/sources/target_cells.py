"""The cells of targets in one source: named, of one size, of the classes that the recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest

from embedkit.data.schema.parsers import read_label
from embedkit.data.schema.rows import BadRow, Part
from embedkit.data.schema.targets import read_target
from embedkit.data.sources.class_names import ClassNumber, class_names
from embedkit.errors import nearest

if TYPE_CHECKING:
    from embedkit.data.schema.contract import Limit


class TargetCells:
    """Reads the cells of targets, and remembers the sizes of their vectors.

    Attributes
    ----------
    widths : dict of str to int
        Role -> numbers of each of its vectors, once one was read.

    Examples
    --------
    >>> cells = TargetCells({"class:tone": frozenset({"sad", "gay"})})
    >>> part = Part("rows.csv", lambda: iter([]))
    >>> cells.read("class:tone", "sad", "tone", part), cells.read("soft:mix", [0.5, 0.5], "mix", part), cells.widths
    ('sad', [0.5, 0.5], {'soft:mix': 2})
    >>> cells.read("class:tone", "saad", "tone", part)
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: 'saad' is none of the classes of the recipe; did you mean 'sad'?, or ...
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self.widths: dict[str, int] = {}
        self._classes = {role: limit for role, limit in limits.items() if isinstance(limit, frozenset)}
        self._names: dict[str, dict[str, list[str]]] = {}

    def read(self, role: str, cell: Any, column: str, part: Part) -> Any:
        """The value of a target, see `read_target`.

        Raises
        ------
        BadRow
            Without a place.
        """
        if type(cell) is int and role.startswith("class:") and part.file is not None:
            if part.name not in self._names:
                self._names[part.name] = class_names(part.file)
            cell = ClassNumber(cell, self._names[part.name].get(column))
        value = read_target(role, cell)
        if isinstance(value, list) and value and isinstance(value[0], float):
            width = self.widths.setdefault(role, len(value))
            if len(value) != width:
                what = f"the target has {len(value)} numbers, the rows before it {width}"
                raise BadRow("unequal widths", what, remedy="give all rows the same length")
        choices = self._classes.get(role)
        for name in ([value] if isinstance(value, str) else value or []) if choices is not None else ():
            if name not in choices:  # type: ignore[operator]
                remedy = f"{nearest(name, choices or ())}, or add it to 'classes'"
                raise BadRow("unknown class", f"{name!r} is none of the classes of the recipe", remedy=remedy)
        return value

    def label(self, cell: Any, part: Part, columns: Mapping[str, str]) -> int | None:
        """The role label: a class number; where the same column is a target too, its classes may have names.

        Examples
        --------
        >>> columns, part = {"class:tone": "tone", "label": "tone"}, Part("rows.csv", lambda: iter([]))
        >>> cells = TargetCells({})
        >>> cells.label("3", part, columns), cells.label("", part, columns)
        (3, None)
        >>> cells.label("sad", part, columns) == cells.label(" sad", part, columns) != cells.label("gay", part, columns)
        True
        """
        column = columns["label"]
        role = next((role for role in columns if role.startswith("class:") and columns[role] == column), None)
        if role is None:
            return read_label(cell)
        name = self.read(role, cell, column, part)
        if name is None or name.isdecimal():
            return None if name is None else read_label(name)
        return xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")) >> 1
