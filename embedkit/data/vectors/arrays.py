"""Files of arrays, opened as memory maps: ``.npy``, ``.npz``, safetensors; nothing in them is ever unpickled."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from embedkit.data.schema.rows import Part, Record
from embedkit.data.sources.files import DAMAGED, FREE, MAX_RATIO, open_bytes
from embedkit.data.sources.remote import Location, first_line
from embedkit.data.vectors.column import Piece
from embedkit.data.vectors.ragged import RaggedPiece, with_offsets
from embedkit.errors import DataError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}  # fmt: skip
_COPY = "write or copy the file again"
_KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError, RuntimeError, *DAMAGED)
_LONGEST_HEADER = 100 * 2**20


def npy_array(path: Location, *, name: str | None = None, start: int = 0, size: int | None = None) -> np.ndarray:
    """The array of a ``.npy`` file, or of one that begins at byte `start` of a file and has `size` bytes.

    A local file is mapped: rows are read when they are asked for.

    Raises
    ------
    DataError
        It is no such file, shorter than its header says, or holds Python objects.

    Examples
    --------
    >>> np.save("a.npy", np.arange(6.0).reshape(3, 2))
    >>> npy_array(Path("a.npy"))[1].tolist()
    [2.0, 3.0]
    """
    where = name or str(path)
    with open_bytes(path) as handle:
        handle.seek(start)
        shape, fortran, dtype = _header(handle, where)
        offset = handle.tell()
        length = math.prod(shape) * dtype.itemsize
        there = (path.stat().st_size if size is None else start + size) - offset
        if there < length:
            raise _truncated(shape, dtype, there, where)
        if not length:
            return np.zeros(shape, dtype)
        order: Literal["F", "C"] = "F" if fortran else "C"
        if isinstance(path, Path):
            return np.asarray(np.memmap(path, dtype, "r", offset, shape, order))
        return np.frombuffer(handle.read(length), dtype).reshape(shape, order=order)


def _header(handle: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(handle)
        shape, fortran, dtype = _HEADERS[version](handle)
    except (ValueError, KeyError, EOFError, OverflowError, MemoryError) as error:
        raise DataError(f"not a readable npy file ({first_line(error)})", where=where, remedy=_COPY) from error
    if min(shape, default=0) < 0:
        raise DataError("not a readable npy file (a side below 0)", where=where, remedy=_COPY)
    if dtype.hasobject:
        raise DataError(
            "holds Python objects, which only a pickle can store and which are not read", where=where,
            remedy="save numbers of one type: numpy.save(path, numpy.stack(rows).astype('float32'))",
        )  # fmt: skip
    if dtype.fields is not None:
        raise DataError("holds records with fields", where=where, remedy="save one array a field with numpy.savez")
    return shape, fortran, dtype


def _truncated(shape: Sequence[int], dtype: np.dtype[Any], there: int, where: str) -> DataError:
    rows = shape[0] if shape else 1
    each = max(1, math.prod(shape[1:]) * dtype.itemsize)
    return DataError(
        f"is cut off: its header speaks of {rows:,} rows, and there are bytes for {max(0, there) // each:,}",
        where=where, remedy=_COPY,
    )  # fmt: skip


def npz_arrays(path: Location) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file by name; those that are not compressed are mapped.

    Raises
    ------
    DataError
        As `npy_array`; it is damaged, or a decompression bomb.

    Examples
    --------
    >>> np.savez("two.npz", id=np.array(["a", "b"]), vector=np.eye(2))
    >>> {name: array.shape for name, array in npz_arrays(Path("two.npz")).items()}
    {'id': (2,), 'vector': (2, 2)}
    """
    try:
        with open_bytes(path) as handle, zipfile.ZipFile(handle) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {member.filename[:-4]: _member(archive, handle, member, path) for member in members}
    except _DAMAGE as error:
        raise DataError(f"not a readable npz file ({first_line(error)})", where=str(path), remedy=_COPY) from error


def _member(archive: zipfile.ZipFile, handle: IO[bytes], member: zipfile.ZipInfo, path: Location) -> np.ndarray:
    where = f"{path} {member.filename[:-4]}"
    if member.compress_type == zipfile.ZIP_STORED and isinstance(path, Path):
        handle.seek(member.header_offset + 26)  # lengths of name and extra field in the local header
        lengths = np.frombuffer(handle.read(4), "<u2")
        start = member.header_offset + 30 + int(lengths.sum())
        return npy_array(path, name=where, start=start, size=member.file_size)
    return _unpacked(archive, member, where)


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> np.ndarray:
    if member.file_size > max(FREE, MAX_RATIO * member.compress_size):
        raise DataError("unpacks like a decompression bomb", where=where, remedy="save it with numpy.savez")
    return npy_of(io.BytesIO(archive.read(member)), where)


def npy_of(content: io.BytesIO, where: str) -> np.ndarray:
    """The array of a ``.npy`` file in memory; see `npy_array`.

    Examples
    --------
    >>> content = io.BytesIO()
    >>> np.save(content, np.arange(3))
    >>> npy_of(io.BytesIO(content.getvalue()), "a.npy").tolist()
    [0, 1, 2]
    """
    shape, fortran, dtype = _header(content, where)
    rest = content.getbuffer()[content.tell() :]
    if len(rest) < math.prod(shape) * dtype.itemsize:
        raise _truncated(shape, dtype, len(rest), where)
    return np.frombuffer(rest, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def npz_of(content: io.BytesIO, where: str) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file in memory by name; see `npz_arrays`.

    Examples
    --------
    >>> content = io.BytesIO()
    >>> np.savez(content, vector=np.arange(3))
    >>> npz_of(io.BytesIO(content.getvalue()), "a.npz")["vector"].tolist()
    [0, 1, 2]
    """
    try:
        with zipfile.ZipFile(content) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {one.filename[:-4]: _unpacked(archive, one, f"{where} {one.filename[:-4]}") for one in members}
    except _DAMAGE as error:
        raise DataError(f"not a readable npz file ({first_line(error)})", where=where, remedy=_COPY) from error


def safetensors_arrays(path: Location) -> dict[str, Piece]:
    """The tensors of a safetensors file by name, mapped.

    Raises
    ------
    DataError
        It is damaged, cut off, or holds numbers of another type.

    Examples
    --------
    >>> from safetensors.numpy import save_file
    >>> save_file({"vector": np.eye(2, dtype=np.float32)}, "a.safetensors")
    >>> safetensors_arrays(Path("a.safetensors"))["vector"].take(slice(1, 2)).tolist()
    [[0.0, 1.0]]
    """
    with open_bytes(path) as handle:
        length = int.from_bytes(handle.read(8), "little")
        total = path.stat().st_size
        try:
            header = json.loads(handle.read(length)) if length <= min(_LONGEST_HEADER, total) else None
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise DataError("not a readable safetensors file", where=str(path), remedy=_COPY)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(path, name, entry, 8 + length, total) for name, entry in entries.items()}


def _tensor(path: Location, name: str, entry: Any, base: int, total: int) -> Piece:
    where = f"{path} {name}"
    try:
        kind, shape, (first, last) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
        valid = min(shape, default=0) >= 0 and 0 <= first <= last
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("its description is damaged", where=where, remedy=_COPY) from error
    if kind not in _KINDS:
        raise DataError(f"holds {kind}", where=where, remedy=f"save one of {', '.join(_KINDS)}")
    dtype = np.dtype(_KINDS[kind])
    length = math.prod(shape) * dtype.itemsize
    if not valid or last - first != length:
        raise DataError("its description is damaged", where=where, remedy=_COPY)
    if base + last > total:
        raise _truncated(shape, dtype, total - base - first, where)
    if not length:
        return Piece(np.zeros(shape, dtype), kind == "BF16")
    if isinstance(path, Path):
        return Piece(np.asarray(np.memmap(path, dtype, "r", base + first, shape)), kind == "BF16")
    with open_bytes(path) as handle:
        handle.seek(base + first)
        return Piece(np.frombuffer(handle.read(length), dtype).reshape(shape), kind == "BF16")


def columns_of_arrays(arrays: Mapping[str, Piece], where: str) -> dict[str, Piece]:
    """The arrays that have rows; single numbers are no columns. They may have different lengths: see `even_columns`.

    Examples
    --------
    >>> sorted(columns_of_arrays({"vector": Piece(np.eye(2)), "scale": Piece(np.array(20.0))}, "a.npz"))
    ['vector']
    """
    return {name: piece for name, piece in with_offsets(arrays, where).items() if piece.array.ndim}


def even_columns(
    columns: Mapping[str, Piece], names: Collection[str | None], where: str
) -> tuple[dict[str, Piece], list[str]]:
    """The columns that are as long as those in use, all where none of them is; and a note of each that is left out.

    Parameters
    ----------
    columns : mapping of str to Piece
        The columns of one file.
    names : collection of str
        Of the columns in use; others may be among them.
    where : str
        How messages call the file.

    Raises
    ------
    DataError
        Two columns in use have different numbers of rows.

    Examples
    --------
    >>> columns, notes = even_columns({"vector": Piece(np.eye(2)), "mean": Piece(np.ones(8))}, ["vector"], "a.npz")
    >>> list(columns), notes
    (['vector'], ["a.npz: array 'mean' is not used: it has 8 rows, those in use 2"])
    """
    lengths = {name: len(piece) for name, piece in columns.items() if name in names}
    if not lengths:
        return dict(columns), []
    first, count = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != count:
            raise DataError(
                f"array {name!r} has {length:,} rows and {first!r} has {count:,}", where=where,
                remedy="save what belongs to one row in arrays of one length",
            )  # fmt: skip
    notes = [
        f"{where}: array {name!r} is not used: it has {len(piece):,} rows, those in use {count:,}"
        for name, piece in columns.items()
        if len(piece) != count
    ]
    return {name: piece for name, piece in columns.items() if len(piece) == count}, notes


def even_part(part: Part, names: Collection[str | None]) -> tuple[Part, list[str]]:
    """A part without the arrays whose lengths are not those of the columns in use, with notes; see `even_columns`.

    Examples
    --------
    >>> arrays = {"vector": Piece(np.eye(2)), "mean": Piece(np.ones(8))}
    >>> part = Part("a.npz", lambda: records_of(arrays), columns=lambda: arrays, uneven=True)
    >>> len(list(part.records())), len(list(even_part(part, ["vector"])[0].records()))
    (8, 2)
    """
    if not part.uneven or part.columns is None:
        return part, []
    columns, notes = even_columns(part.columns(), names, part.name)
    if not notes:
        return part, []
    return replace(part, records=lambda: records_of(columns), columns=lambda: columns, uneven=False), notes


def whole_part(part: Part) -> Part:
    """The part itself, for readers that take all of its columns, whichever are in use.

    Raises
    ------
    DataError
        Its columns have different numbers of rows.

    Examples
    --------
    >>> arrays = {"vector": Piece(np.eye(2)), "mean": Piece(np.ones(8))}
    >>> whole_part(Part("a.npz", lambda: records_of(arrays), columns=lambda: arrays, uneven=True))
    Traceback (most recent call last):
    embedkit.errors.DataError: a.npz: ...
    """
    if part.uneven and part.columns is not None:
        columns = part.columns()
        even_columns(columns, columns.keys(), part.name)
    return part


def records_of(columns: Mapping[str, Piece]) -> Iterator[Record]:
    """Rows of columns, numbered from 1: a cell is a view of its array, or a plain number or text.

    Rows behind the end of a column lack its cell.

    Examples
    --------
    >>> list(records_of({"label": Piece(np.array([3, 4])), "mean": Piece(np.array([0.5]))}))
    [(1, {'label': 3, 'mean': 0.5}), (2, {'label': 4})]
    """
    for row in range(max(map(len, columns.values()), default=0)):
        yield row + 1, {name: cell_of(piece, row) for name, piece in columns.items() if row < len(piece)}


def cell_of(piece: Piece, row: int) -> Any:
    """One cell of a column: a view of its array, or a plain number or text.

    Examples
    --------
    >>> cell_of(Piece(np.array(["a", "b"])), 1)
    'b'
    """
    if isinstance(piece, RaggedPiece):
        return piece.steps(row)
    if piece.bfloat16:
        return piece.take(slice(row, row + 1))[0]
    value = piece.array[row]
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str):
        return str(value)
    plain = value.item()
    return plain.decode("utf-8", "replace") if isinstance(plain, bytes) else plain
