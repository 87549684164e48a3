"""Clustering: do k-means clusters of the vectors agree with the labels?"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError, need
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.tables import Table, content_hash, open_table


class ClusteringSettings(TaskSettings):
    """``seed`` and ``batch`` of mini-batch k-means, as MTEB sets them; ``label``: the column with the class.

    Examples
    --------
    >>> ClusteringSettings(label="topic").seed
    42
    """

    seed: int = 42
    batch: int = Field(500, gt=0)
    label: str = "label"


@TASKS.add("clustering")
class ClusteringTask(Task):
    """V-measure x 100 (Rosenberg and Hirschberg 2007) of mini-batch k-means with as many clusters as labels.

    MTEB's clustering of whole sets (Muennighoff et al. 2023, section 3.2). Data: a label column and ``text`` or
    ``image``, one set; or columns ``sentences`` and ``labels`` whose cells are lists, a set a row, scores averaged.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"text": ["cat", "dog", "a sailing boat", "a steam engine"], "label": ["pet", "pet", "thing", "thing"]}
    >>> opening = Opening(Table(cells, [1, 2, 3, 4], "words"), "test")
    >>> task = ClusteringTask(TaskConfig(name="words", kind="clustering"), opening)
    >>> task.score(Embedder(lengths)).metrics["v_measure"]
    100.0
    """

    settings_type = ClusteringSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        need("scikit-learn", "eval", "clustering", module="sklearn")
        table = open_table(config, opening.data, opening.split, opening.folder)
        self.sets = self._sets(table)
        self.source = table.source
        self.expect_rows(len(table))

    def _sets(self, table: Table) -> list[tuple[list[Item], list[str]]]:
        sets: list[tuple[list[Item], list[str]]] = []
        if "sentences" in table.columns:
            table.require("labels")
            for row, texts in enumerate(table.lists("sentences")):
                labels = [str(label) for label in table.columns["labels"][row]]
                if len(labels) != len(texts):
                    what = f"{len(texts)} sentences and {len(labels)} labels"
                    raise DataError(what, where=table.place(row), remedy="give one label a sentence")
                sets.append((list(texts), labels))
        else:
            table.require(self.settings.label)
            items: list[Item] = inputs_of(table)
            sets.append((items, [str(cell) for cell in table.columns[self.settings.label]]))
        for place, (_, labels) in enumerate(sets):
            if not 2 <= len(set(labels)) <= len(labels):
                what = f"set {place + 1} has fewer than two labels"
                raise DataError(what, where=table.source, remedy="give rows of two labels at least")
        return sets

    @property
    def data(self) -> dict[str, Any]:
        """Source, sets, rows and the hash of inputs and labels."""
        columns = [cells for pair in self.sets for cells in pair]
        rows = sum(len(labels) for _, labels in self.sets)
        return {"source": self.source, "rows": rows, "sets": len(self.sets), "sha256": content_hash(*columns)}

    def requests(self) -> list[Request]:
        """All inputs."""
        return [Request(items) for items, _ in self.sets]

    def score(self, embed: Embedder) -> TaskResult:
        """The mean of the V-measures of the sets; no interval, since a set is clustered as a whole."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.metrics import v_measure_score

        values = []
        for items, labels in self.sets:
            means = MiniBatchKMeans(
                n_clusters=len(set(labels)), batch_size=self.settings.batch, n_init="auto",
                random_state=self.settings.seed,
            )  # fmt: skip
            values.append(100 * float(v_measure_score(labels, means.fit(embed(items)).labels_)))
        metrics = {"v_measure": float(np.mean(values)), "v_measure_std": float(np.std(values))}
        return TaskResult(self.name, "v_measure", metrics["v_measure"], metrics, details={"sets": values},
                          notes=list(self.notes))  # fmt: skip
