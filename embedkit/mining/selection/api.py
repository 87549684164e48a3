"""`embedkit.select` and `embedkit.dedup`: rows chosen by criteria, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.mining.output import check_output
from embedkit.mining.report import short
from embedkit.mining.rows.result import RowsResult, finish, spread
from embedkit.mining.rows.table import read_table
from embedkit.mining.rows.vectors import Encoder, VectorSource, check_vectors_of_all
from embedkit.mining.selection.base import Context, Criterion, Outcome

_EXAMPLES = 3

Entry = str | Mapping[str, Any]


@dataclass
class SelectionReport:
    """The account of a call of `embedkit.select`.

    Attributes
    ----------
    records, rows : int
        Rows of the source, and rows of the output.
    steps : list of dict
        Of each criterion ``criterion``, ``before``, ``after``, ``details``, and ``examples``: rows that it left out,
        each with ``text``, ``score`` and ``like``, the text that stays in its place.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> step = {"criterion": "equal-text", "before": 3, "after": 2, "details": {}, "examples": []}
    >>> list(SelectionReport(records=3, rows=2, steps=[step]).lines())
    ['3 rows read, 2 selected', 'equal-text left out 1 of 3']
    """

    records: int = 0
    rows: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        yield f"{self.records:,} rows read, {self.rows:,} selected"
        for step in self.steps:
            details = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in step["details"].items())
            left_out = step["before"] - step["after"]
            yield f"{step['criterion']} left out {left_out:,} of {step['before']:,}" + (
                f": {details}" if details else ""
            )
            for one in step["examples"]:
                score = "" if one["score"] is None else f"{one['score']:.3f}  "
                like = "" if one["like"] is None else f"  ~  {short(one['like'], 60)}"
                yield f"  {score}{short(one['text'], 60 if like else 100)}{like}"


def _figure(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def select(
    data: Any, criteria: Entry | Sequence[Entry], model: Any = None, *, output: str | Path | None = None,
    overwrite: bool = False, column: str | None = None, image_column: str | None = None,
    vectors: VectorSource | None = None, image_vectors: VectorSource | None = None, split: str | None = None,
    where: Mapping[str, Any] | None = None, limit: int | None = None, prompt: str | None = None,
    truncate_dim: int | None = None, progress: Callable[[int, int], None] | None = None,
    load_options: Mapping[str, Any] | None = None,
) -> RowsResult[SelectionReport]:  # fmt: skip
    """The rows that pass all criteria, in the order of the file, and a report on what each of them left out.

    Parameters
    ----------
    data : str, Path or object
        Whatever `embedkit.train` reads.
    criteria : str, mapping, or sequence of them
        In the order in which they are applied, each to what the one before has left: ``"near-duplicates=0.95"``,
        ``"length={least: 10, unit: words}"`` or ``{"name": "length", "least": 10}``.
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``, for criteria on vectors where none are given. Rows that earlier
        criteria left out are not encoded.
    output : str or Path, optional
        ``.jsonl`` or ``.parquet``.
    overwrite : bool
        Replace an existing output.
    column, image_column : str, optional
        The columns of texts and images.
    vectors, image_vectors : str, Path or array, optional
        ``.npy`` or arrays (N, D): a vector for each row, and for its image.
    split, where, limit : optional
        Which split is read, values that rows must have, and how many rows of it.
    prompt, truncate_dim, load_options : optional
        How the model is loaded and encodes.
    progress : callable, optional
        Gets (texts done, texts in all).

    Raises
    ------
    UserError
        A criterion or setting is unknown, out of range, or has no effect; the output exists.
    DataError
        The rows or vectors cannot be used, or no row is left.

    Examples
    --------
    >>> import embedkit
    >>> result = embedkit.select(["a cat", "A cat.", "a", "a dog"], ["equal-text", "length=3"])
    >>> [row["text"] for row in result.rows], result.report.steps[1]["details"]
    (['a cat', 'a dog'], {'short': 1, 'long': 0})
    """
    entries = [criteria] if isinstance(criteria, str | Mapping) else list(criteria)
    if not entries:
        raise UserError("there is no criterion", where="criteria", remedy="give near-duplicates=0.95, for example")
    rules = [Criterion.of(entry) for entry in entries]
    target = None if output is None else check_output(output, overwrite, data)
    check_vectors_of_all(limit, where, {"vectors": vectors, "image_vectors": image_vectors})
    encoder = Encoder(model, prompt=prompt, dim=truncate_dim, progress=progress, load_options=load_options)
    table = read_table(data, split=split, where=where, limit=limit)
    context = Context(table, encoder, column, image_column, vectors, image_vectors)
    report = SelectionReport(records=len(table))
    places = np.arange(len(table))
    for one in rules:
        outcome = one(context, places)
        report.steps.append(_step(context, one, len(places), outcome))
        places = outcome.places
        if not len(places):
            raise DataError(f"{one} leaves no row of {report.steps[-1]['before']:,}", where=table.name,
                            remedy="loosen it, or leave it out")  # fmt: skip
    for name in context.unread():
        table.note(f"no criterion read vectors, so that {name} had no effect")
    rows = table.moved(target, image_column)
    report.rows, report.notes = len(places), table.notes
    return finish([rows[place] for place in places], report, target)


def dedup(
    data: Any, model: Any = None, *, threshold: float | None = None, form: str = "letters", keep: str = "first",
    groups: str | None = None, vectors: VectorSource | None = None, **options: Any,
) -> RowsResult[SelectionReport]:  # fmt: skip
    """The rows without duplicates: `select` by equal-text, and with a model or vectors also by near-duplicates.

    Parameters
    ----------
    data, model, vectors
        See `select`.
    threshold : float, optional
        Cosine from which on two rows are near-duplicates; 0.95 when None.
    form, keep, groups : str
        See the criteria `equal-text` and `near-duplicates`.
    **options
        The other arguments of `select`.

    Examples
    --------
    >>> import embedkit
    >>> [row["text"] for row in embedkit.dedup(["a cat", "A  cat.", "a dog"]).rows]
    ['a cat', 'a dog']
    """
    steps: list[Entry] = [{"name": "equal-text", "form": form, "keep": keep}]
    near = {"threshold": threshold, "groups": groups}
    near = {name: value for name, value in near.items() if value is not None}
    if model is not None or vectors is not None:
        steps.append({"name": "near-duplicates", "keep": keep, **near})
    elif near:
        raise UserError("it is for near-duplicates, which need a model or vectors", where=next(iter(near)),
                        remedy="give a model, or leave it out")  # fmt: skip
    return select(data, steps, model, vectors=vectors, **options)


def _step(context: Context, criterion: Criterion, before: int, outcome: Outcome) -> dict[str, Any]:
    """What a criterion did, for the report."""
    rows, subject = context.table.rows, context.subject
    examples = [
        {
            "text": short(rows[one.place].get(subject, "")), "score": one.score,
            "like": None if one.like is None else short(rows[one.like].get(subject, "")),
        }
        for one in spread(outcome.examples, _EXAMPLES)
    ]  # fmt: skip
    return {
        "criterion": str(criterion), "before": before, "after": len(outcome.places), "details": outcome.details,
        "examples": examples,
    }  # fmt: skip
