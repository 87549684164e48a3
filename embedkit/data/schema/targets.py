"""Targets: what heads learn to tell from a vector, under names of the user's own.

A head names its target (``genre``) and says of what kind it is; the role of the column is then ``KIND:NAME``, here
``class:genre``. A cell that is null, blank or NaN is a missing label: the row is trained on, and left out of the head's
mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from embedkit.config.settings import TargetKind
from embedkit.data.schema.parsers import read_score, read_scores, show
from embedkit.data.schema.rows import BadRow

KINDS: tuple[TargetKind, ...] = get_args(TargetKind)
"""class: one of several; classes: any number of several; soft: a share for each class, of sum 1; degrees: a number of
[0, 1] for each class; number: a number, or a list of them."""

_SUM = 1e-3
_FIX = "fix the row, or set data.on_bad_row: skip"


@dataclass(frozen=True)
class TargetFacts:
    """What the rows say of a target.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes, in order; empty for kinds without names.
    width : int
        Numbers of a vector; 0 for kinds with names, or where no row has one.

    Examples
    --------
    >>> TargetFacts(("no", "yes"))
    TargetFacts(classes=('no', 'yes'), width=0)
    """

    classes: tuple[str, ...] = ()
    width: int = 0


def target_role(kind: str, name: str) -> str:
    """The role of a target.

    Examples
    --------
    >>> target_role("class", "genre")
    'class:genre'
    """
    return f"{kind}:{name}"


def is_target(role: str) -> bool:
    """Whether a role is that of a target.

    Examples
    --------
    >>> is_target("class:genre"), is_target("label"), is_target("mood:genre")
    (True, False, False)
    """
    kind, colon, name = role.partition(":")
    return bool(colon and name) and kind in KINDS


def target_name(role: str) -> str:
    """The name of a target's role.

    Examples
    --------
    >>> target_name("soft:topics")
    'topics'
    """
    return role.partition(":")[2]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Different class names in the order in which a head counts them: numbers by value where all are whole numbers.

    Examples
    --------
    >>> in_order(["10", "9", "9"]), in_order(["10", "b", "9"])
    (('9', '10'), ('10', '9', 'b'))
    """
    different = set(names)
    if all(name.removeprefix("-").isdecimal() for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def read_target(role: str, cell: Any) -> Any:
    """The value of a target, None where the cell has none.

    A class is a name (str), several classes a list of names; all other kinds are lists of float.

    Raises
    ------
    BadRow
        Without a place.

    Examples
    --------
    >>> read_target("class:genre", 3.0), read_target("classes:genre", '["a", 2]'), read_target("number:age", "42")
    ('3', ['a', '2'], [42.0])
    >>> read_target("class:genre", " ") is None
    True
    >>> read_target("soft:genre", [0.5, 0.6])
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: the shares of a soft target sum to 1.1, not 1; ...
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell)):
        return None
    kind = role.partition(":")[0]
    if kind == "class":
        return _name(cell)
    if kind == "classes":
        return _names(cell)
    is_list = not isinstance(cell, str) or cell.lstrip().startswith("[")
    numbers = read_scores(cell) if is_list else [read_score(cell)]
    if not numbers:
        raise BadRow("empty list", "the list of numbers is empty", remedy=_FIX)
    if kind != "number" and not all(0 <= number <= 1 for number in numbers):
        raise BadRow("bad target", f"a {kind} target has numbers of 0 to 1, found {cell}"[:200], remedy=_FIX)
    if kind == "soft" and abs(sum(numbers) - 1) > _SUM:
        what = f"the shares of a soft target sum to {sum(numbers):.4g}, not 1"
        raise BadRow("bad target", what, remedy="divide them by their sum, or use kind: degrees")
    return numbers


def _name(cell: Any) -> str:
    """The name of a class: of ``datasets``' numbered ones the name they stand for."""
    name = getattr(cell, "name", None)
    if isinstance(name, str):
        return name
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, int):
        return str(cell)
    if not isinstance(cell, str):
        remedy = "use kind: classes for lists of classes, kind: number for numbers"
        raise BadRow("wrong type", f"expected the name or number of a class, found {show(cell)}", remedy=remedy)
    text = cell.strip()
    return text.removesuffix(".0") if text.removesuffix(".0").removeprefix("-").isdecimal() else text


def _names(cell: Any) -> list[str]:
    """Names of classes, from a list or the text of a JSON list."""
    import json

    items = cell
    if isinstance(cell, str):
        try:
            items = json.loads(cell)
        except (ValueError, RecursionError):
            items = None
    if not isinstance(items, list) or any(item is None or isinstance(item, list | dict) for item in items):
        remedy = 'write ["first", "second"], [] where no class holds; one class a row is kind: class'
        raise BadRow("wrong type", f"expected a list of classes, found {show(cell)}", remedy=remedy)
    return list(dict.fromkeys(_name(item) for item in items))
