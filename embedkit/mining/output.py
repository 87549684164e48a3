"""Rows for the next training run, and the file that holds them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedkit.errors import UserError
from embedkit.mining.settings import MiningSettings
from embedkit.system.disk import writing

_BATCH = 4096


def training_rows(
    anchor: str, positive: str, negatives: Sequence[str], scores: Sequence[float], settings: MiningSettings,
    group: int | str | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of one pair in the form that the settings ask for.

    Parameters
    ----------
    anchor, positive : str
        The pair.
    negatives : sequence of str
        At most ``settings.num_negatives`` texts.
    scores : sequence of float
        That of the positive, then those of the negatives.
    settings : MiningSettings
        The form.
    group : int or str, optional
        The row's group.

    Examples
    --------
    >>> list(training_rows("a", "b", ["c"], [0.9, 0.5], MiningSettings(num_negatives=2)))
    [{'anchor': 'a', 'positive': 'b', 'negative_1': 'c', 'negative_2': None}]
    >>> list(training_rows("a", "b", ["c"], [0.9, 0.5], MiningSettings(one_per_row=True, output_scores=True)))
    [{'anchor': 'a', 'positive': 'b', 'negative': 'c', 'scores': [0.9, 0.5]}]
    """
    head: dict[str, Any] = {"anchor": anchor, "positive": positive}
    tail: dict[str, Any] = {} if group is None else {"group": group}
    figures = [round(score, 6) for score in scores]
    if settings.one_per_row:
        for text, score in zip(negatives, figures[1:], strict=True):
            both = {"scores": [figures[0], score]} if settings.output_scores else {}
            yield {**head, "negative": text, **both, **tail}
        return
    if settings.as_list:
        body: dict[str, Any] = {"negatives": list(negatives)}
    else:
        padding = itertools.chain(negatives, itertools.repeat(None))
        body = {f"negative_{number}": next(padding) for number in range(1, settings.num_negatives + 1)}
    yield {**head, **body, **({"scores": figures} if settings.output_scores else {}), **tail}


def check_output(output: str | Path, overwrite: bool, *sources: Any) -> Path:
    """The absolute path of the output, when it can be written there.

    Raises
    ------
    UserError
        It exists, has another suffix, its folder is missing, or it is one of the sources or lies in one.

    Examples
    --------
    >>> check_output("rows.csv", overwrite=False)
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: .../rows.csv: output has the suffix '.csv'; use .jsonl or .parquet
    """
    target = Path(output).expanduser().absolute()
    if target.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"output has the suffix {target.suffix!r}", where=str(target), remedy="use .jsonl or .parquet")
    if not target.parent.is_dir():
        raise UserError("folder does not exist", where=str(target.parent), remedy="create it")
    if target.is_dir():
        raise UserError("is a folder", where=str(target), remedy="choose another name")
    for source in sources:
        _check_apart(target, source)
    if target.exists() and not overwrite:
        remedy = "choose another name, or add --overwrite (overwrite=True in Python)"
        raise UserError("exists already", where=str(target), remedy=remedy)
    return target


def _check_apart(target: Path, source: Any) -> None:
    """Refuse an output that would replace its source, or be read as a part of it by the next call."""
    if not isinstance(source, str | Path) or not os.path.exists(source):  # an address, or rows in memory
        return
    place, end = Path(source).resolve(), target.resolve()
    if end == place:
        raise UserError("is the file that is read, too", where=str(target), remedy="choose another name")
    if place in end.parents:
        raise UserError(f"lies in the folder that is read, {source}", where=str(target),
                        remedy="choose a place outside of it")  # fmt: skip


def write_rows(target: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as jsonl or parquet, by the suffix, in one step: the file is whole or not there.

    Examples
    --------
    >>> write_rows(Path("rows.jsonl"), [{"anchor": "a", "positive": "b", "negative": "c"}])
    >>> Path("rows.jsonl").read_text()
    '{"anchor": "a", "positive": "b", "negative": "c"}\\n'
    """
    with writing(target, "the rows") as file:
        if target.suffix == ".jsonl":
            for row in rows:
                file.write(_line(row))
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema(rows, target)
        with pq.ParquetWriter(file, schema) as writer:
            for start in range(0, len(rows), _BATCH):
                batch = [_cells(row) for row in rows[start : start + _BATCH]]
                try:
                    table = pa.Table.from_pylist(batch, schema=schema)
                except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                    raise _mixture(str(error), target) from error
                writer.write_table(table)


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON; half a surrogate pair, which UTF-8 has not, stays escaped."""
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode("ascii")


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its group as text: in a file of columns they are of one type."""
    return {name: str(cell) if name == "group" and cell is not None else cell for name, cell in row.items()}


def _schema(rows: Sequence[Mapping[str, Any]], target: Path) -> Any:
    """The columns of all rows; text where a column has no value at all."""
    import pyarrow as pa

    kinds = {"negatives": pa.list_(pa.string()), "scores": pa.list_(pa.float64()), "group": pa.string()}
    fields = []
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            kind = kinds.get(name) or pa.infer_type([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise _mixture(f"{name}: {error}", target) from error
        fields.append((name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


def _mixture(reason: str, target: Path) -> UserError:
    """The error for a column of several kinds."""
    first = (reason.splitlines() or [""])[0]
    return UserError(f"a column holds several kinds of cells ({first})", where=str(target),
                     remedy="write a .jsonl file")  # fmt: skip
