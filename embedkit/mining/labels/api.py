"""`embedkit.label`: the clusters of rows as a column that the sampler by-label reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.mining.labels.kmeans import Clustering, kmeans
from embedkit.mining.output import check_output
from embedkit.mining.report import short
from embedkit.mining.rows.result import RowsResult, finish
from embedkit.mining.rows.table import RowTable, read_table
from embedkit.mining.rows.vectors import Encoder, VectorSource, check_vectors_of_all, vectors_of
from embedkit.system.disk import writing

_EXAMPLES = 3
_CLUSTERS_SHOWN = 5


@dataclass
class LabelReport:
    """The account of a call of `embedkit.label`.

    Attributes
    ----------
    rows : int
        Rows of the output.
    sizes : list of int
        Rows of each cluster, the largest first, before small ones were dropped.
    dropped, dropped_clusters : int
        Rows left out, and the clusters that they formed, since these had fewer rows than ``min_rows``.
    inertia : float
        Sum of the squared distances of all vectors to the centres of their clusters.
    explained : float
        Share of the variance that the clusters explain: 1 - inertia / (sum of squared distances to the mean).
    steps : int
        Steps of the run that counts.
    converged : bool
        Whether no row changed its cluster in the last one.
    examples : list of dict
        ``label``, ``rows`` and the ``texts`` nearest to the centre, of the largest clusters.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> list(LabelReport(rows=3, sizes=[2, 1], explained=0.5).lines())[1]
    '50.0% of the variance explained; 0 steps, converged'
    """

    rows: int = 0
    sizes: list[int] = field(default_factory=list)
    dropped: int = 0
    dropped_clusters: int = 0
    inertia: float = 0.0
    explained: float = 0.0
    steps: int = 0
    converged: bool = True
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        total = sum(self.sizes)
        yield (
            f"{total:,} rows in {len(self.sizes):,} clusters of {min(self.sizes):,} to {max(self.sizes):,} rows, "
            f"{total / len(self.sizes):,.1f} on average"
        )
        state = "converged" if self.converged else "not converged: more steps would change it"
        yield f"{self.explained:.1%} of the variance explained; {self.steps} steps, {state}"
        if self.dropped:
            yield f"{self.dropped:,} rows of {self.dropped_clusters:,} clusters with too few rows are left out"
        for example in self.examples:
            yield f"label {example['label']}, {example['rows']:,} rows"
            yield from (f"  {short(text)}" for text in example["texts"])


def label(
    data: Any, model: Any = None, *, clusters: int, output: str | Path | None = None, overwrite: bool = False,
    column: str | None = None, image_column: str | None = None, name: str = "label", replace: bool = False,
    min_rows: int = 1, restarts: int = 3, steps: int = 100, spherical: bool = False, seed: int = 0,
    vectors: VectorSource | None = None, centres: str | Path | None = None, split: str | None = None,
    where: Mapping[str, Any] | None = None, limit: int | None = None, prompt: str | None = None,
    truncate_dim: int | None = None, progress: Callable[[int, int], None] | None = None,
    load_options: Mapping[str, Any] | None = None,
) -> RowsResult[LabelReport]:  # fmt: skip
    """The rows with the number of their cluster, 0 for the largest, and a report on the clusters.

    Training with ``data.sampler=by-label`` and ``data.per_label`` as large as the batch then takes each batch from one
    cluster, whose rows are hard negatives of each other: a stage of multistage contrastive learning.

    Parameters
    ----------
    data : str, Path or object
        Whatever `embedkit.train` reads.
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``; not needed where `vectors` are given.
    clusters : int
        How many.
    output : str or Path, optional
        ``.jsonl`` or ``.parquet``.
    overwrite : bool
        Replace an existing output.
    column, image_column : str, optional
        The column of what is encoded: of texts, or of images.
    name : str
        The new column.
    replace : bool
        Put it in the place of one of that name, e.g. of classes that a folder of images gives.
    min_rows : int
        Rows of smaller clusters are left out.
    restarts, steps, spherical, seed
        See `embedkit.mining.labels.kmeans.kmeans`.
    vectors : str, Path or array, optional
        ``.npy`` or an array (N, D): a vector for each row.
    centres : str or Path, optional
        A ``.npy`` file for the centres (k, D) of the clusters.
    split, where, limit : optional
        Which split is read, values that rows must have, and how many rows of it.
    prompt, truncate_dim, load_options : optional
        How the model is loaded and encodes.
    progress : callable, optional
        Gets (texts or steps done, all of them).

    Raises
    ------
    UserError
        A setting is out of range or has no effect; the output exists.
    DataError
        The rows cannot be read, have the column `name` already, or have fewer different vectors than clusters.

    Examples
    --------
    >>> import embedkit
    >>> rows = ["a cat", "two cats", "rain", "snow"]
    >>> vectors = np.array([[1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> [row["label"] for row in embedkit.label(rows, vectors=vectors, clusters=2).rows]
    [0, 0, 1, 1]
    """
    for setting, value in (("clusters", clusters), ("restarts", restarts), ("steps", steps), ("min_rows", min_rows)):
        _check_whole(setting, value, 1)
    _check_whole("seed", seed, 0)
    target = None if output is None else check_output(output, overwrite, data)
    check_vectors_of_all(limit, where, {"vectors": vectors})
    if centres is not None:
        _check_centres(Path(centres), overwrite)
    encoder = Encoder(model, prompt=prompt, dim=truncate_dim, progress=progress, load_options=load_options)
    table = read_table(data, split=split, where=where, limit=limit)
    if name in table.columns and not replace:
        raise DataError(f"it has a column {name!r} already", where=table.name,
                        remedy="name the new column (--name NAME), or put it in its place (--replace)")  # fmt: skip
    rows_vectors, subject = vectors_of(table, encoder, vectors, column, image_column)
    if clusters < 2 or clusters > len(table):
        raise UserError(f"clusters is {clusters:,}, and there are {len(table):,} rows", where="clusters",
                        remedy="give 2 or more, and no more than there are rows")  # fmt: skip
    points = rows_vectors.of(range(len(table)))
    result = kmeans(points, clusters, restarts=restarts, steps=steps, spherical=spherical, seed=seed, progress=progress)
    large = result.sizes >= min_rows
    if not large.any():
        raise UserError(f"no cluster has {min_rows:,} rows; the largest has {result.sizes.max():,}", where="min_rows",
                        remedy="lower it, or lower the number of clusters")  # fmt: skip
    if centres is not None:
        _write_centres(Path(centres), result)
    rows = table.moved(target, image_column)
    rows = [{**row, name: int(one)} for row, one in zip(rows, result.labels, strict=True) if large[one]]
    report = LabelReport(
        rows=len(rows), sizes=result.sizes.tolist(), dropped=len(table) - len(rows),
        dropped_clusters=int((~large).sum()), inertia=result.inertia,
        explained=1 - result.inertia / max(_variance(points), 1e-300), steps=result.steps, converged=result.converged,
        examples=_examples(table, subject, points, result), notes=table.notes,
    )  # fmt: skip
    return finish(rows, report, target)


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{value!r} is no whole number from {least} on", where=name, remedy="give another number")


def _variance(points: Any) -> float:
    """Sum of the squared distances of all vectors to their mean."""
    mean = np.zeros(points.dim)
    squares = 0.0
    for start in range(0, len(points), 8192):
        rows = points.rows(slice(start, start + 8192)).astype(np.float64)
        mean += rows.sum(axis=0)
        squares += float((rows**2).sum())
    return squares - float((mean**2).sum()) / len(points)


def _examples(table: RowTable, column: str, points: Any, result: Clustering) -> list[dict[str, Any]]:
    """The rows nearest to the centres of the largest clusters."""
    examples = []
    for number in range(min(_CLUSTERS_SHOWN, len(result.centres))):
        members = np.flatnonzero(result.labels == number)
        far = np.concatenate([
            ((points.rows(part).astype(np.float64) - result.centres[number]) ** 2).sum(axis=1)
            for part in np.array_split(members, max(1, len(members) // 8192))
        ])  # fmt: skip
        nearest = members[np.argsort(far, kind="stable")[:_EXAMPLES]]
        texts = [short(table.rows[place].get(column, "")) for place in nearest]
        examples.append({"label": number, "rows": len(members), "texts": texts})
    return examples


def _check_centres(path: Path, overwrite: bool) -> None:
    if path.suffix != ".npy":
        raise UserError(f"it has the suffix {path.suffix!r}", where=f"centres {path}", remedy="use .npy")
    if not path.absolute().parent.is_dir():
        raise UserError("folder does not exist", where=str(path.absolute().parent), remedy="create it")
    if path.exists() and not overwrite:
        remedy = "choose another name, or add --overwrite (overwrite=True in Python)"
        raise UserError("exists already", where=str(path), remedy=remedy)


def _write_centres(path: Path, result: Clustering) -> None:
    with writing(path, "the centres of the clusters") as file:
        np.save(file, result.centres.astype(np.float32), allow_pickle=False)
