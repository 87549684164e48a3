"""Python objects as sources: tables and lists in memory, and functions that give rows.

`hold` keeps an object for as long as a run reads it and gives the path that stands for it in a recipe: ``object:`` and
a hash of its first rows, so that the recipe of a run stays a page of text, and the same data passed again resumes it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from embedkit.data.schema.rows import Part, Record
from embedkit.data.sources.class_names import ClassNumber, names_of_features
from embedkit.data.sources.formats.arrow import BATCH, decoded, is_json, numbered
from embedkit.data.sources.formats.json_objects import COLLECTION
from embedkit.errors import DataError

PREFIX = "object:"
"""How the path of an object begins."""

FIRST = 1000
"""Rows that are hashed for the path; a run checks the content of all rows besides."""

Rows = Callable[[], Iterator[dict[str, Any]]]
"""Starts reading rows from the first one."""

_objects: dict[str, Rows] = {}


def hold(data: Any) -> str:
    """The path of an object for ``data.train`` and ``evaluation.data``; the object is kept until `release`.

    Parameters
    ----------
    data : object
        A ``datasets.Dataset`` or ``IterableDataset``, a DataFrame or Series of pandas or polars, an Arrow table or
        array, a list of dicts or of texts, a dict of columns, or a function without arguments that gives an iterable
        of dicts or texts, anew at each call.

    Raises
    ------
    DataError
        It is something else, empty, or can be read only once.

    Examples
    --------
    >>> path = hold([{"anchor": "a", "positive": "b"}])
    >>> list(part(path).records())
    [(1, {'anchor': 'a', 'positive': 'b'})]
    >>> release(path)
    """
    kind, rows = _rows_of(data)
    first = list(itertools.islice(rows(), FIRST))
    if not first:
        raise DataError("it has no rows", where=f"data ({kind})", remedy="pass at least one row")
    state = hashlib.blake2b(digest_size=8)
    for row in first:
        state.update(json.dumps(row, sort_keys=True, default=_stand_in).encode("utf-8", "surrogatepass"))
    path = PREFIX + state.hexdigest()
    _objects[path] = rows
    return path


def release(path: str) -> None:
    """Forget an object.

    Examples
    --------
    >>> path = hold([{"anchor": "a cat"}])
    >>> release(path)
    >>> part(path)
    Traceback (most recent call last):
    embedkit.errors.DataError: object:...: the data of this run was a Python object; pass it again: ...
    """
    _objects.pop(path, None)


def part(path: str) -> Part:
    """The part that reads an object which `hold` keeps.

    Raises
    ------
    DataError
        No object of this path is held: the run was started elsewhere, with data that stood in memory.

    Examples
    --------
    >>> path = hold(["a cat", "a dog"])
    >>> list(part(path).records())
    [(1, {'text': 'a cat'}), (2, {'text': 'a dog'})]
    >>> release(path)
    """
    if path not in _objects:
        raise DataError(
            "the data of this run was a Python object", where=path,
            remedy="pass it again: embedkit.train(..., data=...), or save it as a file and give its path",
        )  # fmt: skip

    def records() -> Iterator[Record]:
        yield from enumerate(_objects[path](), 1)

    return Part(path, records, token=path)


def _rows_of(data: Any) -> tuple[str, Rows]:
    """What kind of object it is, and its rows."""
    names = [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(data).__mro__]
    for name in names:
        if name in _KINDS:
            return name.rpartition(".")[2].lower(), _KINDS[name](data)
    if callable(data):
        return "function", _of_function(data)
    once = isinstance(data, Iterator)
    remedy = "pass the function that makes it" if once else "pass a table, a list of dicts or a path"
    what = "it can be read only once" if once else "no kind of data that is known"
    raise DataError(what, where=f"data ({type(data).__name__})", remedy=remedy)


def _row(value: Any, number: int, kind: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, Mapping):
        raise DataError(f"row {number} is {type(value).__name__}, not a dict or a text", where=f"data ({kind})",
                        remedy='pass rows like {"anchor": ..., "positive": ...}')  # fmt: skip
    return {str(name): _plain(cell) for name, cell in value.items()}


def _plain(cell: Any) -> Any:
    """A cell without NumPy, NaN and picture objects: what a file would give."""
    if isinstance(cell, str | bytes | int | None):
        return cell
    if isinstance(cell, float):
        return None if cell != cell else cell
    if hasattr(cell, "tolist"):  # NumPy scalars and arrays
        return _plain(cell.tolist())
    if isinstance(cell, Mapping):
        return {name: _plain(value) for name, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [_plain(value) for value in cell]
    if type(cell).__module__.partition(".")[0] == "PIL":
        buffer = io.BytesIO()
        cell.save(buffer, "PNG")
        return buffer.getvalue()
    return None if type(cell).__name__ in ("NAType", "NaTType") else cell


def _stand_in(value: Any) -> str:
    content = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _of_list(data: Iterable[Any]) -> Rows:
    return lambda: (_row(value, number, "list") for number, value in enumerate(data, 1))


def _of_dict(data: Mapping[str, Any]) -> Rows:
    sizes = {len(cells) if isinstance(cells, list | tuple) else -1 for cells in data.values()}
    if len(sizes) != 1 or -1 in sizes:
        remedy = COLLECTION if {"queries", "corpus"} <= set(data) else "pass {column: list of cells}, or a list of rows"
        raise DataError("a dict that is no table of equally long columns", where="data (dict)", remedy=remedy)
    rows = [dict(zip(data, cells, strict=True)) for cells in zip(*data.values(), strict=True)]
    return _of_list(rows)


def _of_frame(data: Any) -> Rows:
    names = [str(name) for name in data.columns]

    def rows() -> Iterator[dict[str, Any]]:
        for number, cells in enumerate(data.itertuples(index=False, name=None), 1):
            yield _row(dict(zip(names, cells, strict=True)), number, "DataFrame")

    return rows


def _of_column(data: Any) -> Rows:
    name = str(getattr(data, "name", None) or "text")
    return lambda: ({name: _plain(cell)} for cell in data.to_list())


def _of_polars(data: Any) -> Rows:
    return lambda: (_row(row, number, "DataFrame") for number, row in enumerate(data.iter_rows(named=True), 1))


def _of_lazy(data: Any) -> Rows:
    raise DataError("a LazyFrame has no rows yet", where="data (LazyFrame)", remedy="pass the result of .collect()")


def _of_table(data: Any) -> Rows:
    return lambda: (row for _, row in numbered(iter(data.to_batches(BATCH)), data.schema))


def _of_batch(data: Any) -> Rows:
    return lambda: (row for _, row in numbered(iter([data]), data.schema))


def _of_array(data: Any) -> Rows:
    return lambda: ({"text": cell} for cell in data.to_pylist())


def _of_dataset(data: Any) -> Rows:
    json_columns = [name for name, feature in data.features.items() if is_json(feature)]
    names = names_of_features(data.features)

    def rows() -> Iterator[dict[str, Any]]:
        for table in data.with_format("arrow").iter(BATCH):
            for row in table.to_pylist():
                row |= {c: ClassNumber(row[c], names[c]) for c in names if isinstance(row[c], int)}
                yield decoded(row, json_columns)

    return rows


def _of_stream(data: Any) -> Rows:
    json_columns = [name for name, feature in (data.features or {}).items() if is_json(feature)]
    plain = data.decode(False) if data.features else data
    return lambda: (decoded(_row(row, number, "IterableDataset"), json_columns) for number, row in enumerate(plain, 1))


def _of_splits(data: Any) -> Rows:
    names = ", ".join(sorted(map(str, data)))
    first = next(iter(data), "train")
    raise DataError(f"it has the splits {names}", where="data (DatasetDict)", remedy=f"pass one: data[{first!r}]")


def _of_function(data: Callable[[], Iterable[Any]]) -> Rows:
    return lambda: (_row(value, number, "function") for number, value in enumerate(data(), 1))


_KINDS: Mapping[str, Callable[[Any], Rows]] = {
    "builtins.list": _of_list,
    "builtins.tuple": _of_list,
    "builtins.dict": _of_dict,
    "pandas.DataFrame": _of_frame,
    "pandas.Series": _of_column,
    "polars.DataFrame": _of_polars,
    "polars.LazyFrame": _of_lazy,
    "polars.Series": _of_column,
    "pyarrow.Table": _of_table,
    "pyarrow.RecordBatch": _of_batch,
    "pyarrow.Array": _of_array,
    "pyarrow.ChunkedArray": _of_array,
    "datasets.Dataset": _of_dataset,
    "datasets.IterableDataset": _of_stream,
    "datasets.DatasetDict": _of_splits,
    "datasets.IterableDatasetDict": _of_splits,
}
"""Kinds of objects by package and class."""
