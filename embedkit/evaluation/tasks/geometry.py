"""Geometry of the embedding space, cheap enough for every evaluation of a training run."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array, generator
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.tables import Table, content_hash, open_table
from embedkit.evaluation.measures import geometry
from embedkit.evaluation.measures.covariance import covariance_operator


class GeometrySettings(TaskSettings):
    """``above``: pairs with a higher score are positives. ``group``: a column whose groups are also looked at.

    Examples
    --------
    >>> GeometrySettings(above=3.5).smallest_group
    20
    """

    above: float = 4.0
    group: str | None = None
    smallest_group: int = Field(20, gt=1)


@TASKS.add("geometry")
class GeometryTask(Task):
    """Alignment, uniformity, effective rank (the score: higher is better), anisotropy, hubness, and the covariance
    operator of the positives as two views of one thing (`embedkit.evaluation.measures.covariance`).

    Data: ``sentence1``, ``sentence2``, ``score`` (positives are the pairs scored above 4, strictly, and the space is
    that of all sentences with their repeats: Gao et al. 2021, footnote 3); or ``image`` and ``captions`` (positives
    are an image and each of its captions; the two sets are described apart, and the modality gap between them).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"sentence1": ["cat", "a"], "sentence2": ["dog", "boat"], "score": [5, 1]}
    >>> opening = Opening(Table(cells, [1, 2], "pairs"), "test")
    >>> result = GeometryTask(TaskConfig(name="pairs", kind="geometry"), opening).score(Embedder(lengths))
    >>> result.metrics["alignment"], result.details["positives"]
    (0.0, 1)
    """

    settings_type = GeometrySettings
    hub_type = "embedding-geometry"

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        self.source, self.rows = table.source, len(table)
        self.images = "image" in table.columns
        self.first: list[Item]
        self.second: list[Item]
        if self.images:
            self._open_images(table)
        else:
            table.require("sentence1", "sentence2", "score")
            self.first, self.second = list(table.texts("sentence1")), list(table.texts("sentence2"))
            scores = np.array(table.numbers("score"))
            self.positives = [(i, i) for i in np.flatnonzero(scores > self.settings.above).tolist()]
            self.expect_rows(len(table))
        if not self.positives:
            what = f"no pair has a score above {self.settings.above:g}"
            raise DataError(what, where=table.source, remedy="check the scores, or set above lower")
        self.groups: list[str] | None = None
        if self.settings.group is not None:
            table.require(self.settings.group)
            self.groups = [str(cell) for cell in table.columns[self.settings.group]]

    def _open_images(self, table: Table) -> None:
        self.first = list(table.images("image"))
        captions = table.lists("captions")
        self.second = [caption for row in captions for caption in row]
        owners = [row for row, texts in enumerate(captions) for _ in texts]
        self.positives = [(owner, place) for place, owner in enumerate(owners)]

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows and the hash of inputs and positives."""
        digest = content_hash(self.first, self.second, self.positives)
        return {"source": self.source, "rows": self.rows, "sha256": digest}

    def requests(self) -> list[Request]:
        """Both sides."""
        return [Request(self.first), Request(self.second)]

    def score(self, embed: Embedder) -> TaskResult:
        """All figures; none is x 100."""
        first, second = embed(self.first), embed(self.second)
        pairs = np.array(self.positives)
        metrics = {"alignment": geometry.alignment(first[pairs[:, 0]], second[pairs[:, 1]])}
        if self.images:
            for name, vectors in (("image", first), ("text", second)):
                metrics |= {f"{name}_{key}": value for key, value in geometry.shape_of(vectors).items()}
            metrics["modality_gap"] = geometry.modality_gap(first, second)
            metrics["effective_rank"] = geometry.effective_rank(np.concatenate([first, second]))
        else:
            metrics |= geometry.shape_of(np.concatenate([first, second]))
        details: dict[str, Any] = {"positives": len(pairs), "vectors": len(first) + len(second)}
        details["spectrum"] = geometry.spectrum(np.concatenate([first, second]))
        views = np.concatenate([first[pairs[:, 0]], second[pairs[:, 1]]])
        figures, details["covariance_spectrum"] = covariance_operator(views, np.tile(pairs[:, 0], 2))
        metrics |= figures
        rng = generator(self.opening.seed, self.name)
        strangers = rng.integers(0, len(first), 20_000), rng.integers(0, len(second), 20_000)
        details["cosine_counts"] = {
            "positives": geometry.cosine_counts(first[pairs[:, 0]], second[pairs[:, 1]]),
            "random pairs": geometry.cosine_counts(first[strangers[0]], second[strangers[1]]),
        }
        if self.groups is not None:
            details["groups"] = groups = self._by_group(first)
            if groups:
                metrics["largest_group_anisotropy"] = max(part["anisotropy"] for part in groups.values())
        metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
        return TaskResult(self.name, "effective_rank", metrics["effective_rank"], metrics, details=details,
                          notes=list(self.notes))  # fmt: skip

    def _by_group(self, vectors: Array) -> dict[str, dict[str, float]]:
        """Spread inside each group of rows: a collapsed group has anisotropy near 1."""
        figures = {}
        names = np.array(self.groups)
        for name in dict.fromkeys(self.groups or ()):
            rows = np.flatnonzero(names == name)
            if len(rows) >= self.settings.smallest_group:
                part = vectors[rows]
                figures[name] = {
                    "rows": float(len(rows)),
                    "anisotropy": geometry.anisotropy(part),
                    "effective_rank": geometry.effective_rank(part),
                }
        return figures
