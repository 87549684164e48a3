"""Two texts as one sequence that is cut again behind the cache: what a loss of both needs in one chunk."""

from __future__ import annotations

from embedkit.models.augment.counter_rng import mixed
from embedkit.models.inputs.inputs import Inputs


def side_by_side(first: Inputs, second: Inputs) -> Inputs:
    """Each text of `first` with that of `second` behind it as one sequence; ``data["split"]``: tokens of the first.

    Examples
    --------
    >>> side_by_side(Inputs.of([[1, 2], [3]]), Inputs.of([[4], [5, 6]])).rows()
    [[1, 2, 4], [3, 5, 6]]
    """
    rows = [a + b for a, b in zip(first.rows(), second.rows(), strict=True)]
    return Inputs.of(rows, data={"split": first.costs})


def sides_of(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """The two sides of inputs made by `side_by_side`; the second has seeds of its own.

    Examples
    --------
    >>> import numpy as np
    >>> whole = side_by_side(Inputs.of([[1, 2], [3]]), Inputs.of([[4], [5, 6]]))
    >>> [side.rows() for side in sides_of(whole.replace(seeds=np.array([1, 2], dtype=np.uint64)))]
    [[[1, 2], [3]], [[4], [5, 6]]]
    """
    front = inputs.places < inputs.data["split"][inputs.owner]
    sides = []
    for number, side_mask in enumerate((front, ~front)):
        side = inputs.keep(side_mask)
        side.positions = None  # each side counts from its own start
        sides.append(side.replace(seeds=inputs.seeds if number == 0 else mixed(inputs.seeds)))
    return sides[0], sides[1]
