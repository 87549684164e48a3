"""Criteria on texts: equal ones, and their length."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Literal

import numpy as np

from embedkit.config.settings import Whole
from embedkit.data.schema.roles import named_role
from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.rows.table import RowTable
from embedkit.mining.rows.vectors import encoded_column
from embedkit.mining.selection.base import Context, Example, Outcome, Rule, criteria

_COMPARED = ("anchor", "positive", "negative_1", "text_1")


def plain_text(text: str) -> str:
    """A text by its letters and digits alone: compatibility forms unified (NFKC), case folded, all else one blank.

    A text without letters and digits keeps its signs.

    Examples
    --------
    >>> plain_text("  The Cat's  ON the mat!! "), plain_text("?!")
    ('the cat s on the mat', '?!')
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # a letter with a mark that no composed form has is still one letter
    plain = "".join(char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in folded)
    return " ".join(plain.split()) or " ".join(folded.split())


_FORMS: dict[str, Callable[[str], str]] = {
    "exact": lambda text: text,
    "spaces": lambda text: " ".join(text.split()),
    "letters": plain_text,
}


@criteria.add("equal-text")
def equal_text(
    form: Literal["exact", "spaces", "letters"] = "letters", keep: Literal["first", "longest"] = "first",
    columns: list[str] | None = None,
) -> Rule:  # fmt: skip
    """One of rows with equal texts.

    Parameters
    ----------
    form : str
        What is compared: ``exact``, the text as it is; ``spaces``, with each run of white space as one blank;
        ``letters``, the letters and digits alone, in any case and compatibility form.
    keep : str
        Which row of equal ones stays: the first, or the one with the most characters.
    columns : list of str, optional
        The texts that must all be equal; those of pairs, triplets and captions by their names, or the column of the
        texts, when None.

    Examples
    --------
    >>> import embedkit
    >>> embedkit.select(["A cat!", "a  cat", "a dog"], "equal-text").rows
    [{'text': 'A cat!'}, {'text': 'a dog'}]
    """

    def rule(context: Context, places: Array) -> Outcome:
        names = columns or _columns(context)
        table = context.table
        texts = [["" if table.rows[place].get(name) is None else table.rows[place][name] for name in names]
                 for place in places]  # fmt: skip
        form_of = _FORMS[form]
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, cells in enumerate(texts):
            groups.setdefault(tuple(form_of(str(cell)) for cell in cells), []).append(number)
        sizes = [sum(len(str(cell)) for cell in cells) for cells in texts]
        stay, examples = [], []
        for members in groups.values():
            best = members[0] if keep == "first" else max(members, key=lambda number: (sizes[number], -number))
            stay.append(best)
            examples += [Example(int(places[one]), int(places[best])) for one in members if one != best]
        return Outcome(
            places[np.sort(np.array(stay, dtype=np.int64))], sorted(examples, key=lambda one: one.place),
            {"columns": names, "groups": sum(len(members) > 1 for members in groups.values())},
        )  # fmt: skip

    return rule


def _columns(context: Context) -> list[str]:
    """The columns whose texts make rows equal."""
    table: RowTable = context.table
    if context.column is not None:
        return [table.text_column(context.column)]
    pairs = [name for name in table.columns if named_role(name) in _COMPARED or named_role(name) == "image"]
    texts = [name for name in pairs if named_role(name) != "image"]
    if len(texts) > 1 or (texts and pairs != texts):
        table.note(f"{table.name}: rows are equal where {' and '.join(pairs)} are (columns of equal-text changes that)")
        return pairs
    return [encoded_column(table, None, context.image_column)]


@criteria.add("length")
def length(
    least: Whole = 0, most: Whole | None = None, unit: Literal["characters", "words"] = "characters",
    column: str | None = None,
) -> Rule:  # fmt: skip
    """Rows whose text is neither too short nor too long, both bounds included.

    Parameters
    ----------
    least, most : int
        Bounds.
    unit : str
        ``characters``, or ``words`` between white space.
    column : str, optional
        Another column than that of the texts.

    Examples
    --------
    >>> import embedkit
    >>> embedkit.select(["a cat", "a cat and a dog"], {"name": "length", "most": 3, "unit": "words"}).rows
    [{'text': 'a cat'}]
    """
    if most is not None and most < least:
        raise UserError(f"most is {most}, below least, {least}", where="length", remedy="raise most, or lower least")

    def rule(context: Context, places: Array) -> Outcome:
        texts = context.texts(places, column)
        sizes = np.array([len(text) if unit == "characters" else len(text.split()) for text in texts])
        stay = (sizes >= least) & (sizes <= (np.inf if most is None else most))
        left_out = np.flatnonzero(~stay)
        examples = [Example(int(places[number]), score=float(sizes[number])) for number in left_out]
        details = {"short": int((sizes < least).sum()), "long": int(len(left_out) - (sizes < least).sum())}
        return Outcome(places[stay], examples, details)

    return rule
