"""Columns to roles: which column is the anchor, which the positive; checked against what the method reads.

Roles are bound by name, never by position. A mapping in the recipe always counts; without one a column takes a role
when its name is the role's or a well-known alias (`ALIASES`), and only a role that the method or the sampler reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from embedkit.errors import DataError, nearest

IMAGE_NAMES = ("image", "img", "file_name", "filename", "image_path", "filepath")
"""Names of columns that hold images or their paths, the likeliest first."""

ALIASES: Mapping[str, Sequence[str]] = {
    "anchor": ("text", "sentence", "sent0", "sentence1", "premise", "query", "question"),
    "positive": ("pos", "sent1", "sentence2", "entailment", "answer", "passage", "document"),
    "negatives": ("negs", "hard_negatives"),
    "negative_1": ("negative", "neg", "hard_neg", "hard_negative", "contradiction"),
    "score": ("similarity", "similarity_score"),
    "label": ("labels",),
    "group": (),
    "image": IMAGE_NAMES[1:],
    "image2": ("img2",),
    "features": ("image_features",),
    "texts": ("captions",),
    "text_1": ("caption",),
}
"""Role -> names of columns that are taken for it when the recipe maps nothing, besides the role's own name. A column
``text`` is a caption where the method reads captions and no anchor, and no other column has captions."""

ROLES = ("anchor", "positive", "negatives", "score", "label", "group", "image", "image2", "features", "texts")
"""Roles of a finished row; columns ``negative_1``, ``negative_2`` ... become entries of ``negatives``, columns
``text_1``, ``text_2`` ... of one caption each become entries of ``texts``."""

IMAGE_ROLES = ("image", "image2")
"""Roles whose values are images: the bytes of a file, or its path."""

_SEPARATORS = {"\t": "a tab", ";": "';'", ",": "','", "|": "'|'"}
_SLOTS = {"negatives": re.compile(r"negative_(\d{1,4})"), "texts": re.compile(r"text_(\d{1,4})")}
_NUMBERED_ALIASES = {
    "negative": re.compile(r"(?:neg|hard_neg|hard_negative)_(\d{1,4})"),
    "text": re.compile(r"caption_?(\d{1,4})"),
}


@dataclass(frozen=True)
class Binding:
    """Which column fills which role in one source.

    Attributes
    ----------
    columns : dict
        Role (``negative_1`` and so on kept apart) -> column.
    notes : tuple of str
        Columns that look like a role which nothing reads; shown to the user.
    """

    columns: dict[str, str]
    notes: tuple[str, ...] = ()
    roles: frozenset[str] = field(default=frozenset())


def bind(
    found: Sequence[str],
    mapping: Mapping[str, str] | None,
    *,
    requires: frozenset[str],
    reads: frozenset[str],
    where: str,
    explode: bool = False,
) -> Binding:
    """Bind the columns of a source to roles and check them against what is read.

    Parameters
    ----------
    found : sequence of str
        The columns that the source has.
    mapping : mapping, optional
        The recipe's column -> role; guessed from names when None.
    requires, reads : frozenset of str
        Roles that the method needs, and all that method and sampler read.
    where : str
        How messages call the source.
    explode : bool
        The role ``texts`` will become pairs: ``anchor``, ``positive`` and ``group``.

    Raises
    ------
    DataError
        A mapped column is absent, a role is unknown, given twice or read by nobody, or a required role is missing.
    """
    wanted = reads | {"texts"} if explode else reads
    columns, notes = _guess(found, wanted, where) if mapping is None else (_mapped(found, mapping, wanted, where), [])
    roles = {_role_of(slot) for slot in columns}
    if explode:
        if "texts" not in roles:
            raise DataError("'explode' needs a column with role texts", where=where, remedy=_advice(found, ["texts"]))
        clash = roles & {"anchor", "positive"}
        if clash:
            raise DataError(
                f"'explode' makes anchor and positive, but a column is bound to {sorted(clash)[0]}",
                where=where,
                remedy="map only the column of texts with 'columns'",
            )
        roles = roles - {"texts"} | {"anchor", "positive", "group"}
    missing = sorted(requires - roles)
    if missing:
        named = " and ".join(repr(role) for role in missing)
        raise DataError(
            f"no column for role {named}, which the method needs", where=where, remedy=_advice(found, missing)
        )
    return Binding(columns, tuple(notes), frozenset(roles))


def _role_of(slot: str) -> str:
    return next((role for role, pattern in _SLOTS.items() if pattern.fullmatch(slot)), slot)


def _mapped(found: Sequence[str], mapping: Mapping[str, str], wanted: frozenset[str], where: str) -> dict[str, str]:
    columns: dict[str, str] = {}
    for column, slot in mapping.items():
        if column not in found:
            raise DataError(f"there is no column {column!r}", where=where, remedy=nearest(column, found))
        role = _role_of(slot)
        if role not in ROLES:
            raise DataError(f"{slot!r} is not a role", where=f"{where} column {column!r}", remedy=nearest(slot, ROLES))
        if slot in columns:
            raise DataError(
                f"columns {columns[slot]!r} and {column!r} are both mapped to {slot}",
                where=where,
                remedy="keep one of them (several negatives: negative_1, negative_2, ...; captions: text_1, ...)",
            )
        if role not in wanted:
            raise DataError(
                f"column {column!r} is mapped to role {role}, which neither the method nor the sampler reads",
                where=where,
                remedy=f"leave it out of 'columns'; read here: {', '.join(sorted(wanted))}",
            )
        columns[slot] = column
    return columns


def _guess(found: Sequence[str], wanted: frozenset[str], where: str) -> tuple[dict[str, str], list[str]]:
    columns: dict[str, str] = {}
    notes: list[str] = []
    guesses: dict[str, list[str]] = {}
    told = bool({"caption", "captions", "texts", "text_1"} & set(found))
    for column in found:
        slot = (None if told else "text_1") if _is_caption(column, wanted) else named_role(column)
        if slot is not None:
            guesses.setdefault(slot, []).append(column)
    for slot, candidates in guesses.items():
        exact = [column for column in candidates if column == slot]
        if _role_of(slot) not in wanted:
            notes.append(f"{where}: column {candidates[0]!r} is not used, nothing reads role {_role_of(slot)}")
        elif len(candidates) == 1 or exact:
            columns[slot] = exact[0] if exact else candidates[0]
        else:
            listed = " and ".join(repr(column) for column in candidates)
            raise DataError(
                f"columns {listed} both look like {slot}",
                where=where,
                remedy=f"say which with columns: {{{candidates[0]}: {slot}}}",
            )
    return columns, notes


def _is_caption(column: str, wanted: frozenset[str]) -> bool:
    return column == "text" and "texts" in wanted and "anchor" not in wanted


def named_role(column: str) -> str | None:
    """The role that a column's name stands for, ``negative_1`` and so on kept apart; None when it is no such name."""
    if column in ROLES or _role_of(column) != column:
        return column
    for slot, pattern in _NUMBERED_ALIASES.items():
        numbered = pattern.fullmatch(column)
        if numbered:
            return f"{slot}_{numbered[1]}"
    return next((role for role, names in ALIASES.items() if column in names), None)


def _advice(found: Sequence[str], missing: Sequence[str]) -> str:
    listed = ", ".join(repr(column) for column in list(found)[:20]) or "none"
    if not found:
        return f"the source has no columns to map to {missing[0]}"
    between = next((name for sign, name in _SEPARATORS.items() if sign in found[0]), None)
    if len(found) == 1 and between is not None:
        return f"the only column is {listed}: cells are separated by ',' in csv and by a tab in tsv, not by {between}"
    return f"the columns are {listed}: map one with columns: {{COLUMN: {missing[0]}}}"
