"""The filter of captions of DiHT: complexity, action, text spotting (CAT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from embedkit.config.settings import Count, Whole
from embedkit.data.schema.parsers import show
from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.selection.base import Context, Example, Outcome, Rule, criteria
from embedkit.mining.selection.captions import Parse, parse
from embedkit.mining.selection.criteria.texts import plain_text
from embedkit.registry import load_object


@criteria.add("caption")
def caption(
    complexity: Whole = 1, action: bool = True, spotted: str | None = None, overlap: Count = 5,
    parser: str | None = None, column: str | None = None,
) -> Rule:  # fmt: skip
    """Rows whose English caption says something about the picture: CAT (Radenovic et al. 2023, arXiv 2301.02280).

    Parameters
    ----------
    complexity : int
        Relations between things that a caption has at least.
    action : bool
        Whether it must say that something happens.
    spotted : str, optional
        A column with the texts that were read in the image (OCR), a text or a list: a caption that shares one of their
        words is left out.
    overlap : int
        Characters that such a word has at least.
    parser : str, optional
        ``my.py:parse``, a function of a caption that returns (relations, actions), in place of the word lists of
        `embedkit.mining.selection.captions`; needed for other languages than English.
    column : str, optional
        The column of the captions.

    Examples
    --------
    >>> import embedkit
    >>> rows = ["a dog catches a frisbee", "SALE 50% OFF", "a red chair"]
    >>> embedkit.select(rows, "caption").rows
    [{'text': 'a dog catches a frisbee'}]
    """
    analyse = (lambda text, _: parse(text)) if parser is None else _of_user(parser)

    def rule(context: Context, places: Array) -> Outcome:
        texts = context.texts(places, column)
        reasons = {"complexity": 0, "action": 0, "text_spotting": 0}
        stay, examples = [], []
        for place, text in zip(places, texts, strict=True):
            says = analyse(text, context.table.places[place])
            words = _words(context, int(place), spotted, overlap)
            if says.relations < complexity:
                reason = "complexity"
            elif action and not says.actions:
                reason = "action"
            elif words and words & set(plain_text(text).split()):
                reason = "text_spotting"
            else:
                stay.append(int(place))
                continue
            reasons[reason] += 1
            examples.append(Example(int(place)))
        return Outcome(np.array(stay, dtype=np.int64), examples, reasons)

    return rule


def _words(context: Context, place: int, spotted: str | None, overlap: int) -> set[str]:
    """The words of some length that were read in an image."""
    if spotted is None:
        return set()
    row = context.table.rows[place]
    if spotted not in context.table.columns:
        raise UserError(f"no column {spotted!r}", where="caption.spotted", remedy="name the column of the texts read")
    cell = row.get(spotted)
    texts = cell if isinstance(cell, list) else [cell]
    if any(text is not None and not isinstance(text, str) for text in texts):
        raise UserError(f"expected text or a list of texts, found {show(cell)}", remedy="name the column of the texts",
                        where=f"{context.table.places[place]} column {spotted!r}")  # fmt: skip
    words = (word for text in texts for word in plain_text(text or "").split())
    return {word for word in words if len(word) >= overlap}


def _of_user(name: str) -> Callable[[str, str], Parse]:
    """A function of the user, of a caption and its place for messages, with its result checked."""
    function: Any = load_object(name, "parser")

    def analyse(text: str, place: str) -> Parse:
        try:
            result = function(text)
        except Exception as error:  # the user's code can raise anything
            raise UserError(f"failed ({type(error).__name__}: {error})", where=f"{name} on {place}",
                            remedy="mend the function") from error  # fmt: skip
        numbers = (result.relations, result.actions) if hasattr(result, "relations") else result
        if not isinstance(numbers, tuple | list) or len(numbers) != 2 or not all(isinstance(n, int) for n in numbers):
            raise UserError(f"returned {result!r} for {text[:40]!r}", where=f"{name} on {place}",
                            remedy="return two whole numbers: relations, actions")  # fmt: skip
        return Parse(int(numbers[0]), int(numbers[1]))

    return analyse
