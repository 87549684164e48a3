"""Random order from raw generator output, so that it stays the same with every version of NumPy.

NumPy promises a fixed stream for its bit generators and for `SeedSequence`, but not for the methods of `Generator`
(NEP 19); a run must resume with the same order years later, therefore permutations are made of raw 64-bit draws here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 4096


def permutation(size: int, *key: int) -> np.ndarray:
    """A random permutation of 0 .. size - 1 (int64), a pure function of `size` and the non-negative numbers in `key`.

    Examples
    --------
    >>> permutation(5, 42, 0).tolist(), permutation(5, 42, 1).tolist()  # epochs 0 and 1 of seed 42
    ([4, 1, 3, 0, 2], [1, 2, 3, 0, 4])
    """
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(size), kind="stable")


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
