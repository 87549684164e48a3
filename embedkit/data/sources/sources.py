"""From a path in a recipe to the parts it stands for, and plain reading of rows."""

from __future__ import annotations

import glob
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from embedkit.data.schema.guesses import Guess, Tell
from embedkit.data.schema.rows import BadRow, Part, Record
from embedkit.data.sources import objects
from embedkit.data.sources.formats.parts import NO_OPTIONS, file_part
from embedkit.data.sources.hub import hub_part
from embedkit.data.sources.layouts.tables import choose_files, nothing_here
from embedkit.data.sources.registry import FolderRequest, format_of, layouts, readers
from embedkit.data.sources.remote import ADDRESS, remote_files
from embedkit.errors import DataError, nearest

_log = logging.getLogger(__name__)
_HUB_DATA = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(@([\w.-]+))?/?", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")


def _warn(guess: Guess) -> None:
    _log.warning("%s", guess)


def find_parts(
    path: str,
    format: str = "auto",
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    base_dir: Path | None = None,
    file: str | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
    prefer: str | None = None,
    tell: Tell = _warn,
) -> list[Part]:
    """The parts, one for each file or table, that `path` stands for.

    Parameters
    ----------
    path, format, name, split, revision, file
        The keys of `embedkit.config.recipe.SourceConfig`.
    base_dir : Path, optional
        Where relative paths start.
    options : mapping
        Settings of the format: ``separator``, ``header``.
    prefer : str, optional
        The split to take where there are several and none is asked for.
    tell : callable
        Takes each `Guess`; logged as a warning when not given.

    Raises
    ------
    DataError
        Nothing is there, the format cannot be inferred, or a split must be chosen.

    Examples
    --------
    >>> _ = Path("a-1.csv").write_text("text\\na cat\\n"), Path("a-2.csv").write_text("text\\na dog\\n")
    >>> [list(part.records()) for part in find_parts("a-{1..2}.csv")]
    [[(2, {'text': 'a cat'})], [(2, {'text': 'a dog'})]]
    """
    if format == "builtin" or path.startswith("builtin:"):
        return [_builtin(path.removeprefix("builtin:"))]
    if format == "object" or path.startswith(objects.PREFIX):
        return [objects.part(path)]
    if "::" in path:
        raise DataError("two sources in one path", where=path, remedy="give an entry in data.train for each")
    several = [one for pattern in expand(path) for one in _matches(pattern, base_dir)]
    request = FolderRequest(Path(path), split, prefer, tell, format if format in readers else None, options)
    if several != [path]:
        return [part for one in several for part in find_parts(
            one, format, split=split, base_dir=base_dir, options=options, prefer=prefer, tell=tell)]  # fmt: skip
    on_hub = _HUB_DATA.fullmatch(path)
    if on_hub and format in ("auto", "hub"):
        return [hub_part(on_hub[1], name, split, on_hub[3] or revision, prefer, request.guess)]
    if ADDRESS.match(path):
        return _remote(path, format, request)
    place, kind = _look(path, base_dir)
    if file is not None:
        location = _file_of(path, file, place if kind == "folder" else None, revision)
        return [file_part(location, format, options, tell=tell)]
    if format == "hub":
        return [hub_part(str(place) if kind == "folder" else path, name, split, revision, prefer, request.guess)]
    if kind == "folder":
        return _folder(replace(request, folder=place), format)
    if kind == "nothing" and format == "auto" and _looks_like_hub_id(path, base_dir):
        version = revision or "main"
        tell(Guess(path, f"no file or folder of this name, so a data set of the hub (revision {version})", "format"))
        return [hub_part(path, name, split, revision, prefer, request.guess)]
    if kind == "nothing":
        raise DataError("no such file or folder", where=str(place), remedy="check the path")
    if format == "folder" or format in layouts:
        raise DataError("it is a file, not a folder", where=str(place), remedy="leave 'format' out")
    return [file_part(place, format, options, tell=tell)]


def expand(pattern: str) -> list[str]:
    """The paths that ``a-{000..012}.tar`` or ``{a,b}.tar`` stands for; braces around anything else belong to the name.

    Examples
    --------
    >>> expand("a-{8..10}.tar")
    ['a-8.tar', 'a-9.tar', 'a-10.tar']
    """
    start, end = pattern.find("{"), pattern.find("}")
    if start < 0 or end < start:
        return [pattern]
    inside = pattern[start + 1 : end]
    first, dots, last = inside.partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",") if "," in inside else []
    choices = choices or [pattern[start : end + 1]]
    return [pattern[:start] + choice + rest for choice in choices for rest in expand(pattern[end + 1 :])]


def read_rows(
    path: str | Path,
    format: str = "auto",
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
        A file of any format of `embedkit.data.sources.registry.readers`, also compressed, several as
        ``a-{000..012}.tar`` or ``a-*.csv``, also behind an address (``hf://``, ``s3://``, ``gs://`` ...); a folder of
        files or of images, a ``datasets.save_to_disk`` folder, a hub data set id, or ``builtin:NAME``.
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

    Examples
    --------
    >>> [sorted(row) for row in read_rows("builtin:pairs-train", limit=2)]
    [['anchor', 'positive'], ['anchor', 'positive']]
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
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(path, file, repo_type="dataset", revision=revision))
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        remedy = "check the id, the file name and the network, or download it and give its folder as path"
        raise DataError(f"cannot be downloaded ({reason})", where=f"{path}: {file}", remedy=remedy) from error


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


def _folder(request: FolderRequest, format: str) -> list[Part]:
    """The parts of a folder by the first layout that fits, or by the one that `format` names."""
    is_layout = format in layouts
    candidates = [(layout.rank, name) for name, layout in layouts.items() if not is_layout or name == format]
    if request.format is not None:
        candidates = [(0, "tables")]
    for _, name in sorted(candidates):
        parts = layouts[name].parts(replace(request, tell=_unless(is_layout, request.tell)))
        if parts is not None:
            return parts
    raise nothing_here(request)


def _unless(is_layout: bool, tell: Tell) -> Tell:
    """Takes guesses, but for that of a format which is set."""
    return (lambda guess: None if guess.key == "format" else tell(guess)) if is_layout else tell


def _remote(address: str, format: str, request: FolderRequest) -> list[Part]:
    """The file behind an address, or the files of a folder there, which are chosen as in a local folder."""
    files = dict(remote_files(address))
    if format in ("folder", "hub", *layouts) and format != "tables":
        raise DataError(f"no address is read with format {format!r}", where=address, remedy="leave 'format' out")
    single = len(files) == 1 and PurePosixPath(address).name == next(iter(files))
    names = list(files) if single else choose_files(list(files), request)
    if not names:
        raise nothing_here(replace(request, folder=Path(address)))
    kind = format if format in readers else "auto"
    return [file_part(files[name], kind, request.options, tell=request.tell) for name in names]


def _matches(pattern: str, base_dir: Path | None) -> list[str]:
    """The files that a local pattern means, sorted; the pattern itself where it is none."""
    if ADDRESS.match(pattern) or not any(sign in pattern for sign in "*?"):
        return [pattern]
    place, kind = _look(pattern, base_dir)
    if kind != "nothing":
        return [pattern]
    names = sorted(glob.glob(str(place if base_dir is None else place.absolute()), recursive=True))
    if not names:
        raise DataError("no file fits this pattern", where=pattern, remedy="check the path")
    return names


def _looks_like_hub_id(path: str, base_dir: Path | None) -> bool:
    if format_of(path) or not _HUB_ID.fullmatch(path):
        return False
    return "/" not in path or not ((base_dir or Path()) / path.split("/")[0]).exists()


def _builtin(name: str) -> Part:
    def records() -> Iterator[Record]:
        from embedkit.data.builtin import sentences as builtin

        yield from enumerate((dict(row) for row in builtin.rows(name)), 1)

    return Part(f"builtin:{name}", records)
