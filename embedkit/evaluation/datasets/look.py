"""A user's own data, a file, a folder or a Python object, as what tasks can read of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.data.schema.roles import IMAGE_NAMES, named_role
from embedkit.data.schema.rows import BadRow
from embedkit.data.sources import objects
from embedkit.data.sources.class_names import ClassNumber, names_of_features
from embedkit.data.sources.formats.json_objects import COLLECTION
from embedkit.data.sources.registry import format_of, readers, stem, table_endings
from embedkit.data.sources.splits import split_of_stem
from embedkit.errors import DataError
from embedkit.evaluation.core.suites import NAME_PATTERN
from embedkit.evaluation.datasets.beir import is_collection
from embedkit.evaluation.datasets.image_files import holds_images, image_column, image_rows, read_folder
from embedkit.evaluation.datasets.tables import Table, read_table

Data = Any
"""A path, or rows in memory: a list of dicts, a dict of columns, a data set of `datasets`, a DataFrame, an Arrow table.
"""

_NAME = re.compile(NAME_PATTERN)
_SEARCH = frozenset({"queries", "corpus", "relevant_docs"})
_OF_DATASETS = frozenset({"dataset_dict.json", "dataset_info.json", "state.json"})  # beside the rows of a saved set
"""Keys of an object with all of a search task: the arguments of sentence-transformers' evaluator, and LlamaIndex' file.
"""


@dataclass(frozen=True)
class Look:
    """What own data are: a table, or a folder of documents, queries and judgements.

    ``roles`` are those of the table's columns by their names, role to column.

    Examples
    --------
    >>> Look("faq.csv", Table({"question": ["how?"], "label_name": ["pay"]}, [2], "faq.csv")).roles
    {'anchor': 'question', 'label': 'label_name'}
    """

    source: str
    table: Table | None = None
    collection: Path | None = None

    @property
    def roles(self) -> dict[str, str]:
        """Role -> column, for the columns whose names tell a role; images count as the role ``image``."""
        roles: dict[str, str] = {}
        for column in self.table.columns if self.table is not None else ():
            role = {"label_name": "label"}.get(column) or ("image" if column in IMAGE_NAMES else named_role(column))
            if role is not None:
                roles.setdefault("texts" if role.startswith("text_") else role, column)
        return roles

    def cells(self, role: str) -> list[Any]:
        """The cells of the column with a role; none where there is no such column."""
        return [] if self.table is None or role not in self.roles else self.table.columns[self.roles[role]]


def is_object(data: Data) -> bool:
    """Whether `data` are rows in memory and not a path.

    Examples
    --------
    >>> is_object([{"text": "a cat", "label": "animal"}]), is_object("faq.csv")
    (True, False)
    """
    return not isinstance(data, str | Path) or str(data).startswith(objects.PREFIX)


def name_of(data: Data) -> str:
    """What results on own data are filed under: the name of the file or folder, "data" for rows in memory.

    Examples
    --------
    >>> name_of("folder/my scores.csv.gz")
    'my-scores'
    """
    if is_object(data):
        return "data"
    name = Path(data).absolute().name if Path(data).name in ("", "..") else Path(data).name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem(name)).strip("-._")[:100]
    return name if _NAME.fullmatch(name) and name != "avg" else "data"


def look(data: Data) -> Look:
    """What `data` are, read and ready for a task.

    Raises
    ------
    DataError
        There is nothing, or nothing that can be read.

    Examples
    --------
    >>> look([{"question": "how?", "answer": "so"}]).roles
    {'anchor': 'question', 'positive': 'answer'}
    """
    if isinstance(data, Look):
        return data
    if isinstance(data, Mapping) and set(data) >= _SEARCH:
        return Look("data", _search_table(data, "data"))
    if is_object(data):
        return Look("data", _with_images(rows_in_memory(data)))
    path = Path(data).expanduser()
    if not path.exists():
        raise DataError("no such file or folder", where=str(data), remedy="check the path")
    if path.is_file():
        whole = _json_object(path) if path.suffix.lower() == ".json" else {}
        if set(whole) >= _SEARCH:
            return Look(str(path), _search_table(whole, str(path)))
        return Look(str(path), _with_images(read_table(path)))
    if is_collection(path):
        return Look(str(path), collection=path)
    if holds_images(path):
        columns, numbers = read_folder(path)
        return Look(str(path), Table(columns, numbers, str(path)))
    return Look(str(path), _with_images(_joined(path)))


def _json_object(path: Path) -> Mapping[str, Any]:
    """The JSON object that a file is as a whole; empty for any other content, which `read_table` reads or refuses."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _search_table(data: Mapping[str, Any], source: str) -> Table:
    """Queries with the lists of their relevant documents; documents of no query stand among the first one's negatives,
    which are searched, too.

    Raises
    ------
    DataError
        A part has another form, or an id has no text.
    """
    queries, documents = (_texts_by_id(data, key, source) for key in ("queries", "corpus"))
    relevant = data["relevant_docs"]
    if not isinstance(relevant, Mapping) or any(isinstance(ids, str | Mapping) for ids in relevant.values()):
        raise DataError("relevant_docs is no {query id: [document ids]}", where=source, remedy=COLLECTION)
    judged = {str(query): [str(one) for one in ids] for query, ids in relevant.items() if ids}
    strange = [name for name in judged if name not in queries]
    strange += [name for ids in judged.values() for name in ids if name not in documents]
    if strange or not judged:
        what = (
            f"relevant_docs names {strange[0]!r}, which has no text" if strange else "relevant_docs names no document"
        )
        raise DataError(what, where=source, remedy="check that the ids are the same")
    positives = [[documents[name] for name in ids] for ids in judged.values()]
    answers = {text for texts in positives for text in texts}
    rest = [text for text in documents.values() if text not in answers]
    negatives = [rest, *([] for _ in positives[1:])]
    columns: dict[str, list[Any]] = {
        "query": [queries[name] for name in judged],
        "positive": positives,
        "negatives": negatives,
    }
    return Table(columns, list(range(1, len(judged) + 1)), source)


def _texts_by_id(data: Mapping[str, Any], key: str, source: str) -> dict[str, str]:
    """The texts of ``queries`` or ``corpus`` by their ids; a document may be ``{"title": .., "text": ..}``."""
    part = data[key]
    entries = part.items() if isinstance(part, Mapping) else ()
    texts = {
        str(name): f"{one.get('title') or ''} {one.get('text')}".strip() if isinstance(one, Mapping) else one
        for name, one in entries
    }
    if not texts or not all(isinstance(text, str) for text in texts.values()):
        raise DataError(f"{key} is no {{id: text}}", where=source, remedy=COLLECTION)
    return texts


def _with_images(table: Table) -> Table:
    """A table with images as `image_rows` has it; another one as it is."""
    if image_column(table.columns) is None:
        return table
    rows = [{name: cells[row] for name, cells in table.columns.items()} for row in range(len(table))]
    columns, places = image_rows(rows, list(range(len(table))), table.source)
    sources = [table.sources[place] for place in places] if table.sources else None
    return Table(columns, [table.lines[place] for place in places], table.source, sources)


def _is_table(name: str) -> bool:
    format = format_of(name)
    return format is not None and not readers[format].lanes and name not in _OF_DATASETS


def _joined(folder: Path) -> Table:
    """The tables of a folder as one, with a column ``split`` where the files' names tell it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_table(path.name)]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not files:
        remedy = f"give a file that ends in {', '.join(table_endings())}, or a folder with some"
        raise DataError("no data file in this folder", where=str(folder), remedy=remedy)
    tables = [read_table(path) for path in files]
    if len(tables) == 1:
        return tables[0]
    columns: dict[str, list[Any]] = {}
    names = dict.fromkeys(name for table in tables for name in table.columns)
    for name in names:
        columns[name] = [cell for t in tables for cell in t.columns.get(name, [None] * len(t))]
    # A saved set of splits has a folder for each, whose files are all called data-00000-of-00001.
    by_folder = (folder / "dataset_dict.json").is_file()
    splits = [split_of_stem(path.parent.name if by_folder else path.name.partition(".")[0]) for path in files]
    if "split" not in columns and any(splits):
        if None in splits:
            unnamed = files[splits.index(None)].relative_to(folder)
            what = f"the names of some files tell a split, that of {unnamed} does not"
            raise DataError(what, where=str(folder), remedy="give the file itself, or name it train, dev or test too")
        columns["split"] = [split for split, table in zip(splits, tables, strict=True) for _ in range(len(table))]
    sources = [table.source for table in tables for _ in range(len(table))]
    return Table(columns, [line for table in tables for line in table.lines], str(folder), sources)


def rows_in_memory(data: Data) -> Table:
    """Rows in memory as a table: what `embedkit.data.sources.objects` takes, and data sets by split.

    Raises
    ------
    DataError
        It is something else, or holds no rows.

    Examples
    --------
    >>> len(rows_in_memory({"text": ["a cat", "a dog"]}))
    2
    """
    if isinstance(data, Mapping) and data and all(hasattr(part, "features") for part in data.values()):
        rows = [{**row, "split": split} for split, part in data.items() for row in _class_rows(part)]
    else:
        rows = _rows(data)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(columns, list(range(1, len(rows) + 1)), "data")


def _class_rows(part: Any) -> list[dict[str, Any]]:
    """The rows of a data set, its class numbers with their names, which may be others in another split."""
    rows, names = _rows(part), names_of_features(part.features)
    return [
        row | {column: ClassNumber(row[column], names[column]) for column in names if isinstance(row.get(column), int)}
        for row in rows
    ]


def _rows(data: Data) -> list[dict[str, Any]]:
    """The rows of one object, or of the object whose path a recipe has."""
    path = data if isinstance(data, str) else objects.hold(data)
    try:
        records = [values for _, values in objects.part(path).records()]
    finally:
        if path is not data:
            objects.release(path)
    bad = next((values for values in records if isinstance(values, BadRow)), None)
    if bad is not None:
        raise bad.refused()
    return [dict(values) for values in records if not isinstance(values, BadRow)]
