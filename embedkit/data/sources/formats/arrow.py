"""Arrow IPC files: the stream form of ``datasets.save_to_disk``, and the file form, also called feather."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit.data.schema.rows import Record
from embedkit.data.sources.files import open_bytes, seekable
from embedkit.data.sources.formats.arrow_batches import arrays_of, numbered, pieces
from embedkit.data.sources.formats.delimited import check_header
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location, first_line
from embedkit.data.vectors.column import Piece
from embedkit.errors import DataError

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
