"""From a path in a recipe to the parts it stands for, and plain reading of rows."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from embedkit.data.schema.rows import BadRow, Part, Record
from embedkit.data.sources.image_folders import image_files, image_folder
from embedkit.data.sources.readers import TEXT_READERS
from embedkit.data.sources.shards import expand, read_shard
from embedkit.data.sources.tables import choose_split, hub_part, read_parquet, saved_parts
from embedkit.errors import DataError, nearest

FILE_READERS = {**TEXT_READERS, "parquet": read_parquet, "webdataset": read_shard}
"""Reader of each file format."""

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".tar": "webdataset",
    ".tgz": "webdataset",
}
Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "txt", "webdataset", "folder", "images", "hub", "builtin"]
_log = logging.getLogger(__name__)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|pipe:|file:|data:", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")
_SPLIT = re.compile(r"(train|training|dev|val|valid|validation|eval|test|testing)(?![A-Za-z])", re.IGNORECASE)
_SAME_SPLIT = {"training": "train", "testing": "test", "val": "validation", "valid": "validation", "dev": "validation"}


def find_parts(
    path: str,
    format: str = "auto",
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    base_dir: Path | None = None,
    file: str | None = None,
) -> list[Part]:
    """The files or tables that `path` stands for; the keys are those of `embedkit.recipe.SourceConfig`.

    Raises
    ------
    DataError
        Nothing is there, the format cannot be told, or a split must be chosen.
    """
    if format == "builtin" or path.startswith("builtin:"):
        return [_builtin(path.removeprefix("builtin:"))]
    if _URL.match(path):
        raise DataError(
            "no address is read, only files, folders and data sets of the hub", where=path,
            remedy="download it, and give the path of the file",
        )  # fmt: skip
    shards = expand(path)
    if shards != [path]:
        return [part for one in shards for part in find_parts(one, format, base_dir=base_dir)]
    place, kind = _look(path, base_dir)
    if file is not None:
        return [_file(_file_of(path, file, place if kind == "folder" else None, revision), format)]
    if format == "hub":
        return [hub_part(str(place) if kind == "folder" else path, name, split, revision)]
    if format == "images" and kind == "folder":
        return [image_folder(place)]
    if kind == "folder":
        return _folder(place, split, format)
    if kind == "nothing" and format == "auto" and _looks_like_hub_id(path, base_dir):
        said = "%s: no file or folder of this name, so taken for a data set of the hub (revision %s)"
        _log.warning(said, path, revision or "main")
        return [hub_part(path, name, split, revision)]
    if kind == "nothing":
        raise DataError("no such file or folder", where=str(place), remedy="check the path")
    if format in ("folder", "images"):
        raise DataError("it is a file, not a folder", where=str(place), remedy="leave 'format' out")
    return [_file(place, format)]


def read_rows(
    path: str | Path,
    format: Format = "auto",
    columns: Sequence[str] | None = None,
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of any source as dicts of column -> cell, one after the other in constant memory.

    Parameters
    ----------
    path : str or Path
        A file (csv, tsv, jsonl, parquet, txt, also gzipped), a tar shard of webdataset (several as
        ``a-{000..012}.tar``), a folder of files or of images, a ``datasets.save_to_disk`` folder, a hub data set id, or
        ``builtin:NAME``.
    format : str
        Says what `path` is where its name does not.
    columns : sequence of str, optional
        Keep these columns only; each must be there in every row.
    name, split, revision : str, optional
        Configuration, split and revision of a hub data set; `split` also chooses among a folder's splits.
    limit : int, optional
        Rows read at most.

    Yields
    ------
    dict
        Column -> cell. Cells of csv, tsv and txt (column ``text``) are text, never guessed to be anything else.

    Raises
    ------
    DataError
        At the first thing that cannot be read, naming file, row and remedy.
    """
    parts = find_parts(str(path), format, name=name, split=split, revision=revision)
    records = ((part, *record) for part in parts for record in part.records())
    for part, number, values in itertools.islice(records, limit):
        if isinstance(values, BadRow):
            raise values
        yield values if columns is None else _select(values, columns, f"{part.name}:{number}")


def _file_of(path: str, file: str, folder: Path | None, revision: str | None) -> Path:
    """One file of a local folder, or of a hub data set, which is downloaded to the hub's cache."""
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError("it must lie inside the data set", where=f"{path}: {file}", remedy="give a relative path")
    if folder is not None:
        if not (folder / file).is_file():
            raise DataError("no such file in this folder", where=f"{folder}: {file}", remedy="check the name")
        return folder / file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(path, file, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        remedy = "check the id, the file name and the network, or download it and give its folder as path"
        raise DataError(f"cannot be downloaded ({said})", where=f"{path}: {file}", remedy=remedy) from error


def _select(values: dict[str, Any], columns: Sequence[str], where: str) -> dict[str, Any]:
    for column in columns:
        if column not in values:
            raise DataError(f"there is no column {column!r}", where=where, remedy=nearest(column, values))
    return {column: values[column] for column in columns}


def _look(path: str, base_dir: Path | None) -> tuple[Path, Literal["file", "folder", "nothing"]]:
    """The place on disk that a path means, and what is there."""
    try:
        place = (base_dir or Path()) / Path(path).expanduser()
        return place, "folder" if place.is_dir() else "file" if place.exists() else "nothing"
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, no permission, unknown ~user
        raise DataError(f"not a usable path ({error})", where=path[:200], remedy="check the path") from error


def _file(path: Path, format: str) -> Part:
    kind = _format_of(path) if format == "auto" else format
    if kind is None:
        raise DataError(
            "the name does not tell the format",
            where=str(path),
            remedy=f"give 'format': {', '.join(sorted(FILE_READERS))}",
        )
    return Part(str(path), partial(FILE_READERS[kind], path), path.parent, path)


def _format_of(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return _SUFFIXES.get(Path(name).suffix)


def _folder(folder: Path, split: str | None, format: str) -> list[Part]:
    saved = saved_parts(folder, split)
    if saved is not None:
        return saved
    wanted = format if format in FILE_READERS else None
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    files = [path for path in files if (wanted or _format_of(path)) == _format_of(path) and _format_of(path)]
    if not files and wanted is None and image_files(folder):
        return [image_folder(folder / split if split is not None and (folder / split).is_dir() else folder)]
    if not files:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise DataError("no data file in this folder", where=str(folder), remedy=f"put files there that end in {kinds}")
    splits: dict[str, list[Path]] = {}
    for path in files:
        found = _SPLIT.match(path.name) or _SPLIT.fullmatch(path.parent.name if path.parent != folder else "")
        splits.setdefault(_split_name(found[1]) if found else "", []).append(path)
    if split is not None and list(splits) == [""]:
        raise DataError("its file names tell no splits", where=str(folder), remedy="leave 'split' out, use 'where'")
    if split is None and len(splits) == 1:
        return [_file(path, "auto") for path in files]
    chosen = choose_split([key for key in splits if key], split and _split_name(split), str(folder))
    if split is None:
        others = splits[""]
        listed = ", ".join(str(path.relative_to(folder)) for path in others[:3]) + (", ..." if others[3:] else "")
        _log.warning("%s: only the files of split %s are read, not %s", folder, chosen, listed)
    return [_file(path, "auto") for path in splits[chosen]]


def _split_name(text: str) -> str:
    return _SAME_SPLIT.get(text.lower(), text.lower())


def _hidden(path: Path, folder: Path) -> bool:
    return any(piece.startswith((".", "_")) for piece in path.relative_to(folder).parts)


def _looks_like_hub_id(path: str, base_dir: Path | None) -> bool:
    if _format_of(Path(path)) or not _HUB_ID.fullmatch(path):
        return False
    return "/" not in path or not ((base_dir or Path()) / path.split("/")[0]).exists()


def _builtin(name: str) -> Part:
    def records() -> Iterator[Record]:
        from embedkit.data.sources import builtin

        yield from enumerate((dict(row) for row in builtin.rows(name)), 1)

    return Part(f"builtin:{name}", records)
