"""The kind of a role: whether its values are texts, vectors or sequences, as declared or as the first rows show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from embedkit.data.schema.rows import BadRow
from embedkit.data.schema.targets import is_target
from embedkit.data.vectors.sequences import axes_of
from embedkit.data.vectors.values import is_vector, no_vector
from embedkit.errors import DataError, nearest

KINDS = ("text", "vector", "sequence")
"""What the values of a role of `OPEN_ROLES` can be."""

OPEN_ROLES = ("anchor", "positive", "negatives")
"""Roles whose kind is not fixed by their name; those of modalities are further ones."""

_MODALITY = "modality"


def modality_role(name: str) -> str:
    """The role of a modality that the recipe names.

    Examples
    --------
    >>> modality_role("sound")
    'modality:sound'
    """
    return f"{_MODALITY}:{name}"


def is_modality(role: str) -> bool:
    """Whether a role is that of a modality, which a row may lack.

    Examples
    --------
    >>> is_modality("modality:sound"), is_modality("anchor")
    (True, False)
    """
    head, colon, name = role.partition(":")
    return bool(colon and name) and head == _MODALITY


def is_named(role: str) -> bool:
    """Whether a role has a name of the recipe's own behind its colon: a target's, or a modality's.

    Examples
    --------
    >>> is_named("class:genre"), is_named("modality:sound"), is_named("label")
    (True, True, False)
    """
    return is_target(role) or is_modality(role)


def modalities_of(slots: Iterable[str]) -> list[str]:
    """The modalities among what columns are read as; an image is one where there is another.

    Examples
    --------
    >>> modalities_of(["image", "label", "modality:sound"]), modalities_of(["image", "texts"])
    (['modality:sound', 'image'], [])
    """
    own = sorted(filter(is_modality, slots))
    return own + [slot for slot in slots if slot in ("image", "image2")] if own else []


def check_any(row: Mapping[str, Any], roles: Sequence[str], columns: Mapping[str, str], where: str) -> None:
    """Refuse a row that has none of its modalities, with the names of their columns.

    Examples
    --------
    >>> check_any({"modality:sound": None}, ["modality:sound"], {"modality:sound": "wav"}, "a.npz:3")
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: a.npz:3: the row has nothing in 'wav'; fill one, or set data.on_bad_row: skip
    """
    if roles and all(row.get(role) is None for role in roles):
        names = ", ".join(repr(columns[role]) for role in roles)
        raise BadRow("no modality", f"the row has nothing in {names}", where=where,
                     remedy="fill one, or set data.on_bad_row: skip")  # fmt: skip


_AXES = {"negatives": 3, "positives": 3}
"""Slot -> axes of a cell of sequences, where it is not 2."""


def vector_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Columns whose cells, where they are not empty, are vectors in all these rows.

    Examples
    --------
    >>> sorted(vector_columns(["text", "vec"], [{"text": "a", "vec": [0.5, 1.0]}, {"text": "b", "vec": None}]))
    ['vec']
    """
    columns = set()
    for name in names:
        cells = [cell for row in rows if (cell := row.get(name)) is not None]
        if cells and all(map(is_vector, cells)):
            columns.add(name)
    return frozenset(columns)


def axes_of_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Column -> axes of its cells, of those whose cells have numbers on two axes (sequences) or more in all these rows.

    Examples
    --------
    >>> axes_of_columns(["label", "series"], [{"label": 1, "series": [[0.5], [1.0]]}, {"label": 2, "series": None}])
    {'series': 2}
    """
    axes = {}
    for name in names:
        counts = {axes_of(cell) for row in rows if (cell := row.get(name)) is not None}
        if len(counts) == 1 and min(counts) > 1:
            axes[name] = min(counts)
    return axes


def role_of_slot(slot: str) -> str:
    """The role of `OPEN_ROLES` that a slot belongs to; the slot itself for others.

    Examples
    --------
    >>> role_of_slot("negative_2"), role_of_slot("anchor"), role_of_slot("label")
    ('negatives', 'anchor', 'label')
    """
    return "negatives" if slot.startswith("negative_") else "positive" if slot == "positives" else slot


def kinds_of(
    columns: Mapping[str, str],
    declared: Mapping[str, str],
    vectors: frozenset[str],
    where: str,
    axes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[dict[str, str], list[str]]:
    """Role -> kind of the open roles that columns are bound to, and what was found from the cells, in words.

    Parameters
    ----------
    columns : mapping
        Slot -> column.
    declared : mapping
        Role -> kind, as the recipe says it.
    vectors : frozenset of str
        Columns whose first cells are vectors.
    where : str
        How messages call the source.
    axes : mapping
        Column -> axes of its cells, see `axes_of_columns`.

    Raises
    ------
    DataError
        A kind is declared that does not exist, or for a role that has no column or no choice of kind.

    Examples
    --------
    >>> kinds_of({"anchor": "vec", "label": "class"}, {}, frozenset({"vec"}), "a.npz")
    ({'anchor': 'vector'}, ['anchor is a vector in every row'])
    >>> kinds_of({"anchor": "series"}, {}, frozenset(), "a.npz", {"series": 2})
    ({'anchor': 'sequence'}, ['anchor is a sequence of vectors in every row'])
    """
    slots: dict[str, list[str]] = {}
    for slot in columns:
        slots.setdefault(role_of_slot(slot), []).append(slot)
    declared = {modality_role(role) if modality_role(role) in slots else role: kind for role, kind in declared.items()}
    modalities = sorted(filter(is_modality, slots))
    for role, kind in declared.items():
        if kind not in KINDS:
            raise DataError(f"no kind {kind!r}", where=f"{where} kinds", remedy=nearest(kind, KINDS))
        if role not in OPEN_ROLES and role not in modalities:
            remedy = f"kinds are declared of {', '.join(OPEN_ROLES)}; that of others is fixed"
            raise DataError(f"role {role!r} has no choice of kind", where=f"{where} kinds", remedy=remedy)
        if role not in slots:
            remedy = f"map a column: columns: {{COLUMN: {role}}}"
            raise DataError(f"a kind is declared of {role}, which has no column", where=where, remedy=remedy)
    kinds, notes = {}, []
    for role in (*OPEN_ROLES, *modalities):
        of_role, name = slots.get(role, []), role.removeprefix(f"{_MODALITY}:")
        if role in declared:
            kinds[role] = declared[role]
        elif of_role and all(axes.get(columns[slot], 0) == _AXES.get(slot, 2) for slot in of_role):
            kinds[role] = "sequence"
            one = "is a sequence of vectors in every row"
            notes.append(f"{name} {one}" if role != "negatives" else "negatives are sequences of vectors")
        elif of_role and all(columns[slot] in vectors for slot in of_role):
            kinds[role] = "vector"
            note = f"{name} is a vector" if is_modality(role) else f"{name} is a vector in every row"
            notes.append("negatives are vectors" if role == "negatives" else note)
        elif of_role:
            kinds[role] = "text"
    return kinds, notes


def plain_cell(cell: Any) -> Any:
    """A cell of an array file as a role that holds no vectors reads it: lists and plain numbers.

    Examples
    --------
    >>> plain_cell(np.array([0.5, 1.0])), plain_cell("a text")
    ([0.5, 1.0], 'a text')

    Raises
    ------
    BadRow
        It is an array of what is neither text nor a whole or floating-point number; without a place.
    """
    if isinstance(cell, np.ndarray) and cell.ndim and cell.dtype.kind not in "fiuUSTO":
        raise no_vector(cell)
    return cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell
