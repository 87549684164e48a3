"""The blocks of vectors of a file, joined to one ``.npy``, ``.npz`` or ``.parquet``, in any precision."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

from embedkit.errors import UserError
from embedkit.models.encode.quantization import VectorRanges, quantize
from embedkit.system.disk import writing

_TYPES = {"float32": "<f4", "int8": "|i1", "uint8": "|u1", "binary": "|i1", "ubinary": "|u1"}


def check_output(target: Path, overwrite: bool) -> Path:
    """The path of an output, when something can be written there.

    Raises
    ------
    UserError
        Another suffix, no folder, or a file that is there.

    Examples
    --------
    >>> check_output(Path("vectors.npz"), overwrite=False).name
    'vectors.npz'
    """
    if target.suffix not in (".npy", ".npz", ".parquet"):
        remedy = "use .npy or .parquet, or for sparse vectors .npz"
        raise UserError(f"output has the suffix {target.suffix!r}", where=str(target), remedy=remedy)
    if not target.parent.is_dir():
        raise UserError("folder does not exist", where=str(target.parent), remedy="create it")
    if target.exists() and not overwrite:
        remedy = "choose another name, or add --overwrite (overwrite=True in Python)"
        raise UserError("exists already", where=str(target), remedy=remedy)
    return target


def check_precision(target: Path, precision: str) -> None:
    """Refuse sparse vectors that are not float32.

    Examples
    --------
    >>> check_precision(Path("vectors.npz"), "int8")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: precision: sparse vectors are float32, not int8; leave it out, or write a .npy
    """
    if target.suffix == ".npz" and precision != "float32":
        raise UserError(f"sparse vectors are float32, not {precision}", where="precision",
                        remedy="leave it out, or write a .npy")  # fmt: skip


def width(dim: int, precision: str) -> int:
    """Numbers in a row of vectors of size `dim`.

    Examples
    --------
    >>> width(20, "int8"), width(20, "ubinary")
    (20, 3)
    """
    return -(-dim // 8) if precision in ("binary", "ubinary") else dim


def write_block(path: Path, vectors: np.ndarray) -> None:
    """Write one block of float32 vectors, durably.

    Examples
    --------
    >>> write_block(Path("block.npy"), np.zeros((2, 3), dtype=np.float32))
    >>> load_part(Path("block.npy"), 3).shape
    (2, 3)
    """
    with writing(path, "a block of vectors") as file:
        write_npy(file, iter([vectors]), *vectors.shape)


def load_part(path: Path, dim: int | None = None) -> np.ndarray:
    """The vectors (n, D) of a block, which may be what a stopped run left behind; memory-mapped.

    Raises
    ------
    UserError
        It is damaged, or of another size.

    Examples
    --------
    >>> _ = Path("block.npy").write_bytes(b"half of")
    >>> load_part(Path("block.npy"))
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: block.npy: is no block of vectors (...); delete its folder and encode again
    """
    try:
        vectors = np.load(path, mmap_mode="r")
        if vectors.ndim != 2 or vectors.dtype != np.float32 or dim not in (None, vectors.shape[1]):
            raise ValueError(f"{vectors.dtype} {vectors.shape}")
    except Exception as error:  # numpy reads the head as Python text, and raises anything on damaged ones
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"is no block of vectors ({reason})", where=str(path), remedy="delete its folder and encode again"
        ) from error
    return vectors


def write_npy(file: IO[bytes], blocks: Iterator[np.ndarray], rows: int, dim: int, precision: str = "float32") -> None:
    """Write a ``.npy`` (rows, numbers of a row) from the blocks of its rows.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> write_npy(file, iter([np.ones((1, 2)), np.zeros((1, 2))]), 2, 2)
    >>> np.load(io.BytesIO(file.getvalue())).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    head = {"descr": _TYPES[precision], "fortran_order": False, "shape": (rows, width(dim, precision))}
    np.lib.format.write_array_header_2_0(file, head)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype=_TYPES[precision]).data)


def join(
    target: Path, blocks: Sequence[Path], rows: int, dim: int, ids: Path | None, precision: str = "float32",
    ranges: VectorRanges | None = None,
) -> None:  # fmt: skip
    """Write one file of all `blocks`, in order; a ``.npz`` of the numbers other than zero; a parquet with the `ids` of
    a file of JSON lines.

    Examples
    --------
    >>> write_block(Path("a.npy"), np.ones((1, 2), dtype=np.float32))
    >>> join(Path("bits.npy"), [Path("a.npy"), Path("a.npy")], 2, 2, None, "ubinary")
    >>> np.load("bits.npy").tolist()
    [[192], [192]]
    """
    parts = (quantize(load_part(block, dim), precision, ranges) for block in blocks)
    with writing(target, "the output") as file:
        if target.suffix == ".npy":
            write_npy(file, parts, rows, dim, precision)
        elif target.suffix == ".npz":
            _join_sparse(file, parts)
        else:
            _join_parquet(file, parts, dim, ids, precision)


def _join_sparse(file: IO[bytes], parts: Iterator[np.ndarray]) -> None:
    from scipy.sparse import csr_matrix, save_npz, vstack

    save_npz(file, vstack([csr_matrix(part) for part in parts], format="csr"))


def _join_parquet(file: Any, parts: Iterator[np.ndarray], dim: int, ids: Path | None, precision: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = width(dim, precision)
    kind = pa.list_(pa.from_numpy_dtype(np.dtype(_TYPES[precision])), size)
    fields = [("row", pa.int64()), *([("id", pa.string())] if ids is not None else [])]
    schema = pa.schema([*fields, ("embedding", kind)])
    first = 0
    with pq.ParquetWriter(file, schema) as writer, nullcontext() if ids is None else ids.open("rb") as lines:
        for vectors in parts:
            columns: list[Any] = [pa.array(np.arange(first, first + len(vectors)))]
            if lines is not None:
                values = [json.loads(line) for line in itertools.islice(lines, len(vectors))]
                columns.append(pa.array([None if value is None else str(value) for value in values], pa.string()))
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size))
            writer.write_table(pa.table(columns, schema=schema))
            first += len(vectors)
