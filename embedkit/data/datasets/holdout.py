"""A share of the rows held out of training: never one that shares a text, image or group with a row that is trained.

Rows that share an anchor, a positive, a caption, an image or a group are tied together, over any number of steps; such
a set is trained as a whole or held out as a whole. Hard negatives tie nothing: where they were mined from the positives
of other rows, all rows would be one set.
"""

from __future__ import annotations

import numpy as np

from embedkit.data.datasets.row_table import Facts
from embedkit.data.datasets.shuffling import permutation

MOST = 1_000
"""Rows held out at most: enough for a score, whatever the size of the data."""

FEWEST = 4
"""Rows held out at least; fewer say nothing, and none are held out then."""


def split(facts: Facts, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (int64, ascending) of the rows to train on and of those held out: about `share` of them (up to
    twice that where rows are tied together), of `MOST`.

    The same rows and seed give the same split. Nothing is held out, the second array is empty, where what is tied
    together leaves no two sets with `FEWEST` rows in all.

    Examples
    --------
    >>> keys, nothing = np.array([7, 7]), np.zeros(40, np.int64)
    >>> tied = Facts(keys, np.array([0, 1, 2] + [2] * 38), nothing, nothing)  # rows 0 and 1 share a text
    >>> train, held_out = split(tied, 0.1, seed=1)
    >>> len(train), len(held_out), len({0, 1} & set(held_out.tolist())) in (0, 2)
    (36, 4, True)
    """
    total = len(facts.offsets) - 1
    room = min(MOST, round(share * total))
    everything = np.arange(total, dtype=np.int64)
    if room < FEWEST:
        return everything, everything[:0]
    sets = connected(facts)
    sizes = np.bincount(sets)
    in_holdout, count = np.zeros(len(sizes), dtype=bool), 0
    for index in permutation(len(sizes), seed, 0, 3):
        if count >= room:
            break
        if count + sizes[index] <= 2 * room:
            in_holdout[index] = True
            count += int(sizes[index])
    held_out = in_holdout[sets]
    if held_out.sum() < FEWEST or in_holdout.sum() < 2:
        return everything, everything[:0]
    return everything[~held_out], everything[held_out]


def connected(facts: Facts) -> np.ndarray:
    """The number of the set (n,) that each row belongs to, from 0 on: rows of a set are tied together by equal keys.

    Examples
    --------
    >>> keys, nothing = np.array([7, 7]), np.zeros(3, np.int64)
    >>> connected(Facts(keys, np.array([0, 1, 1, 2]), nothing, nothing)).tolist()  # rows 0 and 2 share a text
    [0, 1, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    total = len(facts.offsets) - 1
    rows = np.repeat(np.arange(total), np.diff(facts.offsets))
    size = total + int(facts.keys.max(initial=-1)) + 1  # rows first, then keys
    links = coo_array((np.ones(len(rows), dtype=bool), (rows, total + facts.keys)), shape=(size, size))
    _, sets = connected_components(links, directed=False)
    return np.unique(sets[:total], return_inverse=True)[1].astype(np.int64)
