"""Columns of own data under the names that a task reads, recognised by their names or given by the user."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from embedkit.data.schema.roles import bind, named_role
from embedkit.errors import DataError, nearest
from embedkit.evaluation.datasets.tables import Table


def own_columns(
    table: Table, names: Mapping[str, str], columns: Mapping[str, str], optional: Sequence[str] = ()
) -> tuple[Table, list[str]]:
    """The table with its columns under the task's names, and what was guessed, in words.

    Parameters
    ----------
    table : Table
    names : mapping
        Role of training data -> the name that the task reads, e.g. ``{"anchor": "query"}``.
    columns : mapping
        What the user says: column -> a role or one of the task's names.
    optional : sequence of str
        Roles that need not be there.

    Raises
    ------
    DataError
        A column is absent or fits two roles, or a role that is needed has none.

    Examples
    --------
    >>> table = Table({"question": ["how?"], "answer": ["so"]}, [1], "faq.csv")
    >>> own_columns(table, {"anchor": "query", "positive": "positive"}, {})[1]
    ["faq.csv: read as question = query, answer = positive; --set 'columns={COLUMN: ROLE}' says otherwise"]
    """
    reads, roles = frozenset(names), {name: role for role, name in names.items()}
    user = {column: roles.get(slot, slot) for column, slot in columns.items()}
    for column, slot in user.items():
        if column not in table.columns:
            raise DataError(f"there is no column {column!r}", where=table.source, remedy=nearest(column, table.columns))
        if slot not in reads and _numbered(slot, reads) is None:
            raise DataError(f"{slot!r} is nothing that is read here", where=f"{table.source} column {column!r}",
                            remedy=f"use one of {', '.join(names.values())}")  # fmt: skip
    needed = reads - frozenset(optional)
    there = [name for name in table.columns if name != "split"]
    if not user and {names[role] for role in needed} <= set(there):  # the task's own names need no guess
        user = {name: roles[name] for name in there if name in roles}
        user |= {name: role for name in there if name not in user and (role := _numbered(name, reads)) is not None}
    exact = bool(user)
    try:
        binding = bind(there, user or None, requires=needed, reads=reads, where=table.source)
    except DataError as error:
        listing = ", ".join(map(repr, there))
        remedy = f"its columns are {listing}: name them with --set 'columns={{COLUMN: {' or '.join(names.values())}}}'"
        raise DataError(error.what, where=error.where, remedy=remedy) from error
    renamed, words = {}, []
    for slot, column in binding.columns.items():
        role, _, number = slot.rpartition("_") if slot.rpartition("_")[2].isdigit() else (slot, "", "")
        name = names.get(slot) or f"{role}_{number}"
        renamed[column] = name
        words.append(f"{column} = {name}")
    new_names = [word for word in words if len(set(word.split(" = "))) > 1]
    note = f"{table.source}: read as {', '.join(words)}; --set 'columns={{COLUMN: ROLE}}' says otherwise"
    cells = {renamed.get(name, name): column for name, column in table.columns.items()
             if name in renamed or name not in renamed.values()}  # fmt: skip
    return Table(cells, table.lines, table.source, table.sources), [note] if new_names and not exact else []


def _numbered(column: str, reads: Collection[str]) -> str | None:
    """``negative_1``, ``text_2`` ... where a column's name stands for one, and its list is read; None for others."""
    slot = named_role(column)
    return slot if slot is not None and f"{slot.rpartition('_')[0]}s" in reads else None


def joined_lists(table: Table, prefix: str, name: str) -> Table:
    """The table with columns ``PREFIX_1``, ``PREFIX_2`` ... as one column of lists, empty cells left out.

    Examples
    --------
    >>> table = Table({"negative_1": ["a"], "negative_2": [None]}, [1], "faq.csv")
    >>> joined_lists(table, "negative", "negatives").columns
    {'negatives': [['a']]}
    """
    numbered = [key for key in table.columns if key.startswith(f"{prefix}_") and key.rpartition("_")[2].isdigit()]
    if not numbered or name in table.columns:
        return table
    lists = [[cell for cell in row if cell] for row in zip(*(table.columns[key] for key in numbered), strict=True)]
    columns = {key: cells for key, cells in table.columns.items() if key not in numbered}
    return Table(columns | {name: lists}, table.lines, table.source, table.sources)
