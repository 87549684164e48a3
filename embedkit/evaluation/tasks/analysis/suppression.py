"""Feature suppression: what is left of a hard attribute beside an easy one."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from embedkit.errors import UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.tables import Table, open_table
from embedkit.evaluation.measures.probes import Fidelity
from embedkit.evaluation.tasks.probe import ProbeTask


class SuppressionSettings(TaskSettings):
    """``easy``, ``hard``: columns with the two attributes of each row; the rest as of the task ``probe``.

    Examples
    --------
    >>> SuppressionSettings(easy="colour", hard="shape").protocol
    'auto'
    """

    easy: str = "easy"
    hard: str = "hard"
    protocol: Literal["nested", "folds", "dev", "auto"] = "auto"
    fidelity: Fidelity = "scikit-learn"
    folds: int = 10


@TASKS.add("feature-suppression")
class SuppressionTask(Task):
    """Accuracy x 100 of a probe for the hard attribute, beside that for the easy one of the same rows.

    ``hard_gain`` and ``easy_gain`` are the shares of what the most frequent value leaves open that the probe gets
    right; ``suppression`` is the easy gain less the hard one: large where the model keeps the easy attribute and
    drops the hard one (Xue et al. 2023, on simplicity bias; Zhang et al. 2024, Learning the Unlearned). Data:
    ``text`` or ``image`` and the two columns.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"text": ["cat", "dog", "a boat", "a tree"] * 4, "easy": ["short"] * 2 + ["long"] * 2}
    >>> cells |= {"easy": cells["easy"] * 4, "hard": ["a", "b"] * 8}
    >>> config = TaskConfig(name="words", kind="feature-suppression", settings={"folds": 2})
    >>> task = SuppressionTask(config, Opening(Table(cells, list(range(16)), "words"), "test"))
    >>> task.score(Embedder(lengths)).metrics["easy_accuracy"]
    100.0
    """

    settings_type = SuppressionSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        s = self.settings
        if s.easy == s.hard:
            raise UserError(f"easy and hard are both the column {s.easy!r}", where=f"task {self.name}",
                            remedy="name two columns: --set easy=COLUMN --set hard=COLUMN")  # fmt: skip
        data = opening.data
        if not isinstance(data, Table):
            data = open_table(config, data, opening.split, opening.folder)
            data = Table(
                {name: cells for name, cells in data.columns.items() if name != "split"}, data.lines, data.source
            )
        data.require(*{s.easy, s.hard}.difference(s.columns.values()))
        self.probes = {"easy": self._probe(s.easy, data), "hard": self._probe(s.hard, data)}
        self.notes += dict.fromkeys(note for probe in self.probes.values() for note in probe.notes)

    def _probe(self, column: str, data: Table) -> ProbeTask:
        """A probe for one column; own data need no other name for it."""
        s, opening = self.settings, self.opening
        values = {"protocol": s.protocol, "fidelity": s.fidelity, "folds": s.folds, "label": column}
        config = self.config.model_copy(update={"kind": "probe", "own": True, "settings": values})
        overrides = {"columns": dict(s.columns)} if s.columns else {}
        return ProbeTask(config, Opening(data, opening.split, opening.folder, opening.seed, {}, overrides))

    @property
    def data(self) -> dict[str, Any]:
        """Those of the probe for the hard attribute, and the hash of the easy one's."""
        return {**self.probes["hard"].data, "easy_sha256": self.probes["easy"].data["sha256"]}

    def requests(self) -> list[Request]:
        """All inputs, the same for both."""
        return self.probes["hard"].requests()

    def score(self, embed: Embedder) -> TaskResult:
        """The hard attribute's accuracy."""
        results = {name: probe.score(embed) for name, probe in self.probes.items()}
        metrics = {f"{name}_accuracy": result.score for name, result in results.items()}
        for name, probe in self.probes.items():
            most = 100 * float(np.bincount(probe.parts[-1][1]).max() / len(probe.parts[-1][1]))
            metrics[f"{name}_gain"] = (metrics[f"{name}_accuracy"] - most) / (100 - most)
        metrics["suppression"] = metrics["easy_gain"] - metrics["hard_gain"]
        hard = results["hard"]
        details = {name: result.details for name, result in results.items()}
        notes = list(dict.fromkeys(note for result in results.values() for note in result.notes))
        return TaskResult(self.name, "hard_accuracy", hard.score, metrics, hard.samples, details=details, notes=notes)
