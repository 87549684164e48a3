"""What the first rows of a source show: which columns hold lists, which values one has, why nothing is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedkit.data.images.paths import IMAGE_PATH_REMEDY
from embedkit.data.schema.parsers import is_list, show
from embedkit.data.schema.roles import named_role


def list_columns(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], vectors: frozenset[str], mapping: Mapping[str, str]
) -> frozenset[str]:
    """Columns whose cells, where they are not empty, are all lists; one of numbers is a list where it is a score.

    Examples
    --------
    >>> rows = [{"pos": ["a", "b"], "vec": [0.5, 1.0], "score": [0.5, 1.0]}]
    >>> sorted(list_columns(["pos", "vec", "score"], rows, frozenset({"vec", "score"}), {}))
    ['pos', 'score']
    """
    columns = set()
    for name in names:
        cells = [cell for row in rows if not _is_empty(cell := row.get(name))]
        is_score = mapping.get(name, named_role(name)) in ("score", "scores")
        if cells and all(map(is_list, cells)) and (name not in vectors or is_score):
            columns.add(name)
    return frozenset(columns)


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell == "")


def values_of(column: str, rows: Sequence[Any]) -> list[str]:
    """Up to five values of a column, for a message.

    Examples
    --------
    >>> values_of("lang", [{"lang": "en"}, {"lang": "de"}, {"lang": "en"}])
    ["str 'en'", "str 'de'"]
    """
    values = dict.fromkeys(show(row.get(column)) for row in rows if isinstance(row, dict))
    return list(values)[:5]


def remedy_of(bad: Sequence[tuple[str, str, str]]) -> str:
    """What the first row that was left out lacks (place, reason, fault), and where image paths start when that is it.

    Examples
    --------
    >>> remedy_of([("faq.csv:2", "blank text", "the text is empty")])
    'the first: faq.csv:2: the text is empty'
    """
    if not bad:
        return "check the file and the mapping"
    place, reason, what = bad[0]
    return f"the first: {place}: {what}" + (f"; {IMAGE_PATH_REMEDY}" if reason in ("missing image", "bad path") else "")
