"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedkit.data.schema.rows import Record
from embedkit.data.sources.files import FREE, MAX_RATIO, seekable
from embedkit.data.sources.formats.arrow import BATCH, arrays_of, numbered
from embedkit.data.sources.formats.delimited import check_header
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location, first_line
from embedkit.data.vectors.column import Piece
from embedkit.errors import DataError


def read_parquet(path: Location) -> Iterator[Record]:
    """Rows of a parquet file, numbered from 1; nothing of the file is kept but one batch.

    Raises
    ------
    DataError
        The file is damaged, not parquet, has two columns of one name, or text that is not UTF-8.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import pyarrow.parquet
    >>> from pathlib import Path
    >>> pa.parquet.write_table(pa.table({"anchor": ["a cat"], "negatives": [["a dog"]]}), "rows.parquet")
    >>> list(read_parquet(Path("rows.parquet")))
    [(1, {'anchor': 'a cat', 'negatives': ['a dog']})]
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(path) as handle:
        try:
            file = pq.ParquetFile(handle)
            _check_parquet(file.metadata, path)
            check_header(file.schema_arrow.names, str(path))
            yield from numbered(file.iter_batches(BATCH), file.schema_arrow)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise DataError(
                f"not a readable parquet file ({first_line(error)})", where=str(path), remedy="write or copy it again"
            ) from error


def _columns(path: Location) -> dict[str, Piece]:
    """The columns of numbers and of vectors, in memory; none where the file cannot be read as a whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(path) as handle:
        try:
            file = pq.ParquetFile(handle)
            _check_parquet(file.metadata, path)
            numeric = [field.name for field in file.schema_arrow if _may_be_numbers(field.type)]
            return arrays_of(file.read(columns=numeric))
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError):
            return {}  # reading row by row says what is wrong


def _may_be_numbers(kind: Any) -> bool:
    import pyarrow as pa

    for _ in range(2):  # a list of vectors is a sequence
        is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
        kind = kind.value_type if is_list else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_parquet(metadata: Any, path: Location) -> None:
    """Refuse a decompression bomb by what the file says of itself; larger data than it says cannot be decoded.

    Raises
    ------
    DataError
        It holds more than `MAX_RATIO` bytes or rows for each of its bytes.
    """
    size = path.stat().st_size
    content_size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if max(content_size, metadata.num_rows) > max(FREE, MAX_RATIO * size):
        raise DataError(
            f"holds {metadata.num_rows:,} rows and {content_size:,} bytes in {size:,}, like a decompression bomb",
            where=str(path), remedy="if that is meant, write it again without compression",
        )  # fmt: skip


readers.add("parquet")(Format((".parquet", ".pq"), read_parquet, columns=_columns))
