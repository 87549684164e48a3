"""Criteria on a column of numbers, and a draw."""

from __future__ import annotations

import numpy as np

from embedkit.config.settings import Whole
from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.selection.base import Amount, Context, Example, Outcome, Rule, count_of, criteria


def by_numbers(
    values: Array, places: Array, least: float | None, most: float | None, top: int | float | str | None, where: str,
    lowest: bool = False,
) -> Outcome:  # fmt: skip
    """The rows whose values lie between bounds, and of these the best ones; of equal ones the earlier.

    Parameters
    ----------
    values : float array (n,)
        One a row.
    places : int array (n,)
        The rows, ascending.
    least, most : float, optional
        Bounds, both included.
    top : Amount, optional
        How many of the rest stay, or which share of them.
    where : str
        The criterion, for messages.
    lowest : bool
        The smallest values are the best ones.

    Examples
    --------
    >>> by_numbers(np.array([0.1, 0.9, 0.5]), np.array([3, 4, 7]), 0.2, None, 1, "score").places.tolist()
    [4]
    """
    inside = np.ones(len(values), dtype=bool)
    if least is not None:
        inside &= values >= least
    if most is not None:
        inside &= values <= most
    stay = np.flatnonzero(inside)
    details: dict[str, float | int] = {"outside": int((~inside).sum())} if least is not None or most is not None else {}
    if top is not None and len(stay):
        order = np.argsort(values[stay] if lowest else -values[stay], kind="stable")
        stay = np.sort(stay[order[: count_of(top, len(stay), where)]])
    left_out = np.setdiff1d(np.arange(len(values)), stay)
    if len(stay):
        details |= {"lowest": float(values[stay].min()), "highest": float(values[stay].max())}
    examples = [Example(int(places[number]), score=float(values[number])) for number in left_out]
    return Outcome(places[stay], examples, details)


def check_bounds(least: float | None, most: float | None, top: int | float | str | None, where: str) -> None:
    """Refuse a criterion that says nothing, or bounds that exclude each other.

    Examples
    --------
    >>> check_bounds(None, None, None, "score")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: score: it says neither least, most nor top; give one of them, e.g. top: 50%
    """
    if least is None and most is None and top is None:
        raise UserError("it says neither least, most nor top", where=where, remedy="give one of them, e.g. top: 50%")
    if least is not None and most is not None and most < least:
        raise UserError(f"most is {most}, below least, {least}", where=where, remedy="raise most, or lower least")


@criteria.add("score")
def score(
    column: str = "score", least: float | None = None, most: float | None = None, top: Amount | None = None,
    lowest: bool = False,
) -> Rule:  # fmt: skip
    """Rows by the number in a column, such as the scores that `embedkit score` writes.

    Parameters
    ----------
    column : str
        The column.
    least, most : float, optional
        Bounds, both included.
    top : int or share, optional
        How many of the rest stay, those with the largest numbers.
    lowest : bool
        Those with the smallest numbers, in place of the largest.

    Examples
    --------
    >>> import embedkit
    >>> rows = [{"text": "a", "score": 0.2}, {"text": "b", "score": 0.9}, {"text": "c", "score": 0.5}]
    >>> [row["text"] for row in embedkit.select(rows, {"name": "score", "top": 2}).rows]
    ['b', 'c']
    """
    check_bounds(least, most, top, "score")

    def rule(context: Context, places: Array) -> Outcome:
        values = np.array(context.table.numbers(column, places))
        return by_numbers(values, places, least, most, top, "score", lowest)

    return rule


@criteria.add("random")
def random(number: Amount, seed: Whole = 0) -> Rule:
    """A draw of rows with equal chances, to compare another criterion with.

    Parameters
    ----------
    number : int or share
        How many.
    seed : int
        Of the draw.

    Examples
    --------
    >>> import embedkit
    >>> len(embedkit.select([f"text {n}" for n in range(10)], "random=30%").rows)
    3
    """

    def rule(context: Context, places: Array) -> Outcome:
        generator = np.random.PCG64(np.random.SeedSequence(seed))
        keys = np.array([generator.random_raw() for _ in range(len(places))], dtype=np.uint64)
        count = count_of(number, len(places), "random")
        return Outcome(places[np.sort(np.argsort(keys, kind="stable")[:count])])

    return rule
