"""Readers of binary tables: parquet files, folders written by ``datasets.save_to_disk``, and hub data sets."""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from embedkit.data.schema.rows import Part, Record
from embedkit.data.sources.files import FREE, MAX_RATIO, check_unpacked, open_bytes
from embedkit.data.sources.readers import check_header
from embedkit.errors import DataError, nearest

_LARGEST_CARD = 1_000_000  # bytes
_BATCH = 1024  # rows decoded at a time; small because a row may hold an image


def read_parquet(path: Path) -> Iterator[Record]:
    """Rows of a parquet file, numbered from 1; nothing of the file is kept but one batch.

    Raises
    ------
    DataError
        The file is damaged, not parquet, has two columns of one name, or text that is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(path) as handle:
        try:
            file = pq.ParquetFile(handle)
            check_parquet(file.metadata, path)
            check_header(file.schema_arrow.names, str(path))
            yield from _numbered(file.iter_batches(_BATCH), str(path))
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise DataError(
                f"not a readable parquet file ({_first_line(error)})", where=str(path), remedy="write or copy it again"
            ) from error


def check_parquet(metadata: Any, path: Path) -> None:
    """Refuse a decompression bomb by what the file says of itself; larger data than it says cannot be decoded.

    Raises
    ------
    DataError
        It holds more than `MAX_RATIO` bytes or rows for each of its bytes.
    """
    size = path.stat().st_size
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if max(unpacked, metadata.num_rows) > max(FREE, MAX_RATIO * size):
        raise DataError(
            f"holds {metadata.num_rows:,} rows and {unpacked:,} bytes in {size:,}, like a decompression bomb",
            where=str(path), remedy="if that is meant, write it again without compression",
        )  # fmt: skip


def saved_parts(folder: Path, split: str | None) -> list[Part] | None:
    """The tables of a folder written by ``datasets.save_to_disk``, or None when it is not such a folder.

    Raises
    ------
    DataError
        The folder is incomplete, holds several splits and `split` is not given, or has no such split.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
        return saved_parts(folder / choose_split(names, split, str(folder)), None)
    if not (folder / "state.json").is_file():
        return None
    files = _json(folder / "state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(entry, dict) for entry in files):
        raise DataError("state.json names no data files", where=str(folder), remedy="save the data set again")
    parts = []
    for entry in files:
        name = str(entry.get("filename"))
        if Path(name).name != name:
            raise DataError(
                f"state.json names a file outside the folder ({name!r})",
                where=str(folder),
                remedy="save the data set again",
            )
        parts.append(Part(str(folder / name), _arrow_reader(folder / name), folder, folder / name))
    return parts


def hub_part(path: str, name: str | None, split: str | None, revision: str | None) -> Part:
    """Rows of a hub data set (or a local folder with a hub data set's layout), streamed through ``datasets``.

    Raises
    ------
    DataError
        The data set cannot be found or read, or `split` is needed or unknown.
    """

    def records() -> Iterator[Record]:
        import datasets

        remedy = "check the id, the revision and the network, or give the path of a local file"
        check_card(Path(path))
        try:
            splits = datasets.load_dataset(path, name=name, revision=revision, streaming=True)
            names = list(splits)
        except Exception as error:  # the hub client raises errors of several libraries
            raise DataError(f"cannot be loaded ({_first_line(error)})", where=path, remedy=remedy) from error
        rows = splits[choose_split(names, split, path)]
        if rows.features:
            rows = rows.decode(False)  # images stay bytes
        try:
            for number, row in enumerate(rows, 1):
                yield number, dict(row)
        except Exception as error:
            raise DataError(f"cannot be read ({_first_line(error)})", where=path, remedy=remedy) from error

    return Part(path, records, Path(path) if Path(path).is_dir() else None)


def check_card(folder: Path) -> None:
    """Refuse a local copy of a hub data set whose card has its files fetched from elsewhere.

    Raises
    ------
    DataError
        A ``data_files`` or ``data_dir`` of its README.md is an address, or leads out of the folder.
    """
    card = folder / "README.md"
    if not card.is_file():
        return
    text = card.read_bytes()[:_LARGEST_CARD].decode("utf-8", "replace")
    front = text[4:].partition("\n---")[0] if text.startswith("---\n") else ""
    for key, value in _named_files(front, str(card)):
        if "://" in value or Path(value).is_absolute() or ".." in Path(value).parts:
            raise DataError(
                f"{key} names files elsewhere ({value!r})", where=str(card), remedy="name files of this folder only"
            )


def _named_files(front: str, where: str) -> Iterator[tuple[str, str]]:
    """Every text below ``data_files`` or ``data_dir`` in the front matter of a card."""
    import yaml

    try:
        waiting = [("", yaml.safe_load(front))]
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DataError("its front matter is not YAML", where=where, remedy="mend it or remove the file") from error
    seen: set[tuple[int, str]] = set()  # of an alias that holds itself
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str) and key:
            yield key, value
        elif isinstance(value, dict | list) and (id(value), key) not in seen:
            seen.add((id(value), key))
            pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
            waiting += [(str(name) if name in ("data_files", "data_dir") else key, item) for name, item in pairs]


def choose_split(names: list[str], split: str | None, where: str) -> str:
    """The split to read: the one asked for, or the only one; raises `DataError` when that leaves a choice."""
    if split is None and len(names) == 1:
        return names[0]
    if split is None:
        listed = ", ".join(sorted(names)) or "none"
        raise DataError(f"it has the splits {listed}", where=where, remedy="choose one with 'split'")
    if split not in names:
        raise DataError(f"it has no split {split!r}", where=where, remedy=nearest(split, names))
    return split


def _arrow_reader(path: Path) -> Any:
    def records() -> Iterator[Record]:
        import pyarrow as pa

        with open_bytes(path) as handle:
            try:
                with pa.ipc.open_stream(handle) as reader:
                    check_header(reader.schema.names, str(path))
                    yield from _numbered((piece for batch in reader for piece in _pieces(batch)), str(path))
            except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
                raise DataError(
                    f"not a readable arrow file ({_first_line(error)})", where=str(path), remedy="save it again"
                ) from error

    return records


def _pieces(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, _BATCH):
        yield batch.slice(start, _BATCH)


def _numbered(batches: Iterator[Any], where: str) -> Iterator[Record]:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # text that is not UTF-8 and damaged offsets raise here
        for values in batch.to_pylist():
            number += 1
            yield number, values


def seekable(path: Path) -> IO[bytes]:
    """The file itself, or its unpacked content in a temporary file when it is gzipped."""
    handle = open_bytes(path)
    if not isinstance(handle, gzip.GzipFile):
        return handle
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    try:
        with handle:
            while block := handle.read(2**20):
                unpacked.write(block)
                check_unpacked(handle, path, unpacked.tell())
    except DataError:
        unpacked.close()
        raise
    except (OSError, EOFError, zlib.error) as error:
        unpacked.close()
        raise DataError(f"cannot be unpacked ({error})", where=str(path), remedy="compress it again") from error
    unpacked.seek(0)
    return unpacked


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not readable JSON", where=str(path), remedy="save the data set again") from error
    if not isinstance(value, dict):
        raise DataError("not a JSON object", where=str(path), remedy="save the data set again")
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
