"""Vectors in fewer bits: int8 and uint8 by the range of each coordinate, binary and ubinary by its sign.

The names and the layout are those of sentence-transformers. Its ranges, unless given, are those of the vectors of the
one call, so that a vector depends on its neighbours; here they are learnt once and kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, NonFiniteError, UserError, nearest
from embedkit.system.disk import write_durably

Array = npt.NDArray[Any]
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
RANGES_FILE = "vector_ranges.json"
"""The ranges of a model's vectors in its folder."""


@dataclass(frozen=True, eq=False)
class VectorRanges:
    """The smallest and largest value of each coordinate, for int8 and uint8 vectors.

    A value x becomes the whole number nearest to ``255 (x - lowest) / (highest - lowest)``; what is outside becomes 0
    or 255.

    Attributes
    ----------
    lowest, highest : float32 arrays (D,)
        The ranges.
    rows : int
        Vectors that they were learnt from; 0 where that is not known.

    Examples
    --------
    >>> ranges = VectorRanges.learn([np.array([[0.0, -1.0], [0.5, 1.0]])])
    >>> ranges.lowest.tolist(), ranges.highest.tolist(), ranges.rows
    ([0.0, -1.0], [0.5, 1.0], 2)
    """

    lowest: Array
    highest: Array
    rows: int = 0

    def __post_init__(self) -> None:
        low, high = (np.asarray(a, dtype=np.float32) for a in (self.lowest, self.highest))
        if low.ndim != 1 or low.shape != high.shape or not len(low):
            raise DataError(f"ranges have the shapes {low.shape} and {high.shape}", where="ranges",
                            remedy="give lowest and highest values, one of each a coordinate")  # fmt: skip
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise DataError("a range is not finite, or its lowest value is above its highest", where="ranges",
                            remedy="learn them again")  # fmt: skip
        object.__setattr__(self, "lowest", low)
        object.__setattr__(self, "highest", high)

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return len(self.lowest)

    @property
    def step(self) -> Array:
        """What one unit of a code stands for, float32 (D,); never 0."""
        span = self.highest - self.lowest
        return np.asarray(np.where(span > 0, span, 1) / 255, dtype=np.float32)

    @classmethod
    def learn(cls, blocks: Iterable[Array]) -> VectorRanges:
        """The ranges of vectors (n, D) that come in blocks.

        Raises
        ------
        NonFiniteError
            A vector has NaN or infinity.
        DataError
            There is none.
        """
        low: Any = None
        high: Any = None
        rows = 0
        for block in blocks:
            if not len(block):
                continue
            least, most = block.min(axis=0), block.max(axis=0)
            if not (np.isfinite(least).all() and np.isfinite(most).all()):
                raise NonFiniteError("a vector to learn ranges from has NaN or infinity", where="ranges")
            low = least if low is None else np.minimum(low, least)
            high = most if high is None else np.maximum(high, most)
            rows += len(block)
        if low is None or high is None:
            raise DataError("there are no vectors to learn ranges from", where="ranges", remedy="give at least one")
        return cls(low, high, rows)

    @classmethod
    def of(cls, value: Any) -> VectorRanges:
        """The ranges that a user gave: a `VectorRanges`, the file of one, or an array (2, D) as in
        sentence-transformers."""
        if isinstance(value, VectorRanges):
            return value
        if isinstance(value, str | Path):
            return cls.load(value)
        try:
            array: Any = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            array = np.zeros(0)
        if array.ndim != 2 or len(array) != 2:
            raise DataError(f"ranges are {type(value).__name__} of the shape {array.shape}", where="ranges",
                            remedy="give an array (2, D), a VectorRanges, or its file")  # fmt: skip
        return cls(array[0], array[1])

    def save(self, path: str | Path) -> Path:
        """Write them as JSON, durably."""
        document = {"rows": self.rows, "lowest": self.lowest.tolist(), "highest": self.highest.tolist()}
        return write_durably(path, (json.dumps(document) + "\n").encode(), "the ranges of the vectors")

    @classmethod
    def load(cls, path: str | Path) -> VectorRanges:
        """The ranges in a file of `save`.

        Raises
        ------
        DataError
            There is no such file, or it holds something else.
        """
        remedy = "`embedkit encode --precision int8` writes one beside its output"
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(document["lowest"], document["highest"], int(document["rows"]))
        except FileNotFoundError as error:
            raise DataError("no such file of ranges", where=str(path), remedy=remedy) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError) as error:
            raise DataError("is no file of ranges", where=str(path), remedy=remedy) from error

    def same(self, other: VectorRanges) -> bool:
        """Whether both give the same codes."""
        return np.array_equal(self.lowest, other.lowest) and np.array_equal(self.highest, other.highest)


def check_precision(name: Any) -> str:
    """The name of a precision of vectors.

    Examples
    --------
    >>> check_precision("int8")
    'int8'
    """
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}", where="precision", remedy=nearest(str(name), PRECISIONS))
    return str(name)


def bounds_of(precision: str, ranges: Any) -> VectorRanges | None:
    """The ranges that a user gave, None for None; only two of the precisions have any.

    Examples
    --------
    >>> bounds_of("binary", [[0.0], [1.0]])
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: ranges: binary vectors have no ranges; leave them out
    """
    check_precision(precision)
    if ranges is not None and precision not in ("int8", "uint8"):
        raise UserError(f"{precision} vectors have no ranges", where="ranges", remedy="leave them out")
    return None if ranges is None else VectorRanges.of(ranges)


def quantize(vectors: Array, precision: str, ranges: VectorRanges | None = None) -> Array:
    """Vectors (N, D) of floats in another precision.

    Parameters
    ----------
    vectors : array (N, D)
        float32; NaN is refused.
    precision : str
        float32; int8 and uint8: (N, D), by `ranges`; ubinary: uint8 (N, D / 8 rounded up), a bit is 1 where the
        value is above 0, the first coordinate in the highest bit; binary: the same minus 128, as int8.
    ranges : VectorRanges, optional
        Needed for int8 and uint8.

    Raises
    ------
    UserError
        The ranges are missing, or belong to vectors of another size.

    Examples
    --------
    >>> vectors = np.array([[0.5, -1.0, 0.25], [0.0, 1.0, -0.5]])
    >>> quantize(vectors, "uint8", VectorRanges.learn([vectors])).tolist()
    [[255, 0, 255], [0, 255, 0]]
    >>> quantize(vectors, "ubinary").tolist()
    [[160], [64]]
    """
    check_precision(precision)
    if not np.isfinite(vectors).all():
        raise NonFiniteError("a vector to quantise has NaN or infinity")
    if precision == "float32":
        return np.asarray(vectors, dtype=np.float32)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=1)
        return bits if precision == "ubinary" else (bits ^ 128).view(np.int8)
    if ranges is None:
        raise UserError(f"{precision} vectors need the range of each coordinate", where="ranges",
                        remedy="give ranges=VectorRanges.learn([vectors]), learnt once for all calls")  # fmt: skip
    if ranges.dim != vectors.shape[1]:
        raise UserError(f"ranges of {ranges.dim} coordinates, and vectors of {vectors.shape[1]}", where="ranges",
                        remedy="learn them from vectors of the same model and truncate_dim")  # fmt: skip
    codes = np.rint((np.asarray(vectors, dtype=np.float32) - ranges.lowest) / ranges.step)
    codes = codes.clip(0, 255).astype(np.uint8)
    return codes if precision == "uint8" else (codes ^ 128).view(np.int8)


def dequantize(codes: Array, precision: str, ranges: VectorRanges | None = None, dim: int | None = None) -> Array:
    """The float32 vectors (N, D) that codes stand for; of a bit -1 or 1.

    `dim` is the size of the vectors before their bits were packed.

    Examples
    --------
    >>> dequantize(np.array([[160]], np.uint8), "ubinary", dim=3).tolist()
    [[1.0, -1.0, 1.0]]
    """
    check_precision(precision)
    if precision == "float32":
        return np.asarray(codes, dtype=np.float32)
    if precision in ("binary", "ubinary"):
        bits: Array = codes if precision == "ubinary" else codes.view(np.uint8) ^ 128
        return np.unpackbits(bits, axis=1, count=dim).astype(np.float32) * 2 - 1
    if ranges is None:
        raise UserError(f"{precision} codes need the ranges that they were made with", where="ranges")
    numbers = codes if precision == "uint8" else codes.view(np.uint8) ^ 128
    return np.asarray(numbers * ranges.step + ranges.lowest, dtype=np.float32)
