"""Which rows of a source are read: the values that columns must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def condition(where: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row has the values that `where` names: column -> one value, or a list of those that will do.

    Text cells (csv, tsv) are compared with a value's text.

    Examples
    --------
    >>> kept = condition({"lang": ["en", "de"], "good": True})
    >>> kept({"lang": "en", "good": "true"}), kept({"lang": "fr", "good": True}), kept({"lang": "de"})
    (True, False, False)
    """
    choices = {column: list(value) if isinstance(value, list | tuple) else [value] for column, value in where.items()}
    return lambda row: all(_matches(row.get(column), values) for column, values in choices.items())


def _matches(cell: Any, choices: list[Any]) -> bool:
    """Whether a cell is one of the accepted values."""
    for value in choices:
        if cell == value or (value is None and cell == ""):
            return True
        if isinstance(cell, str) and not isinstance(value, str) and cell.lower() == str(value).lower():
            return True
    return False
