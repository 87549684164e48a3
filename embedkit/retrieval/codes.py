"""Search through codes of few bits: products of a query with what a code stands for, in 8-bit integers.

A coordinate's code c stands for ``low + step * c``: of uint8 the 256 steps of its range, of a bit the mean of the
values below and above 0. The product with a query is then a constant plus the product of the codes with
``query * step``, and the constant changes no order. The query keeps more bits than the codes (asymmetric comparison;
Jegou et al. 2011, section III).

``pca`` are uint8 codes of half as many numbers, the coordinates along the principal axes of the vectors. What the
others would add to a product is left out: half the work, and less exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from embedkit.errors import DataError
from embedkit.models.encode.joining import write_npy
from embedkit.models.encode.quantization import VectorRanges, quantize
from embedkit.retrieval.arrays import Array
from embedkit.retrieval.exact import TopK
from embedkit.retrieval.folder import AGAIN, IndexFiles

NAMES = {"int8": "uint8", "binary": "ubinary", "pca": "pca"}
"""Method of a search -> the codes that it goes through."""


def numbers(name: str, dim: int) -> int:
    """Numbers that codes stand for, of vectors of size `dim`.

    Examples
    --------
    >>> numbers("uint8", 384), numbers("pca", 384)
    (384, 192)
    """
    return max(1, dim // 2) if name == "pca" else dim


def principal_axes(blocks: Sequence[Array], count: int) -> Array:
    """Axes (D, count), float32, along which vectors (n, D) that come in blocks vary most, the first most.

    Examples
    --------
    >>> np.abs(principal_axes([np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])], 1)).tolist()
    [[0.0], [1.0], [0.0]]
    """
    rows = sum(len(block) for block in blocks)
    mean = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / rows
    total = np.zeros((len(mean), len(mean)))
    for block in blocks:
        part = (block - mean).astype(np.float32)
        total += part.T @ part
    return np.ascontiguousarray(np.linalg.eigh(total)[1][:, ::-1][:, :count], dtype=np.float32)


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


def write_codes(folder: Path, name: str, blocks: Sequence[Array], rows: int, dim: int) -> None:
    """Write ``NAME.npy`` and ``NAME.levels.npy`` for the vectors of `blocks`, and ``pca.axes.npy``.

    Examples
    --------
    >>> write_codes(Path(), "uint8", [np.array([[0.0, 1.0], [1.0, 0.5]])], 2, 2)
    >>> np.load("uint8.npy").tolist(), np.load("uint8.levels.npy").shape
    ([[0, 255], [255, 0]], (2, 2))
    """
    axes = principal_axes(blocks, numbers(name, dim)) if name == "pca" else None

    def vectors() -> Iterator[Array]:
        return (block if axes is None else block @ axes for block in blocks)

    ranges = None
    if name == "ubinary":
        signs = SignLevels(dim)
        for block in blocks:
            signs.add(block)
        levels = signs.result()
    else:
        ranges = VectorRanges.learn(vectors())
        levels = np.stack([ranges.lowest, ranges.step])
    np.save(folder / f"{name}.levels.npy", levels)
    if axes is not None:
        np.save(folder / f"{name}.axes.npy", axes)
    kind = "ubinary" if name == "ubinary" else "uint8"
    with open(folder / f"{name}.npy", "wb") as file:
        write_npy(file, (quantize(block, kind, ranges) for block in vectors()), rows, levels.shape[1], kind)


def open_codes(files: IndexFiles, name: str) -> Codes:
    """The codes of an index folder.

    Raises
    ------
    DataError
        It has none of this name, or their files are damaged.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> model = StaticEncoder(tokenizer(), dim=16)
    >>> _ = embedkit.build_index(["a red lamp", "two cats"], "lamps", model, codes=["uint8"])
    >>> open_codes(IndexFiles(Path("lamps")), "uint8").nearest(model.encode(["two cats"]), 1).tolist()
    [[1]]
    """
    s = files.settings
    if name not in s.codes:
        raise DataError(f"the index has no {name} codes", where=str(files.folder),
                        remedy=f"{AGAIN} and --codes {','.join([*s.codes, name])}")  # fmt: skip
    size = numbers(name, s.dim)
    axes = files.array(f"{name}.axes.npy", (s.dim, size)) if name == "pca" else None
    codes = files.array(f"{name}.npy", (s.rows, -(-size // 8) if name == "ubinary" else size))
    return Codes(name, codes, files.array(f"{name}.levels.npy", (2, size)), axes)


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
    axes : float32 array (D, d), optional
        Of pca.

    Examples
    --------
    >>> codes = Codes("uint8", np.array([[0, 255], [255, 0]], np.uint8), np.array([[0.0, 0.0], [1 / 255, 1 / 255]]))
    >>> codes.nearest(np.array([[1.0, 0.0]], np.float32), 1).tolist()
    [[1]]
    """

    def __init__(self, name: str, codes: Array, levels: Array, axes: Array | None = None) -> None:
        self.name, self._codes, self._levels, self._axes = name, codes, levels, axes

    def nearest(self, queries: Array, count: int, block: int = 16_384) -> Array:
        """Places (Q, count) of the vectors whose codes are nearest to `queries` (Q, D), the nearest first."""
        weights = queries if self._axes is None else queries @ self._axes
        search = TopK(weights * self._levels[1], count, len(self._codes), dtype="int8")
        for start in range(0, len(self._codes), block):
            codes = np.asarray(self._codes[start : start + block])
            if self.name == "ubinary":
                codes = np.unpackbits(codes, axis=1, count=self._levels.shape[1])
            search.add(start, codes)
        return search.result()[1]
