"""Retrieval between any two named modalities of a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from embedkit.config.settings import Distinct
from embedkit.data.images.pictures import is_image
from embedkit.data.schema.parsers import is_blank
from embedkit.errors import DataError, UserError, nearest
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import TowerItem, item_key
from embedkit.evaluation.core.stats import Array, Samples, unit_rows
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Cutoffs, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.tables import Table, content_hash, open_table
from embedkit.models.combined.multi import MultiEncoder
from embedkit.retrieval.exact import exact_top_k

_OTHERS = frozenset({"id", "_id", "split", "label", "group"})


class ModalitiesSettings(TaskSettings):
    """``cutoffs``: depths k. ``pairs``: pairs of modalities; all of them when not given.

    Examples
    --------
    >>> ModalitiesSettings(cutoffs=(1, 5)).pairs is None
    True
    """

    cutoffs: Cutoffs = (1, 5, 10)
    pairs: Annotated[list[tuple[str, str]], Distinct] | None = None


@TASKS.add("modalities")
class ModalitiesTask(Task):
    """Mean x 100 of the hit rates at every cutoff, of both ways of every pair of modalities.

    Data: a table with a column for each modality, called like the model's tower (or ``columns={COLUMN: TOWER}``), of
    texts, images, vectors or sequences. A row may lack some: it takes part in the pairs that it has. Inputs of equal
    content are one answer. ``A_to_B_hit_rate@k``: share of the inputs of A whose own B is among the first k.

    Examples
    --------
    >>> from embedkit.models import FeatureEncoder
    >>> model = MultiEncoder({"near": FeatureEncoder(width=3), "far": FeatureEncoder(width=3)})
    >>> rows = np.eye(3).tolist()
    >>> table = Table({"near": rows, "far": [*rows[:2], None]}, [1, 2, 3], "rows.jsonl")
    >>> task = ModalitiesTask(TaskConfig(name="rows", kind="modalities"), Opening(table, "test"))
    >>> result = task.score(Embedder(model))
    >>> result.metrics["near_to_far_hit_rate@1"], result.details["near_to_far"]
    (100.0, 2)
    """

    settings_type = ModalitiesSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        self.source, self.rows = table.source, len(table)
        self.items = _items(table, self.settings.columns)
        self.pairs = self._pairs()
        self.expect_rows(self.rows)

    def _pairs(self) -> list[tuple[str, str]]:
        pairs = self.settings.pairs or list(itertools.combinations(self.items, 2))
        for name in itertools.chain.from_iterable(pairs):
            if name not in self.items:
                raise DataError(f"there is no modality {name!r}", where=self.source, remedy=nearest(name, self.items))
        if not pairs:
            listing = ", ".join(map(repr, self.items)) or "none"
            raise DataError(f"retrieval needs two modalities, and its columns are {listing}", where=self.source,
                            remedy="name them with --set 'columns={COLUMN: TOWER}'")  # fmt: skip
        if len({frozenset(pair) for pair in pairs} - {frozenset([name]) for name in self.items}) < len(pairs):
            raise DataError("a pair stands twice, or has one modality alone", where=f"task {self.name}: settings.pairs",
                            remedy="give each pair of two once; both ways are scored")  # fmt: skip
        for one, two in pairs:
            count = len(self.items[one].keys() & self.items[two].keys())
            if count < 2:
                raise DataError(f"{count} rows have both {one!r} and {two!r}", where=self.source,
                                remedy="give two at least, or choose with --set 'pairs=[[A, B]]'")  # fmt: skip
        return pairs

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows, modalities and the hash of all."""
        content = [[name, sorted(rows)] for name, rows in self.items.items()]
        keys = [item_key(item) for rows in self.items.values() for item in rows.values()]
        return {"source": self.source, "rows": self.rows, "modalities": {n: len(r) for n, r in self.items.items()},
                "sha256": content_hash(content, [key.hex() for key in keys])}  # fmt: skip

    def requests(self) -> list[Request]:
        """The inputs of each modality."""
        return [Request(list(rows.values())) for rows in self.items.values()]

    def check_model(self, model: Any) -> None:
        """Refuse a model without a tower for a column."""
        if not isinstance(model, MultiEncoder):
            raise UserError("the model has no named towers", where=f"task {self.name}",
                            remedy="give one of model.kind multi; own-images is for images and texts")  # fmt: skip
        for name in self.items:
            if name not in model.names:
                remedy = f"{nearest(name, model.names)}; or --set 'columns={{COLUMN: TOWER}}'"
                where = f"{self.source} column {name!r}"
                raise UserError(f"the model has no tower {name!r}", where=where, remedy=remedy)

    def score(self, embed: Embedder) -> TaskResult:
        """Hit rates of all pairs both ways, and their mean."""
        self.check_model(embed.model)
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        values, part = np.zeros(self.rows), np.zeros(self.rows, bool)
        for one, two in itertools.chain.from_iterable((pair, pair[::-1]) for pair in self.pairs):
            rows = sorted(self.items[one].keys() & self.items[two].keys())
            hits = self._hits(embed, one, two, rows)
            for cutoff, hit in hits.items():
                metrics[f"{one}_to_{two}_hit_rate@{cutoff}"] = 100 * float(hit.mean())
                values[rows] += hit / len(rows)
            part[rows] = True
            details[f"{one}_to_{two}"] = len(rows)
        value = float(np.mean(list(metrics.values())))
        values *= part.sum() / len(metrics)  # the mean over rows is that over measures
        metrics["mean_hit_rate"] = value
        samples = Samples("mean", {"value": values[part]})
        return TaskResult(self.name, "mean_hit_rate", value, metrics, samples, details=details, notes=list(self.notes))

    def _hits(self, embed: Embedder, one: str, two: str, rows: list[int]) -> dict[int, Array]:
        """Cutoff -> whether each row's own input of the modality `two` is among the nearest."""
        gallery: dict[bytes, TowerItem] = {}
        keys = [item_key(self.items[two][row]) for row in rows]
        for row, key in zip(rows, keys, strict=True):
            gallery.setdefault(key, self.items[two][row])
        places = {key: place for place, key in enumerate(gallery)}
        own = np.array([places[key] for key in keys])
        queries = unit_rows(embed([self.items[one][row] for row in rows]))
        answers = unit_rows(embed(list(gallery.values())))
        depth = min(max(self.settings.cutoffs), len(gallery))
        _, nearest_places = exact_top_k(queries, [(0, answers)], depth, len(gallery))
        right = nearest_places == own[:, None]
        return {cutoff: right[:, :cutoff].any(axis=1) for cutoff in self.settings.cutoffs}


def _items(table: Table, columns: Mapping[str, str]) -> dict[str, dict[int, TowerItem]]:
    """Modality -> row -> its input, in the rows that have one."""
    for column in columns:
        if column not in table.columns:
            raise DataError(f"there is no column {column!r}", where=table.source, remedy=nearest(column, table.columns))
    names = columns or {name: name for name in table.columns if name not in _OTHERS}
    if len(set(names.values())) < len(names):
        raise DataError("two columns are one modality", where=table.source, remedy="name one with --set "
                        "'columns={COLUMN: TOWER}'")  # fmt: skip
    result: dict[str, dict[int, TowerItem]] = {}
    for column, name in names.items():
        rows = [row for row, cell in enumerate(table.columns[column]) if not _is_empty(cell)]
        if not rows:
            raise DataError(f"no row has the modality {name!r}", where=f"{table.source} column {column!r}",
                            remedy="leave the column out with --set 'columns={COLUMN: TOWER}'")  # fmt: skip
        some = table.take(rows)
        try:
            inputs = some.images(column) if _is_picture(some.columns[column][0]) else inputs_of(some, column)
        except DataError as error:
            if not columns:  # one that is no modality, such as a number of a class
                error.add("or name the columns that are modalities with --set 'columns={COLUMN: TOWER}'")
            raise
        result[name] = {row: TowerItem(item, name) for row, item in zip(rows, inputs, strict=True)}
    return result


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and is_blank(cell))


def _is_picture(cell: Any) -> bool:
    return isinstance(cell, bytes | dict) or (isinstance(cell, str) and is_image(cell))
