"""Search through codes of few bits: products of a query with what a code stands for, in 8-bit integers.

A coordinate's code c stands for ``low + step * c``: of uint8 the 256 steps of its range, of a bit the mean of the
values below and above 0. The product with a query is then a constant plus the product of the codes with
``query * step``, and the constant changes no order. The query keeps more bits than the codes (asymmetric comparison;
Jegou et al. 2011, section III).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from embedkit.errors import DataError
from embedkit.models.encode.joining import write_npy
from embedkit.models.encode.quantization import VectorRanges, quantize
from embedkit.retrieval.exact import Array, TopK

NAMES = {"int8": "uint8", "binary": "ubinary"}
"""Method of a search -> the codes that it goes through."""


class SignLevels:
    """The mean of the values above 0, and of the others, of each coordinate, from vectors that come in blocks.

    Examples
    --------
    >>> levels = SignLevels(2)
    >>> levels.add(np.array([[0.5, -1.0], [-0.5, -3.0]]))
    >>> levels.result().tolist()
    [[-0.5, -2.0], [1.0, 0.0]]
    """

    def __init__(self, dim: int) -> None:
        self._sums, self._counts = np.zeros((2, dim)), np.zeros((2, dim))

    def add(self, block: Array) -> None:
        """Take in vectors (n, D)."""
        above = block > 0
        for place, inside in enumerate((~above, above)):
            self._sums[place] += np.where(inside, block, 0).sum(axis=0, dtype=np.float64)
            self._counts[place] += inside.sum(axis=0)

    def result(self) -> Array:
        """Levels (2, D): the value of bit 0, and the step to bit 1; 0 for a coordinate with one sign only."""
        low, high = self._sums / np.maximum(self._counts, 1)
        step = np.where(self._counts.min(axis=0) > 0, high - low, 0)
        return np.stack([np.where(self._counts[0] > 0, low, high), step]).astype(np.float32)


def write_codes(folder: Path, name: str, blocks: list[Array], rows: int, dim: int) -> None:
    """Write ``NAME.npy`` and ``NAME.levels.npy`` for the vectors of `blocks`.

    Examples
    --------
    >>> write_codes(Path(), "uint8", [np.array([[0.0, 1.0], [1.0, 0.5]])], 2, 2)
    >>> np.load("uint8.npy").tolist(), np.load("uint8.levels.npy").shape
    ([[0, 255], [255, 0]], (2, 2))
    """
    ranges = None
    if name == "uint8":
        ranges = VectorRanges.learn(blocks)
        levels = np.stack([ranges.lowest, ranges.step])
    else:
        signs = SignLevels(dim)
        for block in blocks:
            signs.add(block)
        levels = signs.result()
    np.save(folder / f"{name}.levels.npy", levels)
    with open(folder / f"{name}.npy", "wb") as file:
        write_npy(file, (quantize(block, name, ranges) for block in blocks), rows, dim, name)


class Codes:
    """The codes of all vectors, and the search for those nearest to queries.

    Parameters
    ----------
    name : str
        "uint8" or "ubinary".
    codes : uint8 array (N, D) or (N, D / 8)
        Memory-mapped or in memory.
    levels : float32 array (2, D)
        See `write_codes`.

    Examples
    --------
    >>> codes = Codes("uint8", np.array([[0, 255], [255, 0]], np.uint8), np.array([[0.0, 0.0], [1 / 255, 1 / 255]]))
    >>> codes.nearest(np.array([[1.0, 0.0]], np.float32), 1).tolist()
    [[1]]
    """

    def __init__(self, name: str, codes: Array, levels: Array) -> None:
        self.name, self._codes, self._levels = name, codes, levels
        width = -(-levels.shape[1] // 8) if name == "ubinary" else levels.shape[1]
        if codes.ndim != 2 or codes.shape[1] != width or codes.dtype != np.uint8:
            raise DataError(f"codes of the shape {codes.shape} for vectors of {levels.shape[1]}", where=name)

    def nearest(self, queries: Array, count: int, block: int = 16_384) -> Array:
        """Places (Q, count) of the vectors whose codes are nearest to `queries` (Q, D), the nearest first."""
        size = len(self._codes)
        search = TopK(queries * self._levels[1], count, size)
        for start, codes in self._blocks(block):
            search.add(start, codes)
        return search.result()[1]

    def _blocks(self, block: int) -> Iterable[tuple[int, Array]]:
        for start in range(0, len(self._codes), block):
            codes = np.asarray(self._codes[start : start + block])
            if self.name == "ubinary":
                codes = np.unpackbits(codes, axis=1, count=self._levels.shape[1])
            yield start, codes
