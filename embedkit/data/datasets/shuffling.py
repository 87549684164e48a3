"""Random order from raw generator output, so that it stays the same with every version of NumPy.

NumPy promises a fixed stream for its bit generators and for `SeedSequence`, but not for the methods of `Generator`
(NEP 19); a run must resume with the same order years later, therefore permutations are made of raw 64-bit draws here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 4096

NEIGHBOURS = 512
"""Rows of a file that stay in one window of a shuffle by blocks."""
WINDOW = 128
"""Blocks whose rows are shuffled among each other: 65,536 rows."""


def permutation(size: int, *key: int) -> np.ndarray:
    """A random permutation of 0 .. size - 1 (int64), a pure function of `size` and the non-negative numbers in `key`.

    Examples
    --------
    >>> permutation(5, 42, 0).tolist(), permutation(5, 42, 1).tolist()  # epochs 0 and 1 of seed 42
    ([4, 1, 3, 0, 2], [1, 2, 3, 0, 4])
    """
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(size), kind="stable")


def block_permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of 0 .. size - 1 that reads a file in runs: blocks in random order, then rows within windows.

    Blocks are 512 neighbours; the rows of 128 blocks at a time are shuffled among each other. A pure function of `size`
    and `key`, like `permutation`; it is that where all rows are one window.

    Examples
    --------
    >>> order = block_permutation(200_000, 42, 0)
    >>> sorted(order.tolist()) == list(range(200_000)), len(set((order[:65_536] // 512).tolist()))
    (True, 128)
    """
    blocks = -(-size // NEIGHBOURS)
    if blocks <= WINDOW:
        return permutation(size, *key)
    firsts = permutation(blocks, *key) * NEIGHBOURS
    order = (firsts[:, None] + np.arange(NEIGHBOURS)).reshape(-1)
    order = order[order < size]
    for number, start in enumerate(range(0, size, WINDOW * NEIGHBOURS)):
        part = order[start : start + WINDOW * NEIGHBOURS]
        order[start : start + len(part)] = part[permutation(len(part), *key, number)]
    return order


def raw_numbers(*key: int) -> Iterator[int]:
    """An endless stream of uniform numbers in 0 .. 2**64 - 1, a pure function of the non-negative numbers in `key`.

    Examples
    --------
    >>> from itertools import islice
    >>> list(islice(raw_numbers(42), 2))
    [14276969152011380360, 8095878257575067585]
    """
    generator = np.random.PCG64(np.random.SeedSequence(key))
    while True:
        yield from generator.random_raw(_BLOCK).tolist()
