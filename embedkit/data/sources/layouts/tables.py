"""Folders of data files: every file of a known format, in the order of their names, or those of one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from embedkit.data.schema.rows import Part
from embedkit.data.sources.formats.parts import file_part
from embedkit.data.sources.formats.samples import hidden, visible_files
from embedkit.data.sources.registry import FolderRequest, Layout, ending_table, endings, format_of, layouts, readers
from embedkit.data.sources.splits import choose_split, split_name, split_of_stem
from embedkit.errors import DataError


def data_files(request: FolderRequest) -> list[Part] | None:
    """A part for each data file of a folder, or None where there is none.

    Raises
    ------
    DataError
        Names tell several splits and none is asked for, or there is no such split.

    Examples
    --------
    >>> from pathlib import Path
    >>> Path("faq").mkdir()
    >>> for name in ("train-0.csv", "train-1.csv", "test.csv"):
    ...     _ = Path("faq", name).write_text("question,answer\\n")
    >>> [part.name for part in data_files(FolderRequest(Path("faq"), "train", None, print))]
    ['faq/train-0.csv', 'faq/train-1.csv']
    """
    folder = request.folder
    names = choose_files(visible_files(folder), request)
    as_read = "auto" if request.format is None else request.format
    return [file_part(folder / name, as_read, request.options, tell=request.tell) for name in names] or None


def choose_files(names: Sequence[str], request: FolderRequest) -> list[str]:
    """The files of a folder that are read, of all their relative names, sorted; empty where none is data.

    Examples
    --------
    >>> from pathlib import Path
    >>> request = FolderRequest(Path("faq"), None, "train", print)
    >>> choose_files(["train-0.csv", "train-1.csv", "test.csv", "README.md"], request)
    faq: of its splits test, train only train is read (set 'split' to change that)
    ['train-0.csv', 'train-1.csv']
    """
    table = ending_table()
    visible = [name for name in names if not any(hidden(part) for part in PurePosixPath(name).parts)]
    kinds = {name: kind for name in visible if (kind := format_of(name, table)) is not None}
    if request.format is not None:
        kinds = {name: kind for name, kind in kinds.items() if kind == _kind_of_files(request.format)}
    data = [name for name, kind in kinds.items() if readers[kind].in_folders]
    data = data or [name for name in kinds if not _is_account(name)]
    data = _without_accounts(data, visible, request)
    if not data:
        return []
    splits: dict[str, list[str]] = {}
    for name in data:
        splits.setdefault(_split_of(PurePosixPath(name)) or "", []).append(name)
    if request.split is not None and list(splits) == [""]:
        raise DataError(
            "its file names tell no splits", where=str(request.folder), remedy="leave 'split' out, use 'where'"
        )
    if request.split is None and len(splits) < 2:
        return data
    words = [name for name in splits if name]
    split = choose_split(words, request.split, str(request.folder), request.prefer, request.guess)
    others = splits.get("", [])
    if request.split is None and others:
        other_names = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        request.guess(f"only the files of split {split} are read, not {other_names}", "split")
    return splits[split]


def _kind_of_files(format: str) -> str:
    """The format whose endings the files of a format have: one without endings reads text files."""
    return format if readers[format].endings else "txt"


def nothing_here(request: FolderRequest) -> DataError:
    """The error for a folder that no layout fits.

    Examples
    --------
    >>> from pathlib import Path
    >>> print(nothing_here(FolderRequest(Path("docs"), None, None, print)))
    docs: no data file in this folder; put files there that end in .arrow, ...
    """
    remedy = f"put files there that end in {', '.join(endings())}"
    return DataError("no data file in this folder", where=str(request.folder), remedy=remedy)


def _split_of(name: PurePosixPath) -> str | None:
    """The split that a file's name implies, or else one of its folders."""
    return split_of_stem(name.name) or next(filter(None, map(split_name, reversed(name.parts[:-1]))), None)


def _is_account(name: str) -> bool:
    """Whether a JSON file describes data and holds none, by its name."""
    low = PurePosixPath(name).name.lower()
    return low.endswith(("_stats.json", "_info.json", "_infos.json", "config.json", "state.json"))


def _without_accounts(names: list[str], visible: Sequence[str], request: FolderRequest) -> list[str]:
    """Without the table ``X.parquet`` that img2dataset writes beside ``X.tar``: addresses and results, no samples."""
    shards = {name.removesuffix(".tar") for name in visible if name.endswith(".tar")}
    beside = [name for name in names if not name.endswith(".tar") and name.rpartition(".")[0] in shards]
    if beside:
        request.guess(f"{beside[0]} and its like lie beside shards of the same name and are not read", "format")
    return [name for name in names if name not in beside]


layouts.add("tables")(Layout(20, data_files))
