"""Built-in series: two waves of one hidden class, of different length, made of whole numbers, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CLASSES = 6
_PERIODS = ((5, 9), (9, 5), (7, 7), (5, 14), (14, 5), (11, 8))
"""Steps of a wave of each of the two columns, by class."""


def series_row(below: Callable[[int], int]) -> dict[str, Any]:
    """One row: a series of 24 to 47 steps of two numbers (anchor), and the number of its class (label).

    A column is a triangle wave whose period is the class's, with a random start, height and noise.

    Parameters
    ----------
    below : callable
        A random whole number from 0 to below its argument.

    Examples
    --------
    >>> row = series_row(lambda bound: bound // 2)
    >>> len(row["anchor"]), row["anchor"][0], row["label"]
    (36, [0.9, 1.5], 3)
    """
    label, steps = below(CLASSES), 24 + below(24)
    waves = [(period, below(period), 8 + below(8)) for period in _PERIODS[label]]

    def number(step: int, period: int, start: int, height: int) -> float:
        place = (step + start) % period
        rise = 4 * min(place, period - place) - period  # from -period to period
        return height * rise / (8 * period) + (below(65) - 32) / 64

    return {"anchor": [[number(step, *wave) for wave in waves] for step in range(steps)], "label": label}
