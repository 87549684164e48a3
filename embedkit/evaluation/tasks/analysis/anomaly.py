"""Anomalies by the distance to the nearest normal rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from embedkit.data.sources.class_names import class_of
from embedkit.errors import DataError, nearest
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import Array, Samples, generator, unit_rows
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.splits import same_split
from embedkit.evaluation.datasets.tables import Table, open_splits
from embedkit.evaluation.measures.probes import halves
from embedkit.evaluation.tasks.analysis.labels import LabelledRows, labelled_rows
from embedkit.retrieval.exact import array_blocks, exact_top_k


class AnomalySettings(TaskSettings):
    """``normal``: the label of normal rows; without it each label is normal in its turn. ``neighbours``: the mean of
    the distances to so many. ``train``: the split that normal rows are stored from.

    Examples
    --------
    >>> AnomalySettings(normal="ok").neighbours
    2
    """

    normal: str | None = None
    neighbours: int = Field(2, gt=0)
    label: str = "label"
    train: str = "train"


def distances(corpus: Array, x: Array, k: int) -> Array:
    """Mean of 1 - cosine to the `k` nearest rows of the corpus, (M, D) and (N, D) -> (N,); all rows where M < k.

    Examples
    --------
    >>> distances(np.eye(2), np.array([[1.0, 0.0], [-1.0, 0.0]]), 1).tolist()
    [0.0, 1.0]
    """
    rows = unit_rows(corpus)
    scores, _ = exact_top_k(unit_rows(x), array_blocks(rows, 4096), min(k, len(rows)), len(rows))
    return 1 - scores.astype(np.float64).mean(axis=1)


@TASKS.add("anomaly")
class AnomalyTask(Task):
    """AUROC x 100 of the distance to the nearest normal rows, the mean where each label is normal in its turn.

    Reiss and Hoshen 2023, Mean-Shifted Contrastive Loss, section 3.4: two neighbours, on unit vectors. Data: ``text``
    or ``image``, ``label``; with splits train and test the normal rows of train are stored and all of test scored, else
    one half of each label is stored and the other scored.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 9.0] for text in texts]))
    >>> cells = {"text": ["cat", "dog", "an old boat", "a big house"], "label": ["ok", "ok", "odd", "odd"]}
    >>> config = TaskConfig(name="words", kind="anomaly", own=True)
    >>> task = AnomalyTask(config, Opening(Table(cells, [2, 3, 4, 5], "words"), "test", overrides={"normal": "ok"}))
    >>> task.score(Embedder(lengths)).score
    100.0
    """

    settings_type = AnomalySettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        s = self.settings
        self.references, self.queries = self._parts(config, opening)
        self.classes = self.queries.classes
        if s.normal is not None and s.normal not in self.references.classes:
            raise DataError(f"no row has label {s.normal!r}", where=self.references.table.source,
                            remedy=nearest(s.normal, self.references.classes))  # fmt: skip
        self.normal = [s.normal] if s.normal is not None else self.classes
        absent = [name for name in self.normal if name not in self.references.classes or name not in self.classes]
        if absent:
            what = f"label {absent[0]!r} stands in one split only"
            raise DataError(what, where=self.queries.table.source, remedy="name the normal label: --set normal=LABEL")

    def _parts(self, config: TaskConfig, opening: Opening) -> tuple[LabelledRows, LabelledRows]:
        """Rows to store from, which may have one label, and rows to score."""
        s, data = self.settings, opening.data
        if isinstance(data, Table):
            if "image" not in data.columns:
                data = self.own_table(data, {"anchor": "text", "label": s.label})
            if same_split(s.train) not in {same_split(str(cell)) for cell in data.columns.get("split", ())}:
                (whole,) = open_splits(config, data, [opening.split])
                return self._cut(whole)
        in_file = config.in_file(opening.split)
        names = [s.train, in_file if isinstance(in_file, str) else in_file[0]]
        train, test = open_splits(config, data, names, opening.folder)
        queries = labelled_rows(test, s.label)
        train.require(s.label)
        cells = sorted({class_of(cell) for cell in train.columns[s.label]})
        numbers = np.array([cells.index(class_of(cell)) for cell in train.columns[s.label]])
        return LabelledRows(inputs_of(train), numbers, cells, train), queries

    def _cut(self, table: Table) -> tuple[LabelledRows, LabelledRows]:
        """One half of each label to store, the other to score."""
        rows = labelled_rows(table, self.settings.label)
        counts = np.bincount(rows.y)
        if counts.min() < 2:
            what = f"label {rows.classes[int(counts.argmin())]!r} has one row"
            raise DataError(what, where=table.source, remedy="give each label two rows, or splits train and test")
        self.notes.append(f"{self.name}: one half of each label is stored: there are no splits train and test")
        parts = []
        for half in halves(rows.y, generator(self.opening.seed, f"{self.name}/halves")):
            part = table.take(half.tolist())
            parts.append(LabelledRows([rows.items[i] for i in half], rows.y[half], rows.classes, part))
        return parts[0], parts[1]

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows scored and stored, and the hash of both."""
        return {"source": self.queries.table.source, "rows": len(self.queries.y), "stored": len(self.references.y),
                "sha256": self.queries.sha256, "stored_sha256": self.references.sha256}  # fmt: skip

    def requests(self) -> list[Request]:
        """Stored and scored inputs."""
        return [Request(self.references.items), Request(self.queries.items)]

    def score(self, embed: Embedder) -> TaskResult:
        """The mean AUROC over the labels that are normal in their turn."""
        references, x = embed(self.references.items), embed(self.queries.items)
        gold, prediction, subset = [], [], []
        for place, name in enumerate(self.normal):
            own = references[self.references.y == self.references.classes.index(name)]
            prediction.append(distances(own, x, self.settings.neighbours))
            gold.append(self.queries.y != self.classes.index(name))
            subset.append(np.full(len(x), place))
        values = {"gold": np.concatenate(gold).astype(np.int64), "prediction": np.concatenate(prediction)}
        samples = Samples("auroc", {**values, "subset": np.concatenate(subset)})
        by_label = {
            name: 100 * Samples("auroc", {"gold": one.astype(np.int64), "prediction": far}).build()(np.ones(len(one)))
            for name, one, far in zip(self.normal, gold, prediction, strict=True)
        }
        score = 100 * samples.build()(np.ones(len(samples)))
        return TaskResult(self.name, "auroc", score, {"auroc": score}, samples, details={"auroc_by_normal": by_label},
                          notes=list(self.notes))  # fmt: skip
