"""The data formats and the layouts of folders: the only lists of them. One module adds one, nothing else is touched.

A format is a module of `embedkit.data.sources.formats` that files a `Format` here, a layout one of
`embedkit.data.sources.layouts`. Whoever needs to know what can be read asks this module: the recipe, the folders, the
evaluation, `embedkit encode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.data.schema.guesses import Guess, Tell
from embedkit.errors import DataError, nearest
from embedkit.registry import Registry, not_a

if TYPE_CHECKING:
    from embedkit.data.schema.rows import Part, Record
    from embedkit.data.sources.remote import Location
    from embedkit.data.vectors.column import Piece

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files; the extension before them names the content."""

ORIGINS = ("auto", "folder", "hub", "builtin", "object")
"""What ``format`` can say besides the name of a format or layout: where the rows come from."""


@dataclass(frozen=True)
class Format:
    """A kind of data file.

    Attributes
    ----------
    endings : tuple of str
        Endings of file names, lower case and with their dots; compound ones (``.tar.gz``) count before shorter ones.
    read : callable
        Location -> iterator of `Record`, lazily and in constant memory where the format allows it.
    options : tuple of str
        Settings of a source that `read` takes as keywords.
    compressible : bool
        Whether files with one more of the endings in `PACKED` are of this format too.
    in_folders : bool
        Whether such files are data wherever they lie in a folder; others are, when there are no such files.
    lanes : bool
        Whether it has samples that can be counted and passed over, so that shards are shared by processes.
    guess : callable, optional
        Location -> how a file is read that leaves a choice, and the setting that says otherwise; or None.
    instead : callable, optional
        Location, whether the first line is data -> another format that the content of a file with such an ending calls
        for, with its settings, and how it is read; or None.
    columns : callable, optional
        Location -> name of a column -> its array, for files that can be read by column; those of rows that are no
        numbers may be absent.
    uneven : bool
        Whether these arrays can have different numbers of rows.

    Examples
    --------
    >>> readers["parquet"].endings
    ('.parquet', '.pq')
    """

    endings: tuple[str, ...]
    read: Callable[..., Iterator[Record]]
    options: tuple[str, ...] = ()
    compressible: bool = True
    in_folders: bool = True
    lanes: bool = False
    guess: Callable[[Location], tuple[str, str] | None] | None = None
    instead: Callable[[Location, bool], tuple[str, dict[str, Any], str] | None] | None = None
    columns: Callable[[Location], Mapping[str, Piece]] | None = None
    uneven: bool = False


def _adopt(name: str, part: Any) -> Format:
    """The format of a plug-in."""
    if not isinstance(part, Format):
        raise not_a("data format", part, name, "give an embedkit.data.sources.registry.Format(endings, read)")
    return part


readers: Registry[Format] = Registry(
    "data format", "embedkit.data.sources.formats", plugins="embedkit.readers", adopt=_adopt
)
"""Formats of files by name."""


@dataclass(frozen=True)
class FolderRequest:
    """A folder to read, and how.

    Attributes
    ----------
    folder : Path
        The folder.
    split : str or None
        The split that is asked for.
    prefer : str or None
        The split to take where there are several and none is asked for.
    tell : callable
        Takes each `Guess`.
    format : str or None
        The only format of files that is read.
    options : mapping
        Settings of that format.

    Examples
    --------
    >>> request = FolderRequest(Path("faq"), split=None, prefer="train", tell=print)
    >>> request.guess("only the split train is read", "split")
    faq: only the split train is read (set 'split' to change that)
    """

    folder: Path
    split: str | None
    prefer: str | None
    tell: Tell
    format: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def guess(self, what: str, key: str) -> None:
        """Pass on a guess about how the folder is read."""
        self.tell(Guess(str(self.folder), what, key))


@dataclass(frozen=True)
class Layout:
    """A way in which a folder can be laid out.

    Attributes
    ----------
    rank : int
        Layouts are tried from the smallest rank up.
    parts : callable
        Request -> the parts of the folder, or None when the folder is not laid out so.

    Examples
    --------
    >>> sorted(name for name, layout in layouts.items())
    ['images', 'saved', 'sidecars', 'tables', 'zarr']
    """

    rank: int
    parts: Callable[[FolderRequest], list[Part] | None]


layouts: Registry[Layout] = Registry("folder layout", "embedkit.data.sources.layouts")
"""Layouts of folders by name."""


def ending_table() -> dict[str, tuple[str, Format]]:
    """Ending -> the name of its format, and the format; made once where many names are looked at.

    Examples
    --------
    >>> ending_table()[".ndjson"][0]
    'jsonl'
    """
    return {ending: (name, entry) for name, entry in readers.items() for ending in entry.endings}


def format_of(name: str, table: Mapping[str, tuple[str, Format]] | None = None) -> str | None:
    """The format of a file name by its extension, or None; `table` is that of `ending_table`.

    Examples
    --------
    >>> format_of("a/B.CSV.gz"), format_of("x.tar.gz"), format_of("x.bin")
    ('csv', 'webdataset', None)
    """
    low = name.lower()
    plain = next((low.removesuffix(ending) for ending in PACKED if low.endswith(ending)), None)
    fits = [
        (len(ending), format)
        for ending, (format, entry) in (ending_table() if table is None else table).items()
        if low.endswith(ending) or (plain is not None and entry.compressible and plain.endswith(ending))
    ]
    return max(fits)[1] if fits else None


def endings() -> list[str]:
    """Every extension of a known format, sorted.

    Examples
    --------
    >>> ".feather" in endings() and ".jsonl" in endings()
    True
    """
    return sorted({ending for _, entry in readers.items() for ending in entry.endings})


def table_endings() -> list[str]:
    """The endings of formats that hold a table, sorted.

    Examples
    --------
    >>> ".csv" in table_endings(), ".tar" in table_endings()
    (True, False)
    """
    return sorted({ending for _, entry in readers.items() if not entry.lanes for ending in entry.endings})


def stem(name: str) -> str:
    """A file name without the endings of its format and of its compression.

    Examples
    --------
    >>> stem("my scores.csv.gz"), stem("model.v2")
    ('my scores', 'model.v2')
    """
    if format_of(name) is None:
        return name
    plain = next((name[: -len(ending)] for ending in PACKED if name.lower().endswith(ending)), name)
    fits = [ending for ending in endings() if plain.lower().endswith(ending)]
    return plain[: -len(max(fits, key=len))] if fits else plain


def file_named(folder: Path, name: str) -> Path | None:
    """The first file ``folder/NAME.*`` with an ending of a table's format, also compressed, or None.

    Examples
    --------
    >>> Path("qrels.tsv.gz").touch()
    >>> file_named(Path(), "qrels").name, file_named(Path(), "corpus")
    ('qrels.tsv.gz', None)
    """
    tables = table_endings()
    files = (folder / f"{name}{ending}{packing}" for ending in tables for packing in ("", *PACKED))
    return next((path for path in files if path.is_file()), None)


def named_format(name: str, where: str) -> str:
    """The format of a file name by its extension; raises `DataError` where that implies none.

    Examples
    --------
    >>> named_format("faq.tsv.gz", "data/faq.tsv.gz")
    'tsv'
    >>> named_format("faq.xlsx", "data/faq.xlsx")
    Traceback (most recent call last):
    embedkit.errors.DataError: data/faq.xlsx: cannot infer the format from the extension; set 'format': ...
    """
    format = format_of(name)
    if format is None and name.lower().endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth")):
        raise DataError(
            "a pickle is not read: it can run code", where=where, remedy="write its rows as .jsonl or .parquet"
        )
    if format is None:
        raise DataError(
            "cannot infer the format from the extension", where=where, remedy=f"set 'format': {', '.join(readers)}"
        )
    return format


def formats() -> list[str]:
    """Every value of the setting ``format``, sorted.

    Examples
    --------
    >>> "auto" in formats() and "csv" in formats() and "images" in formats()
    True
    """
    return sorted({*ORIGINS, *readers, *layouts})


def check_format(name: str) -> str:
    """The name itself where it is a value of ``format``; raises ValueError with the nearest one.

    Examples
    --------
    >>> check_format("jsnol")
    Traceback (most recent call last):
    ...
    ValueError: no data format 'jsnol'; did you mean 'jsonl'?
    """
    names = formats()
    if name not in names and name not in readers:  # my.py:MY_FORMAT too
        raise ValueError(f"no data format {name!r}; {nearest(name, names)}")
    return name
