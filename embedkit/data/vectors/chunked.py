"""Arrays of HDF5 files and of Zarr folders: mapped where they lie in one piece, else read chunk by chunk."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from embedkit.data.sources.files import FREE, MAX_RATIO, open_bytes
from embedkit.data.sources.remote import Location, first_line
from embedkit.data.vectors.column import Piece
from embedkit.errors import DataError, need
from embedkit.system.memory import available_bytes

_COPY = "write or copy the file again"
_CODECS = frozenset({
    "bytes", "transpose", "blosc", "zstd", "gzip", "zlib", "lz4", "lzma", "bz2", "crc32c", "crc32", "adler32",
    "fletcher32", "shuffle", "bitround", "delta", "sharding_indexed", "vlen-utf8", "vlen-bytes",
})  # fmt: skip
"""Codecs of Zarr that hold numbers and texts; others may unpickle."""


class Chunked:
    """An array (n, W) in a file that is read in blocks of rows; the chunk that was read last is kept.

    Parameters
    ----------
    source : dataset of h5py or array of zarr
        What gives rows for a slice.
    rows : int
        Rows of one of its chunks.
    where : str
        What messages call it.
    count : int, optional
        The first so many rows alone.

    Raises
    ------
    DataError
        When rows are read: a chunk is damaged.

    Examples
    --------
    >>> array = Chunked(np.arange(8.0).reshape(4, 2), rows=3)
    >>> array.take(np.array([3, 0, 3]), axis=0)[:, 0].tolist(), array[1:2].tolist(), array[:2].shape
    ([6.0, 0.0, 6.0], [[2.0, 3.0]], (2, 2))
    """

    def __init__(self, source: Any, rows: int, where: str = "", count: int | None = None) -> None:
        self._source, self._rows, self._where = source, max(1, rows), where
        self.shape: tuple[int, ...] = (source.shape[0] if count is None else count, *source.shape[1:])
        self.dtype: np.dtype[Any] = np.dtype(source.dtype)
        self.ndim = len(self.shape)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._last = -1, np.empty(0)
        self._soon: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        if not isinstance(rows, slice):
            return self._chunk(rows // self._rows)[rows % self._rows]  # type: ignore[no-any-return]
        start, stop, _ = rows.indices(len(self))
        number = start // self._rows
        if start < stop <= (number + 1) * self._rows:
            return self._chunk(number)[start % self._rows : stop - number * self._rows]
        return self._read(start, stop)

    def _chunk(self, number: int) -> np.ndarray:
        last, values = self._last
        if last != number:
            values = self._read(number * self._rows, min((number + 1) * self._rows, len(self)))
            self._last = number, values
        return values

    def _read(self, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(self._source[start:stop])
        except (OSError, RuntimeError, ValueError) as error:
            where = f"{self._where}, rows from {start + 1:,}"
            raise DataError(f"cannot be read ({first_line(error)})", where=where, remedy=_COPY) from error

    def take(self, rows: np.ndarray, axis: int = 0) -> np.ndarray:
        """Rows in the order of `rows`, of those that `ahead` keeps, or from the file."""
        for window, values in self._soon:
            place = np.searchsorted(window, rows).clip(max=len(window) - 1)
            if np.array_equal(window[place], rows):
                return values[place]  # type: ignore[no-any-return]
        return self._gathered(rows)

    def _gathered(self, rows: np.ndarray) -> np.ndarray:
        """Rows from the file; every chunk that holds some of them is read once."""
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        chunks = rows[order] // self._rows
        edges = np.flatnonzero(np.diff(chunks, prepend=-1, append=-1))
        for begin, end in itertools.pairwise(edges):
            places = order[begin:end]
            first, last = int(rows[places[0]]), int(rows[places[-1]]) + 1
            result[places] = self[first:last][rows[places] - first]
        return result

    def first(self, count: int) -> Chunked:
        """The first `count` rows."""
        return Chunked(self._source, self._rows, self._where, count)

    def ahead(self, rows: np.ndarray) -> None:
        """Read `rows`, which are asked for soon, and keep them until those of two further calls are kept."""
        window = np.unique(rows)
        if len(window) and _fits(self.nbytes // len(self) * len(window)):
            self._soon = [*self._soon[-1:], (window, self._gathered(window))]


class ChunkedPiece(Piece):
    """Vectors of one file in chunks: in memory from the first use on where they take half of what is free at most.

    Examples
    --------
    >>> piece = ChunkedPiece(Chunked(np.arange(8.0).reshape(4, 2), rows=3))
    >>> len(piece), piece.first(2).take(np.array([1])).tolist()
    (4, [[2.0, 3.0]])
    """

    def first(self, count: int) -> Piece:
        """See `Piece.first`."""
        chunked = cast(Chunked, self.array)
        part = chunked if count == len(self) else chunked.first(count)
        return Piece(part[:]) if _fits(part.nbytes) else ChunkedPiece(cast(np.ndarray, part))

    def ahead(self, rows: np.ndarray) -> None:
        """See `Piece.ahead`."""
        cast(Chunked, self.array).ahead(rows)

    @property
    def on_disk(self) -> bool:
        """See `Piece.on_disk`."""
        return True


def _fits(size: int) -> bool:
    """Whether half of the memory that is free holds so many bytes."""
    room = available_bytes()
    return room is not None and size <= room // 2


def hdf5_arrays(path: Location) -> dict[str, Piece]:
    """The arrays of an HDF5 file by name (``group/name``); a contiguous one of a local file is mapped.

    Chunked and compressed vectors (n, W) are read in blocks of rows where they are asked for; other arrays whole.

    Raises
    ------
    MissingExtraError
        h5py is not installed.
    DataError
        It is damaged, cut off, a decompression bomb, points to other files, or holds Python objects or records.

    Examples
    --------
    >>> import h5py
    >>> with h5py.File("a.h5", "w") as file:
    ...     file["vector"] = np.eye(2)
    >>> hdf5_arrays(Path("a.h5"))["vector"].take(np.array([1])).tolist()
    [[0.0, 1.0]]
    """
    need("h5py", "vectors", "an HDF5 file")
    import h5py

    if not path.is_file():
        raise DataError("no such file", where=str(path), remedy="check the path")
    arrays: dict[str, Piece] = {}
    try:
        if isinstance(path, Path):
            file = h5py.File(path, "r")
        else:
            with open_bytes(path) as handle:
                file = h5py.File(io.BytesIO(handle.read()), "r")
        names: list[str] = []
        file.visit(names.append)  # hard links only: no other file is opened
        for name in names:
            if isinstance(file[name], h5py.Dataset):
                arrays[name] = _dataset(file[name], path, f"{path} {name}")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a readable HDF5 file ({first_line(error)})", where=str(path), remedy=_COPY) from error
    return arrays


def _dataset(data: Any, path: Location, where: str) -> Piece:
    import h5py

    if data.external or data.is_virtual:
        raise DataError("keeps its numbers in another file", where=where, remedy="copy them into this one")
    text = h5py.check_string_dtype(data.dtype) is not None
    _check_type(data.dtype, where, text)
    _check_size(data.size * data.dtype.itemsize, data.id.get_storage_size(), where)
    if text:
        return Piece(np.asarray(data.asstr()[()], object))  # np.str_ pads all to the longest
    offset = data.id.get_offset()
    if isinstance(path, Path) and offset is not None and data.size and data.chunks is None:
        return Piece(np.asarray(np.memmap(path, data.dtype, "r", offset, data.shape)))
    return _piece(data, data.chunks, where)


def zarr_arrays(folder: Path) -> dict[str, Piece]:
    """The arrays of a Zarr folder by name: vectors (n, W) are read chunk by chunk, other arrays whole.

    Raises
    ------
    MissingExtraError
        zarr is not installed.
    DataError
        It is damaged, a decompression bomb, or holds Python objects; nothing is unpickled.

    Examples
    --------
    >>> import zarr
    >>> zarr.open_group("a.zarr", mode="w").create_array("vector", data=np.eye(2), chunks=(1, 2))
    <Array file://a.zarr/vector shape=(2, 2) dtype=float64>
    >>> zarr_arrays(Path("a.zarr"))["vector"].take(np.array([1, 0])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    need("zarr", "vectors", "a Zarr folder")
    import zarr

    for file in sorted([*folder.rglob("zarr.json"), *folder.rglob(".zarray")]):
        _check_codecs(file)
    arrays: dict[str, Piece] = {}
    try:
        root = zarr.open(folder, mode="r", use_consolidated=False)
        members = {folder.stem: root} if isinstance(root, zarr.Array) else dict(_arrays_of(root, ""))
        for name, array in members.items():
            where = f"{folder} {name}"
            text = array.dtype.kind in "UT"
            _check_type(array.dtype, where, text)
            _check_size(array.nbytes, array.nbytes_stored(), where)
            arrays[name] = Piece(np.asarray(array[:], object)) if text else _piece(array, array.chunks, where)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a readable Zarr folder ({first_line(error)})", where=str(folder), remedy=_COPY) from error
    return arrays


def _arrays_of(group: Any, above: str) -> Iterator[tuple[str, Any]]:
    yield from ((above + name, array) for name, array in sorted(group.arrays()))
    for name, inner in sorted(group.groups()):
        yield from _arrays_of(inner, f"{above}{name}/")


def _check_codecs(file: Path) -> None:
    """Refuse codecs that may unpickle, before anything is read with them."""
    try:
        settings = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not readable JSON", where=str(file), remedy=_COPY) from error
    pending: list[Any] = [settings.get(key) for key in ("codecs", "filters", "compressor")] * isinstance(settings, dict)
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending += one
        elif isinstance(one, dict):
            name = str(one.get("id", one.get("name"))).removeprefix("numcodecs.")
            if name not in _CODECS:
                remedy = "save it with another codec; numbers need blosc, zstd or gzip"
                raise DataError(f"the codec {name!r} is not read", where=str(file), remedy=remedy)
            inner = one.get("configuration")
            pending += [inner.get(key) for key in ("codecs", "index_codecs")] if isinstance(inner, dict) else []


def _check_type(dtype: np.dtype[Any], where: str, text: bool) -> None:
    if dtype.fields is not None:
        raise DataError("holds records with fields", where=where, remedy="save one array a field")
    if dtype.hasobject and not text:
        raise DataError("holds arrays of any length or Python objects", where=where,
                        remedy="save all steps in one array NAME, and where rows begin in NAME_offsets")  # fmt: skip


def _check_size(size: int, storage: int, where: str) -> None:
    if size > max(FREE, MAX_RATIO * storage):
        raise DataError("unpacks like a decompression bomb", where=where, remedy="save it with less compression")


def _piece(data: Any, chunks: tuple[int, ...] | None, where: str) -> Piece:
    if len(data.shape) != 2 or not chunks:
        return Piece(np.asarray(data[()]))
    return ChunkedPiece(cast(np.ndarray, Chunked(data, chunks[0], where)))  # it has what a piece asks of an array
