"""The covariance operator of one's own rows: how the space is filled, and how much of it tells groups apart."""

from __future__ import annotations

from typing import Any

from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.measures import geometry
from embedkit.evaluation.measures.covariance import covariance_operator
from embedkit.evaluation.tasks.analysis.labels import open_labelled


class SpaceSettings(TaskSettings):
    """``label``: the column with a row's class, or with what its text is a wording of.

    Examples
    --------
    >>> SpaceSettings(label="topic").label
    'topic'
    """

    label: str = "label"


@TASKS.add("space")
class SpaceTask(Task):
    """Effective rank of the covariance of the rows' unit vectors, and its part between groups.

    See `embedkit.evaluation.measures.covariance.covariance_operator`; uniformity, anisotropy and hubness come with it.
    Data: ``text`` or ``image``, and ``label``: a class, or a name that all wordings of one thing share.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 9.0] for text in texts]))
    >>> import numpy as np
    >>> cells = {"text": ["cat", "dog", "a sailing boat"], "label": ["pet", "pet", "thing"]}
    >>> task = SpaceTask(TaskConfig(name="words", kind="space"), Opening(Table(cells, [2, 3, 4], "w"), "test"))
    >>> round(task.score(Embedder(lengths)).metrics["between_share"], 3)
    1.0
    """

    settings_type = SpaceSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        self.rows = open_labelled(self, opening, self.settings.label)

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows, groups and the hash of inputs and labels."""
        source, count = self.rows.table.source, len(self.rows.y)
        return {"source": source, "rows": count, "groups": len(self.rows.classes), "sha256": self.rows.sha256}

    def requests(self) -> list[Request]:
        """All inputs."""
        return [Request(self.rows.items)]

    def score(self, embed: Embedder) -> TaskResult:
        """All figures; none is x 100."""
        vectors = embed(self.rows.items)
        figures, spectrum = covariance_operator(vectors, self.rows.y)
        shape = {key: value for key, value in geometry.shape_of(vectors).items() if value == value}
        metrics = figures | {key: shape[key] for key in shape if key not in ("effective_rank", "dead_dimensions")}
        return TaskResult(self.name, "covariance_rank", figures["covariance_rank"], metrics, unit=1.0,
                          details={"covariance_spectrum": spectrum}, notes=list(self.notes))  # fmt: skip
