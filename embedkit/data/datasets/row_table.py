"""Rows held in memory as one compact arrow table, and what samplers need to know of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedkit.data.schema.kinds import OPEN_ROLES, is_modality
from embedkit.data.schema.roles import IMAGE_ROLES, ROLES
from embedkit.data.schema.rows import Row
from embedkit.data.schema.targets import TargetFacts, in_order, is_target
from embedkit.data.vectors.column import VectorColumn
from embedkit.data.vectors.rows import ColumnRows
from embedkit.data.vectors.store import VectorStore, keys_at, type_of_places, vectors_at, whole_vectors
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data.vectors.columnar import ColumnTable

_TYPES = {
    "anchor": pa.large_string(),
    "positive": pa.large_string(),
    "negatives": pa.large_list(pa.large_string()),
    "texts": pa.large_list(pa.large_string()),
    "score": pa.float64(),
    "scores": pa.large_list(pa.float64()),
    "label": pa.int64(),
    "group": pa.large_string(),  # JSON
    "image": pa.large_binary(),
    "image_path": pa.large_string(),
    "image2": pa.large_binary(),
    "image2_path": pa.large_string(),
    "features": pa.large_list(pa.float32()),
    "sentences": pa.large_list(pa.large_string()),
    "document_id": pa.large_string(),
    "position": pa.int64(),
}
_PATHS = {f"{role}_path": role for role in IMAGE_ROLES}
_NAMES, _NUMBERS = pa.large_list(pa.large_string()), pa.large_list(pa.float64())
_TARGETS = {
    "class": pa.large_string(), "classes": _NAMES, "soft": _NUMBERS, "degrees": _NUMBERS, "number": _NUMBERS,
}  # fmt: skip
_FLUSH = 20_000
NO_VECTORS: Mapping[str, VectorColumn] = MappingProxyType({})


class TableBuilder:
    """A builder of arrow tables with a column for each role, null in rows without it.

    Attributes
    ----------
    store : VectorStore
        The vectors of roles that hold vectors; their columns in the table are places in it.

    Examples
    --------
    >>> builder = TableBuilder()
    >>> builder.add({"anchor": "a cat", "label": 3})
    >>> take_rows(builder.finish(), [0], ["anchor", "label"])
    [{'anchor': 'a cat', 'label': 3}]
    """

    def __init__(self) -> None:
        self._waiting: list[Row] = []
        self._pieces: list[pa.Table] = []
        self.store = VectorStore()

    def add(self, row: Row) -> None:
        """Append one row."""
        self._waiting.append(row)
        if len(self._waiting) >= _FLUSH:
            self._flush()

    def finish(self) -> pa.Table:
        """The table of all rows, each column a single chunk."""
        self._flush()
        roles = self.store.roles
        pieces = [_with_places(piece, roles) for piece in self._pieces] if roles else self._pieces
        table = pa.concat_tables(pieces, promote_options="default").combine_chunks()
        return self.store.finish(table) if roles else table

    def add_columns(self, columns: ColumnTable) -> None:
        """Append rows that were read by column."""
        self._flush()
        zeros = pa.py_buffer(np.zeros(columns.count + 1, np.int64))  # one for all, of pages that nobody touches
        arrays = {name: _nothing(kind, columns.count, zeros) for name, kind in _TYPES.items()}
        for role, values in columns.numbers.items():
            arrays[role] = pa.array(values).cast(_TYPES[role])
        for role, vectors in columns.vectors.items():
            places = np.stack([self.store.add(role, one) + np.arange(columns.count) for one in vectors], axis=1)
            flat = pa.array(places.reshape(-1), pa.int64())
            offsets = pa.array(np.arange(columns.count + 1) * len(vectors), pa.int64())
            arrays[role] = pa.LargeListArray.from_arrays(offsets, flat) if role == "negatives" else flat
        self._pieces.append(pa.table(arrays))

    def _flush(self) -> None:
        if not self._waiting and self._pieces:
            return
        present = {role for row in self._waiting for role in row}
        nothing = [None] * len(self._waiting)
        columns: dict[str, list[Any]] = {
            role: [row.get(role) for row in self._waiting] if role in present else nothing for role in ROLES
        }
        modalities = sorted(filter(is_modality, present))
        columns |= {role: [row.get(role) for row in self._waiting] for role in modalities}
        vectors = [
            role for role in (*OPEN_ROLES, *modalities) if role in present and any(map(_is_vectors, columns[role]))
        ]
        columns |= {role: self.store.places(role, columns[role]) for role in vectors}
        columns["group"] = [None if group is None else encode_group(group) for group in columns["group"]]
        for path, role in _PATHS.items():
            images = columns[role]
            columns[role] = [image if isinstance(image, bytes) else None for image in images]
            columns[path] = [image if isinstance(image, str) else None for image in images]
        types = _TYPES | {role: _TARGETS[role.partition(":")[0]] for role in sorted(filter(is_target, present))}
        columns |= {role: [row.get(role) for row in self._waiting] for role in types.keys() - _TYPES.keys()}
        types |= {role: pa.large_string() for role in modalities} | {role: type_of_places(role) for role in vectors}
        arrays = [pa.array(columns[name], kind) for name, kind in types.items()]
        self._pieces.append(pa.Table.from_arrays(arrays, schema=pa.schema(list(types.items()))))
        self._waiting = []


def _nothing(kind: pa.DataType, count: int, zeros: pa.Buffer) -> pa.Array:
    """An array of nulls whose buffers are `zeros`, of at least 8 (count + 1) bytes."""
    children = [pa.array([], kind.value_type)] if pa.types.is_large_list(kind) else None
    buffers = [zeros] * (kind.num_buffers if children is None else 2)
    return pa.Array.from_buffers(kind, count, buffers, null_count=count, children=children)


def _is_vectors(value: Any) -> bool:
    """Whether a value is a vector, or a list of vectors."""
    return isinstance(value[0] if isinstance(value, list) and value else value, np.ndarray)


def _with_places(piece: pa.Table, roles: frozenset[str]) -> pa.Table:
    """A table whose columns of these roles are places, empty where none of its rows has a vector."""
    for role in roles:
        column = piece.column(role) if role in piece.column_names else None
        if column is not None and column.type != type_of_places(role):
            if column.null_count < len(column) and pc.sum(pc.list_value_length(column)).as_py():
                raise DataError(f"some rows have vectors as {role}, others texts", where="data.train",
                                remedy="give all sources one kind of it")  # fmt: skip
            piece = piece.set_column(piece.column_names.index(role), role, pa.nulls(len(column), type_of_places(role)))
    return piece


def encode_group(group: int | str) -> str:
    """A group as JSON text, so that numbers and names share a column and stay apart.

    Examples
    --------
    >>> encode_group(7), encode_group("7")
    ('7', '"7"')
    """
    return json.dumps(group)


def table_of(rows: Iterable[Row]) -> pa.Table:
    """The arrow table of some rows.

    Examples
    --------
    >>> table = table_of([{"anchor": "a cat", "negatives": ["a dog"]}, {"anchor": "a cow"}])
    >>> table.column("negatives").to_pylist()
    [['a dog'], None]
    """
    builder = TableBuilder()
    for row in rows:
        builder.add(row)
    return builder.finish()


def take_rows(
    table: pa.Table, indices: Sequence[int] | np.ndarray, roles: Iterable[str],
    vectors: Mapping[str, VectorColumn] = NO_VECTORS,
) -> list[Row]:  # fmt: skip
    """The rows at `indices`, with those of `roles` that each has; `vectors` are those that the table has places of.

    Examples
    --------
    >>> table = table_of([{"anchor": "a cat", "group": 7}, {"anchor": "a cow"}])
    >>> take_rows(table, [1, 0], ["anchor", "group"])
    [{'anchor': 'a cow'}, {'anchor': 'a cat', 'group': 7}]
    """
    role_set = set(roles)
    names = [name for name in table.column_names if _PATHS.get(name, name) in role_set]
    piece = table.select(names).take(pa.array(indices, pa.int64()))
    rows: list[Row] = [{} for _ in range(piece.num_rows)]
    for name in names:
        column = piece.column(name)
        values = vectors_at(vectors[name], column) if name in vectors else column.to_pylist()
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[_PATHS.get(name, name)] = json.loads(value) if name == "group" else value
    return rows


def take_columns(
    table: pa.Table, indices: np.ndarray, roles: Iterable[str], vectors: Mapping[str, VectorColumn]
) -> ColumnRows | None:
    """The rows at `indices` by column; None where a role of theirs is neither a vector nor a number of each row.

    Examples
    --------
    >>> from embedkit.data.vectors.column import Piece
    >>> column = VectorColumn([Piece(np.eye(2, dtype=np.float32))], [5, 6])
    >>> table = pa.table({"anchor": pa.array([0, 1], pa.int64()), "label": [3, 4]})
    >>> rows = take_columns(table, np.array([1, 0]), ["anchor", "label"], {"anchor": column})
    >>> rows.column("anchor").array.tolist(), rows.column("label")
    ([[0.0, 1.0], [1.0, 0.0]], [4, 3])
    """
    names = list(roles)
    if any(name == "negatives" or (name not in vectors and name not in ("label", "score")) for name in names):
        return None
    piece = table.select(names).take(pa.array(indices, pa.int64()))
    columns: dict[str, Sequence[Any]] = {}
    for name in names:
        column = _whole(piece.column(name))
        if column.null_count:
            return None
        columns[name] = whole_vectors(vectors[name], column) if name in vectors else column.to_pylist()
    return ColumnRows(columns, piece.num_rows)


def targets_of(table: pa.Table) -> dict[str, TargetFacts]:
    """Role -> classes, or size of the vectors, of each target that the rows have.

    Examples
    --------
    >>> targets_of(table_of([{"class:tone": "sad", "number:age": [3.0]}, {"class:tone": "gay"}]))
    {'class:tone': TargetFacts(classes=('gay', 'sad'), width=0), 'number:age': TargetFacts(classes=(), width=1)}
    """
    facts = {}
    for role in filter(is_target, table.column_names):
        column = _whole(table.column(role)).drop_null()
        names = column.flatten() if column.type == _NAMES else column
        if column.type == _NUMBERS:
            facts[role] = TargetFacts(width=int(pc.max(pc.list_value_length(column)).as_py() or 0))
        else:
            facts[role] = TargetFacts(in_order(pc.unique(names).to_pylist()))
    return facts


def has_role(table: pa.Table, role: str) -> np.ndarray:
    """Which rows have a role, bool (N,); an image as bytes or as a path.

    Examples
    --------
    >>> has_role(table_of([{"label": 1}, {"image": "a.png"}]), "image").tolist()
    [False, True]
    """
    names = [name for name in (role, f"{role}_path") if name in table.column_names]
    there = [_whole(table.column(name)).is_valid().to_numpy(zero_copy_only=False) for name in names]
    return np.logical_or.reduce(there) if there else np.zeros(table.num_rows, bool)


def digest(table: pa.Table, vectors: Mapping[str, VectorColumn] = NO_VECTORS) -> str:
    """A hash of the content of a table, the same for the same rows from whatever kind of file.

    Of `vectors`, which the table has places of, the hashes enter.

    Examples
    --------
    >>> rows = [{"anchor": "a cat"}, {"anchor": "a dog"}]
    >>> digest(table_of(rows)) == digest(table_of(rows)), digest(table_of(rows)) == digest(table_of(rows[::-1]))
    (True, False)
    """
    state = hashlib.blake2b(digest_size=16)
    for name in table.column_names:
        column = _whole(table.column(name))
        if name in vectors:
            column = _with_keys(column, vectors[name])
        if column.null_count < len(column) or not len(column):
            state.update(f"{name}:{len(column)};".encode())
            _feed(state, column)
    return state.hexdigest()


def _with_keys(column: pa.Array, vectors: VectorColumn) -> pa.Array:
    """A column of places, or of lists of them, with the hashes of the vectors in their stead."""
    if pa.types.is_large_list(column.type):
        column = column.fill_null([]) if column.null_count else column
        return pa.LargeListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(_lengths(column))]), pa.int64()),
            pa.array(keys_at(vectors, column.flatten()), pa.int64()),
        )
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(keys_at(vectors, column.fill_null(0)), pa.int64(), mask=~there)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _feed(state: Any, array: pa.Array) -> None:
    if array.null_count:
        state.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        array = array.drop_null()
    if pa.types.is_large_list(array.type):
        state.update(_lengths(array).tobytes())
        _feed(state, array.flatten())
    elif pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type):
        offsets = np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)
        state.update(np.diff(offsets).tobytes())
        if array.buffers()[2] is not None:
            state.update(memoryview(array.buffers()[2])[offsets[0] : offsets[-1]])
    else:
        state.update(array.to_numpy(zero_copy_only=False).tobytes())


def _lengths(array: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False), np.int64)


@dataclass(frozen=True)
class Facts:
    """Keys, lengths and labels of n rows: what samplers need to know of them.

    Attributes
    ----------
    keys : int64 array (k,)
        Numbers of the texts, images and groups of all rows, row after row; equal things have equal numbers, and a
        thing counts once a row.
    offsets : int64 array (n + 1,)
        Row i owns ``keys[offsets[i]:offsets[i + 1]]``.
    lengths : int64 array (n,)
        Characters of all texts of a row.
    labels : int64 array (n,)
        Labels, -1 where a row has none.
    documents, positions : int64 array (n,)
        Number of the document that a row is a sentence of, and its place there; -1 where a row has none.

    Examples
    --------
    >>> facts = facts_of(table_of([{"anchor": "a cat", "label": 1}, {"anchor": "a dog"}]))
    >>> facts.lengths.tolist(), facts.labels.tolist()
    ([5, 5], [1, -1])
    """

    keys: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    documents: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def facts_of(
    table: pa.Table, *, repeated_rows: bool = False, negatives: bool = True,
    vectors: Mapping[str, VectorColumn] = NO_VECTORS,
) -> Facts:  # fmt: skip
    """The facts of a table's rows, in one vectorised pass without hash collisions.

    Keys that one row alone has cannot clash and are left out, unless `repeated_rows` says that an epoch may hold a
    row more than once. Without `negatives` these texts are no keys. `vectors` are those that the table has places of.

    Examples
    --------
    >>> facts = facts_of(table_of([{"anchor": "a", "positive": "b"}, {"anchor": "c"}, {"anchor": "b"}]))
    >>> facts.keys.tolist(), facts.offsets.tolist()
    ([2, 2], [0, 1, 1, 2])
    """
    total = table.num_rows
    lists: tuple[str, ...] = ("texts", "sentences")
    lists = ("negatives", *lists) if negatives and "negatives" not in vectors else lists
    single = [name for name in ("anchor", "positive", *filter(is_modality, table.column_names)) if name not in vectors]
    owners, texts = _owned_texts(table, lists, single)
    lengths = np.bincount(owners, np.asarray(pc.utf8_length(texts)), minlength=total).astype(np.int64)
    pieces = [(owners, _codes(texts)), *_owned_vectors(table, vectors, negatives)]
    for name in ("group", *IMAGE_ROLES, *_PATHS):
        column = _whole(table.column(name))
        valid = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        pieces.append((valid, _codes(column.drop_null())))
    base, flat = 0, []
    for _, codes in pieces:
        flat.append(codes + base)
        base += int(codes.max(initial=-1)) + 1
    base = max(base, 1)
    pairs = np.sort(np.concatenate([owner for owner, _ in pieces]) * base + np.concatenate(flat), kind="stable")
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    owner, keys = pairs // base, pairs % base
    if not repeated_rows:
        in_several = np.bincount(keys, minlength=base)[keys] > 1
        owner, keys = owner[in_several], keys[in_several]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=total))]).astype(np.int64)
    labels, positions = (
        np.asarray(_whole(table.column(name)).fill_null(-1).to_numpy(), np.int64) for name in ("label", "position")
    )
    documents = _whole(table.column("document_id")).dictionary_encode().indices.fill_null(-1)
    return Facts(keys, offsets, lengths, labels, np.asarray(documents.to_numpy(), np.int64), positions)


def _owned_vectors(
    table: pa.Table, vectors: Mapping[str, VectorColumn], negatives: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """The rows that own vectors, and numbers of these, equal ones of any role having one."""
    owners, keys = [], []
    for name in vectors.keys() - (set() if negatives else {"negatives"}):
        column = _whole(table.column(name))
        is_list = name == "negatives"
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        owners.append(np.repeat(np.arange(len(column)), _lengths(column) if is_list else valid.astype(np.int64)))
        keys.append(keys_at(vectors[name], column.flatten() if is_list else column.drop_null()))
    if owners:
        yield np.concatenate(owners), np.unique(np.concatenate(keys), return_inverse=True)[1]


def _owned_texts(table: pa.Table, lists: Sequence[str], single: Sequence[str]) -> tuple[np.ndarray, pa.Array]:
    """All texts of a table, and the row that each belongs to."""
    owners, texts = [np.empty(0, np.int64)], [pa.array([], pa.large_string())]
    for name in single:
        column = _whole(table.column(name))
        owners.append(np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)))
        texts.append(column.drop_null())
    for name in lists:
        column = _whole(table.column(name))
        owners.append(np.repeat(np.arange(len(column)), _lengths(column)))
        texts.append(column.flatten())
    return np.concatenate(owners).astype(np.int64), pa.concat_arrays(texts)


def _codes(array: pa.Array) -> np.ndarray:
    return np.asarray(array.dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)
