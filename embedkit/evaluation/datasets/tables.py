"""Tables of evaluation data: local files, a local copy of a hub repository, or the hub itself.

A table remembers where each of its rows stands, so that a bad cell is named by file and row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.data.schema.parsers import is_blank, read_score
from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.class_names import class_names, named_cells
from embedkit.data.sources.files import text_lines
from embedkit.data.sources.formats.parts import file_part
from embedkit.data.sources.hub import check_card, hub_client_quiet
from embedkit.data.sources.registry import endings, file_named, readers
from embedkit.data.vectors.arrays import whole_part
from embedkit.errors import DataError, nearest
from embedkit.evaluation.core.inputs import EncodedImage, EncodedVector
from embedkit.evaluation.core.suites import HubSource, TaskConfig
from embedkit.evaluation.datasets.image_files import holds_images, image_content, read_folder
from embedkit.evaluation.datasets.splits import choose

_FIX = "fix or remove the row"


@dataclass
class Table:
    """Columns of equal length and the place of each row.

    Attributes
    ----------
    columns : dict of str to list
        Cells by column; text for csv and tsv, the stored type for jsonl, parquet and the hub.
    lines : list of int
        Line (text files, the header is line 1) or row number (others, from 1) of each row.
    source : str
        File or hub id, or several, used in messages and in the report.
    sources : list of str, optional
        That of each row, where they are not from one.

    Examples
    --------
    >>> table = Table({"text": ["a  cat", ""], "score": ["1", "0.5"]}, [2, 3], "pets.csv")
    >>> table.numbers("score"), table.take([0]).texts("text")
    ([1.0, 0.5], ['a cat'])
    >>> table.texts("text")
    Traceback (most recent call last):
        ...
    embedkit.errors.DataError: pets.csv:3: column 'text' is empty; fix or remove the row
    """

    columns: dict[str, list[Any]]
    lines: list[int]
    source: str
    sources: list[str] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """``file:line`` of a row."""
        return f"{self.sources[row] if self.sources else self.source}:{self.lines[row]}"

    def require(self, *names: str) -> None:
        """Raise DataError unless every column of `names` is there."""
        for name in names:
            if name not in self.columns:
                there = ", ".join(map(repr, self.columns))
                raise DataError(f"there is no column {name!r}", where=self.source, remedy=f"its columns are {there}")

    def texts(self, name: str) -> list[str]:
        """A column of text with runs of white space made one blank; an empty or missing cell is refused."""
        self.require(name)
        values_read = []
        for row, cell in enumerate(self.columns[name]):
            text = " ".join(cell.split()) if isinstance(cell, str) and not is_blank(cell) else ""
            if not text:
                problem = "is empty" if cell is None or isinstance(cell, str) else f"is {type(cell).__name__}, not text"
                remedy = (
                    "name a column of texts"
                    if isinstance(cell, list | tuple | dict) or hasattr(cell, "shape")
                    else _FIX
                )
                raise DataError(f"column {name!r} {problem}", where=self.place(row), remedy=remedy)
            values_read.append(text)
        return values_read

    def numbers(self, name: str) -> list[float]:
        """A column of finite numbers; anything else is refused."""
        self.require(name)
        values_read = []
        for row, cell in enumerate(self.columns[name]):
            try:
                values_read.append(read_score(cell))
            except BadRow as bad:
                what = f"column {name!r} holds {cell!r}, not a finite number"
                raise DataError(what, where=self.place(row), remedy=_FIX) from bad
        return values_read

    def images(self, name: str) -> list[EncodedImage]:
        """A column of image files as bytes, as the hub's ``{"bytes": ..}``, or as paths relative to the table; anything
        else is refused."""
        self.require(name)
        place = Path(self.source)
        folder = place if place.is_dir() else place.parent
        values_read = []
        for row, cell in enumerate(self.columns[name]):
            content = image_content(cell, folder)
            if content is None:
                problem = f"no image file {cell!r}" if isinstance(cell, str) else f"{type(cell).__name__}, not an image"
                raise DataError(f"column {name!r} holds {problem}", where=self.place(row), remedy=_FIX)
            values_read.append(EncodedImage(content, self.place(row)))
        return values_read

    def lists(self, name: str, *, empty: bool = False) -> list[list[str]]:
        """A column whose cells are lists of texts, a text alone being a list of one; an empty list is refused unless
        `empty` is given."""
        self.require(name)
        lists = []
        for row, cell in enumerate(self.columns[name]):
            if isinstance(cell, str) or cell is None:
                cell = [cell] if cell and not is_blank(cell) else []
            if not isinstance(cell, list) or not all(isinstance(text, str) and text.strip() for text in cell):
                what = f"column {name!r} does not hold a list of texts"
                raise DataError(what, where=self.place(row), remedy=_FIX)
            if not cell and not empty:
                raise DataError(f"column {name!r} holds an empty list", where=self.place(row), remedy=_FIX)
            lists.append([" ".join(text.split()) for text in cell])
        return lists

    def exploded(self) -> Table:
        """One row whose cells are all lists, as MTEB stores some tasks, as the table of their items."""
        cells = [column[0] for column in self.columns.values()] if len(self) == 1 else []
        if not cells or not all(isinstance(cell, list) for cell in cells):
            return self
        sizes = {len(cell) for cell in cells}
        if len(sizes) > 1:
            raise DataError("lists of different length in one row", where=self.place(0), remedy=_FIX)
        columns = {name: column[0] for name, column in self.columns.items()}
        return Table(columns, list(range(1, sizes.pop() + 1)), self.source)

    def take(self, rows: Sequence[int]) -> Table:
        """The table of some rows, in the order given."""
        columns = {name: [cells[i] for i in rows] for name, cells in self.columns.items()}
        sources = [self.sources[i] for i in rows] if self.sources else None
        return Table(columns, [self.lines[i] for i in rows], self.source, sources)

    def renamed(self, names: dict[str, str]) -> Table:
        """The table with columns renamed where the new name is still free."""
        columns = {names.get(n, n) if names.get(n) not in self.columns else n: c for n, c in self.columns.items()}
        return Table(columns, self.lines, self.source, self.sources)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, also gzipped, without their ends; a byte order mark is skipped.

    Raises
    ------
    DataError
        The file is missing, empty, damaged, or not UTF-8; the line is named.

    Examples
    --------
    >>> _ = Path("faq.txt").write_text("How do I pay?\\nWhere?\\n")
    >>> list(read_lines(Path("faq.txt")))
    [(1, 'How do I pay?'), (2, 'Where?')]
    """
    for number, line in text_lines(path):
        if isinstance(line, BadRow):
            raise line.refused()
        yield number, line.rstrip("\r\n")


def _sound(records: Iterable[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered records; the first bad one is raised."""
    for number, values in records:
        if isinstance(values, BadRow):
            raise values.refused()
        yield number, values


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a file with one JSON object a line; anything else is refused by line.

    Examples
    --------
    >>> _ = Path("faq.jsonl").write_text('{"query": "How do I pay?", "positive": "By card."}')
    >>> list(read_jsonl(Path("faq.jsonl")))
    [(1, {'query': 'How do I pay?', 'positive': 'By card.'})]
    """
    return _sound(readers["jsonl"].read(path))


def _read(path: Path, records: Iterable[Record]) -> Table:
    """All records of a file; a record without a column has None there."""
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    for number, values in _sound(records):
        for name in values:
            if name not in columns:
                columns[name] = [None] * len(lines)
        for name, cells in columns.items():
            cells.append(values.get(name))
        lines.append(number)
    return Table(columns, lines, str(path))


def read_table(path: Path) -> Table:
    """A file of any format of `embedkit.data.sources.registry`, or a folder of images, as a table.

    Examples
    --------
    >>> _ = Path("faq.csv").write_text("query,positive\\nHow do I pay?,By card.\\n")
    >>> table = read_table(Path("faq.csv"))
    >>> table.columns, table.place(0)
    ({'query': ['How do I pay?'], 'positive': ['By card.']}, 'faq.csv:2')
    """
    if path.is_dir():
        columns, numbers = read_folder(path)
        return Table(columns, numbers, str(path))
    table = _read(path, whole_part(file_part(path)).records())
    if not len(table):
        raise DataError("no rows", where=str(path), remedy="check that the file is complete")
    table.columns = named_cells(table.columns, class_names(path))
    return table


def read_hub(hub: HubSource, split: str, folder: Path | None = None) -> Table:
    """A split of a hub data set, or of a local copy of its repository in `folder`, with the columns renamed.

    Raises
    ------
    DataError
        It cannot be reached or read, or has no such split.

    Examples
    --------
    >>> Path("pets").mkdir()
    >>> _ = Path("pets/test.csv").write_text("text1,label\\na cat,1\\n")
    >>> read_hub(HubSource(path="me/pets", columns={"text1": "text"}), "test", Path("pets")).columns
    {'text': ['a cat'], 'label': [1]}
    """
    import datasets

    path = str(folder) if folder is not None else hub.path
    if folder is not None:
        check_card(folder)
    names_in_file = hub.splits.get(split, split)
    tables = []
    for one in [names_in_file] if isinstance(names_in_file, str) else names_in_file:
        try:
            with hub_client_quiet():
                rows = datasets.load_dataset(path, hub.name, split=one, revision=None if folder else hub.revision)
        except Exception as error:  # the library raises many kinds, network ones among them; all are reported
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"cannot load split {one!r} of the data set: {reason}",
                where=path,
                remedy="check the network, or give a folder of local files: --data, in a recipe evaluation.data "
                "(evaluation=null trains without scores)",
            ) from error
        tables.append(Table(plain_rows(rows), list(range(1, len(rows) + 1)), f"{path} [{one}]"))
    return concatenate(tables).renamed(hub.columns)


def plain_rows(rows: Any) -> dict[str, list[Any]]:
    """Columns of a data set of `datasets`; images stay the bytes of their files, to be decoded when encoded.

    Examples
    --------
    >>> import datasets
    >>> plain_rows(datasets.Dataset.from_dict({"text": ["a cat", "a dog"]}))
    {'text': ['a cat', 'a dog']}
    """
    import datasets

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    columns: dict[str, list[Any]] = rows.to_dict()
    return columns


def concatenate(tables: Sequence[Table]) -> Table:
    """Tables one after the other; only the columns that all of them have are kept.

    Examples
    --------
    >>> pair = [Table({"text": ["a cat"], "id": [7]}, [2], "a.csv"), Table({"text": ["a dog"]}, [5], "b.csv")]
    >>> both = concatenate(pair)
    >>> both.columns, both.place(1)
    ({'text': ['a cat', 'a dog']}, 'b.csv:5')
    """
    if len(tables) == 1:
        return tables[0]
    names = [n for n in tables[0].columns if all(n in t.columns for t in tables)]
    columns = {n: [cell for t in tables for cell in t.columns[n]] for n in names}
    sources = [source for t in tables for source in t.sources or [t.source] * len(t)]
    title = ", ".join(dict.fromkeys(t.source for t in tables))
    return Table(columns, [line for t in tables for line in t.lines], title, sources)


def find_file(data: Path, name: str, folder: str | None = None) -> Path | None:
    """``data/NAME.*`` or ``data/FOLDER/NAME.*`` with a known ending, or the folder of images NAME (``.``: `data`); None
    where there is none.

    Examples
    --------
    >>> Path("sts").mkdir()
    >>> Path("sts/stsb.tsv").touch()
    >>> find_file(Path("."), "stsb", "sts").as_posix(), find_file(Path("."), "sts12", "sts")
    ('sts/stsb.tsv', None)
    """
    for base in [data, *([data / folder] if folder else [])]:
        path = file_named(base, name)
        if path is not None:
            return path
        if (base / name).is_dir() and holds_images(base / name):
            return base / name
    return None


def _find_copy(data: Path, hub: HubSource) -> Path | None:
    for path in (data / hub.path, data / hub.path.rsplit("/", 1)[-1]):
        if path.is_dir():
            return path
    return None


def _rows_of(table: Table, names_in_file: str | Sequence[str], split: str) -> Table:
    """The rows whose column "split" says so; a file without that column is its own test split."""
    names = [names_in_file] if isinstance(names_in_file, str) else list(names_in_file)
    if "split" not in table.columns:
        if split != "test":
            what = f"no column 'split', so there is no split {split!r}"
            raise DataError(what, where=table.source, remedy="add the column, or score split test")
        return table
    cells = table.columns["split"]
    missing = [name for name in names if name not in set(cells)]
    if missing:
        raise DataError(
            f"no row of split {missing[0]!r}", where=table.source, remedy=nearest(missing[0], set(map(str, cells)))
        )
    order = {name: place for place, name in enumerate(names)}
    rows = [i for i, cell in enumerate(cells) if cell in order]
    return table.take(sorted(rows, key=lambda i: order[cells[i]]))


def _builtin(name: str) -> Table:
    """A set of `embedkit.data.builtin.sentences`."""
    from embedkit.data.builtin import sentences as builtin

    rows = list(builtin.rows(name))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return Table(columns, list(range(1, len(rows) + 1)), f"builtin:{name}")


def own_rows(table: Table, split: str) -> Table:
    """The rows of own data that belong to a split; data without a column ``split`` are one set, scored as a whole.

    Raises
    ------
    DataError
        There is such a column, and no row of this split; those that are there are named.

    Examples
    --------
    >>> table = Table({"text": ["a", "b"], "split": ["train", "validation"]}, [1, 2], "faq.csv")
    >>> own_rows(table, "dev").columns["text"]
    ['b']
    """
    if "split" not in table.columns:
        return table
    names = list(dict.fromkeys(str(cell) for cell in table.columns["split"]))
    matches = choose(split, names)
    if not matches:
        remedy = f"choose one of {', '.join(names)} with --split"
        raise DataError(f"no row of split {split!r}", where=table.source, remedy=remedy)
    return table.take([row for row, cell in enumerate(table.columns["split"]) if str(cell) in matches])


def open_splits(
    task: TaskConfig, data: Path | Table | None, splits: Sequence[str], folder: str | None = None
) -> list[Table]:
    """Several splits of a task, named as the file names them; see `open_table`.

    Examples
    --------
    >>> _ = Path("pets.csv").write_text("text,label,split\\na cat,1,train\\na dog,0,test\\n")
    >>> tables = open_splits(TaskConfig(name="pets", kind="probe"), Path("."), ["train", "test"])
    >>> [table.columns["text"] for table in tables]
    [['a cat'], ['a dog']]
    """
    if isinstance(data, Table):
        return [own_rows(data, split) for split in splits]
    if data is not None and data.is_dir():
        path = find_file(data, task.file or task.name, folder)
        if path is not None:
            table = read_table(path)
            if task.hub is not None:
                table = table.renamed(task.hub.columns)
            return [_rows_of(table, split, split) for split in splits]
    return [open_table(task.model_copy(update={"splits": {s: s}}), data, s, folder) for s in splits]


def open_table(task: TaskConfig, data: Path | Table | None, split: str, folder: str | None = None) -> Table:
    """The rows of `split` of a task: from `data`, a folder or own data's table, where it is given, else from the hub.

    A task whose ``file`` is ``builtin:NAME`` reads the set ``NAME-SPLIT`` that embedkit makes itself.

    Raises
    ------
    DataError
        `data` is not a folder, holds nothing for the task, or the file cannot be used.

    Examples
    --------
    >>> _ = Path("pets.csv").write_text("text,label,split\\na cat,1,train\\na dog,0,test\\n")
    >>> open_table(TaskConfig(name="pets", kind="probe"), Path("."), "test").columns["text"]
    ['a dog']
    """
    name = task.file or task.name
    if isinstance(data, Table):
        return own_rows(data, split)
    if name.startswith("builtin:"):
        in_file = task.splits[split]
        parts = [in_file] if isinstance(in_file, str) else in_file
        return concatenate([_builtin(f"{name.removeprefix('builtin:')}-{one}") for one in parts])
    if data is None:
        if task.hub is None:
            remedy = "name the folder of its files: --data, in recipes evaluation.data"
            raise DataError(f"task {task.name!r} has no data on the hub", remedy=remedy)
        return read_hub(task.hub, split)
    if not data.is_dir():
        remedy = "give the folder that holds the suite's files; for a file of your own leave --suite and --tasks out"
        raise DataError("not a folder", where=str(data), remedy=remedy)
    path = find_file(data, name, folder)
    if path is not None:
        table = read_table(path)
        if task.hub is not None:
            table = table.renamed(task.hub.columns)
        return _rows_of(table, task.splits[split], split)
    copy = _find_copy(data, task.hub) if task.hub is not None else None
    if copy is not None and task.hub is not None:
        return read_hub(task.hub, split, copy)
    raise DataError(
        f"no file for task {task.name!r}", where=str(data), remedy=f"it should be {name} with {', '.join(endings())}"
    )


def all_numbers(cells: Sequence[Any]) -> bool:
    """Whether every cell that is not empty is a finite number, and there is one.

    Examples
    --------
    >>> all_numbers(["0.5", 1, None]), all_numbers(["high"])
    (True, False)
    """
    filled = [cell for cell in cells if cell not in (None, "")]
    try:
        return bool(filled) and all(read_score(cell) is not None for cell in filled)
    except BadRow:
        return False


def of_two_values(cells: Sequence[Any]) -> bool:
    """Whether every cell is 0 or 1, as a number, a text or a truth value.

    Examples
    --------
    >>> of_two_values(["0", 1.0, True]), of_two_values([0, 5])
    (True, False)
    """
    return all_numbers([float(c) if isinstance(c, bool) else c for c in cells]) and {float(c) for c in cells} <= {0, 1}


def content_hash(*columns: Sequence[Any]) -> str:
    """SHA-256 of the rows in use, the same whatever file they came from.

    Examples
    --------
    >>> content_hash(["a cat", "a dog"], [1, 0])[:8], content_hash(["a cat", "a dog"], [0, 1])[:8]
    ('7cbad47f', '357d28c0')
    """
    digest = hashlib.sha256()
    for cells in columns:
        for cell in cells:
            if isinstance(cell, EncodedImage | EncodedVector):
                digest.update(cell.content)
            else:
                digest.update(json.dumps(cell, ensure_ascii=False, default=str).encode())
            digest.update(b"\n")
        digest.update(b"\x00\n")
    return digest.hexdigest()
