"""Arrow IPC files: the stream form of ``datasets.save_to_disk``, and the file form, also called feather."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.data.schema.rows import Record
from embedkit.data.sources.files import open_bytes, seekable
from embedkit.data.sources.formats.delimited import check_header
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location, first_line
from embedkit.data.vectors.column import Piece
from embedkit.data.vectors.ragged import RaggedPiece
from embedkit.errors import DataError

BATCH = 1024
"""Rows decoded at a time; few, because a row may hold an image."""
_FILE = b"ARROW1"
_OLD_FEATHER = b"FEA1"


def read_arrow(path: Location) -> Iterator[Record]:
    """Rows of an arrow file in either form, numbered from 1, batch by batch.

    Raises
    ------
    DataError
        The file is damaged, not arrow, has two columns of one name, or text that is not UTF-8.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from pathlib import Path
    >>> table = pa.table({"anchor": ["a cat", "a dog"]})
    >>> with pa.ipc.new_file("rows.arrow", table.schema) as writer:
    ...     writer.write_table(table)
    >>> list(read_arrow(Path("rows.arrow")))
    [(1, {'anchor': 'a cat'}), (2, {'anchor': 'a dog'})]
    """
    import pyarrow as pa

    with open_bytes(path) as handle:
        start = handle.read(len(_FILE))
    if start.startswith(_OLD_FEATHER):
        raise DataError("feather of version 1", where=str(path), remedy="write it again as parquet or feather 2")
    with seekable(path) as handle:
        try:
            reader = pa.ipc.open_file(handle) if start == _FILE else pa.ipc.open_stream(handle)
            with reader:
                check_header(reader.schema.names, str(path))
                yield from numbered((piece for batch in _batches(reader) for piece in pieces(batch)), reader.schema)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise DataError(
                f"not a readable arrow file ({first_line(error)})", where=str(path), remedy="save it again"
            ) from error


def _columns(path: Location) -> dict[str, Piece]:
    """The columns of numbers and of vectors, mapped where the file is local and not compressed; none where it cannot
    be read as a whole."""
    import pyarrow as pa

    if not isinstance(path, Path):
        return {}
    try:
        source = pa.memory_map(str(path))
        is_file = source.read(len(_FILE)) == _FILE
        source.seek(0)
        table = pa.ipc.open_file(source).read_all() if is_file else pa.ipc.open_stream(source).read_all()
        return arrays_of(table)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError):
        return {}  # reading row by row says what is wrong


def _batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


readers.add("arrow")(Format((".arrow", ".feather", ".ipc"), read_arrow, columns=_columns))


def numbered(batches: Iterator[Any], schema: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and cells of each row of record batches, with JSON columns decoded.

    Raises
    ------
    pyarrow.ArrowException, ValueError
        For damaged offsets and text that is not UTF-8.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"anchor": ["a cat", "a dog"], "label": [0, 1]})
    >>> list(numbered(iter(table.to_batches()), table.schema))
    [(1, {'anchor': 'a cat', 'label': 0}), (2, {'anchor': 'a dog', 'label': 1})]
    """
    json_columns = _json_columns(schema)
    number = 0
    for batch in batches:
        batch.validate(full=True)
        for values in batch.to_pylist():
            number += 1
            yield number, decoded(values, json_columns)


def pieces(batch: Any) -> Iterator[Any]:
    """Slices of `BATCH` rows of a record batch.

    Examples
    --------
    >>> import pyarrow as pa
    >>> [piece.num_rows for piece in pieces(pa.record_batch({"label": range(1500)}))]
    [1024, 476]
    """
    for start in range(0, batch.num_rows, BATCH):
        yield batch.slice(start, BATCH)


def arrays_of(table: Any) -> dict[str, Piece]:
    """The columns of an arrow table that are numbers, lists of numbers or of vectors, without nulls, as arrays.

    A column in one piece is not copied, so that it stays in the file where that is mapped.

    Examples
    --------
    >>> import pyarrow as pa
    >>> columns = {"text": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]], "ragged": [[1.0], [1.0, 2.0]]}
    >>> {name: piece.array.shape for name, piece in arrays_of(pa.table(columns)).items()}  # ragged: three steps
    {'vector': (2, 2), 'ragged': (3, 1)}
    """
    arrays = {}
    for name in table.column_names:
        column = table.column(name)
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        values = _numbers(array)
        piece = _ragged(array) if values is None else Piece(values)
        if piece is not None:
            arrays[name] = piece
    return arrays


def _numbers(array: Any) -> Any | None:
    """Numbers of an arrow array (n,), or of one of lists (n, W); None where it is no such array."""
    import pyarrow as pa

    kind = array.type
    if array.null_count or pa.types.is_boolean(kind):
        return None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return array.to_numpy(zero_copy_only=False)
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        return None
    flat, count = array.flatten(), len(array)
    if not count or flat.null_count or len(flat) % count or not len(flat):
        return None
    width = len(flat) // count
    if not pa.types.is_fixed_size_list(kind):
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        if (lengths != width).any():
            return None
    return flat.to_numpy(zero_copy_only=False).reshape(count, width)


def _ragged(array: Any) -> RaggedPiece | None:
    """An arrow array of lists of numbers, or of lists of vectors of one size, as sequences; None for any other."""
    import pyarrow as pa

    kind = array.type
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if array.null_count or not is_list or not len(array):
        return None
    steps = _numbers(array.flatten())
    if steps is None or steps.ndim > 2:
        return None
    if pa.types.is_fixed_size_list(kind):
        offsets = np.arange(len(array) + 1, dtype=np.int64) * kind.list_size
    else:
        offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        offsets = offsets - offsets[0]
    return RaggedPiece(steps if steps.ndim == 2 else steps[:, None], offsets=offsets)


def _json_columns(schema: Any) -> list[str]:
    """Columns whose cells are JSON text by the type or the features that ``datasets`` (5.2 on) writes beside them."""
    names = [field.name for field in schema if getattr(field.type, "extension_name", "") == "arrow.json"]
    metadata = (schema.metadata or {}).get(b"huggingface")
    content = json.loads(metadata) if metadata else {}
    features = content.get("info", {}).get("features") if isinstance(content, dict) else None
    names += [name for name, feature in (features or {}).items() if is_json(feature)]
    return [name for name in dict.fromkeys(names) if name in schema.names]


def is_json(feature: Any) -> bool:
    """Whether a feature of ``datasets``, as an object or as its dict, is the one for JSON of any type.

    Examples
    --------
    >>> is_json({"_type": "Json"}), is_json({"_type": "Value", "dtype": "string"})
    (True, False)
    """
    kind = feature.get("_type") if isinstance(feature, dict) else type(feature).__name__
    return bool(kind == "Json")


def decoded(values: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    """A row with the JSON text in `columns` replaced by its values.

    Examples
    --------
    >>> decoded({"a": '"x"', "b": '"y"'}, ["a"])
    {'a': 'x', 'b': '"y"'}
    """
    if not columns:
        return values
    return values | {name: json.loads(values[name]) for name in columns if isinstance(values.get(name), str)}
