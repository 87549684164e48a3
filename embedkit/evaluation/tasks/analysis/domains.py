"""Domain shift: a classifier learnt on one domain, tested on the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError, need
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import Array, Samples, generator
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.measures.probes import FOLD_SEED, Probe, halves
from embedkit.evaluation.tasks.analysis.labels import numbers_of, open_labelled


class DomainSettings(TaskSettings):
    """``domain``, ``label``: columns. ``folds``: of the cross-validation that chooses the classifier's strength.

    Examples
    --------
    >>> DomainSettings(domain="source").folds
    5
    """

    domain: str = "domain"
    label: str = "label"
    folds: int = Field(5, gt=1)


@TASKS.add("domains")
class DomainTask(Task):
    """Accuracy x 100 on domains that the classifier has not seen, the mean over rows and source domains.

    Of each domain one half of the rows is learnt from; the same classifier is tested on the other half
    (``accuracy_in``) and on all rows of the other domains. Data: ``text`` or ``image``, ``label``, ``domain``; every
    domain has rows of every label. The question of Shen et al. 2022, Connect, Not Collapse, asked of frozen vectors.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"text": ["cat", "dog", "cow", "ape", "an old boat", "a big house", "a tall tree", "a wide river"] * 2}
    >>> cells |= {"label": (["animal"] * 4 + ["thing"] * 4) * 2, "domain": ["web"] * 8 + ["news"] * 8}
    >>> opening = Opening(Table(cells, list(range(16)), "words"), "test")
    >>> DomainTask(TaskConfig(name="words", kind="domains"), opening).score(Embedder(lengths)).score
    100.0
    """

    settings_type = DomainSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        need("scikit-learn", "eval", "a classification probe", module="sklearn")
        s = self.settings
        self.rows = open_labelled(self, opening, s.label)
        self.domain, self.domains = numbers_of(self.rows.table, s.domain)
        if len(self.domains) < 2:
            raise DataError(f"column {s.domain!r} has one value, {self.domains[0]!r}", where=self.rows.table.source,
                            remedy="give rows of two domains at least")  # fmt: skip
        counts = np.zeros((len(self.domains), len(self.rows.classes)), dtype=np.int64)
        np.add.at(counts, (self.domain, self.rows.y), 1)
        if counts.min() < 4:
            domain, label = (int(place) for place in np.argwhere(counts == counts.min())[0])
            what = f"domain {self.domains[domain]!r} has {counts.min()} rows of label {self.rows.classes[label]!r}"
            raise DataError(what, where=self.rows.table.source, remedy="give each domain 4 rows of each label at least")

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows, domains and the hash of inputs and labels."""
        source = self.rows.table.source
        return {"source": source, "rows": len(self.domain), "domains": self.domains, "sha256": self.rows.sha256}

    def requests(self) -> list[Request]:
        """All inputs."""
        return [Request(self.rows.items)]

    def score(self, embed: Embedder) -> TaskResult:
        """The mean accuracy on unseen domains; the matrix of source by target stands in the details."""
        x, y, count = embed(self.rows.items), self.rows.y, len(self.domains)
        hits = np.zeros(len(y))
        matrix: dict[str, dict[str, float]] = {}
        for source, name in enumerate(self.domains):
            learn, held_out = self._halves(source)
            right = self._classifier(x[learn], y[learn])(x) == y
            places = {target: np.flatnonzero(self.domain == target) for target in range(count)} | {source: held_out}
            matrix[name] = {self.domains[t]: 100 * float(right[rows].mean()) for t, rows in places.items()}
            others = self.domain != source
            hits[others] += right[others] / (count - 1)
        inside = float(np.mean([matrix[name][name] for name in self.domains]))
        score = 100 * float(hits.mean())
        metrics = {"accuracy_out": score, "accuracy_in": inside, "drop": inside - score}
        return TaskResult(self.name, "accuracy_out", score, metrics, Samples("mean", {"value": hits}),
                          details={"matrix": matrix}, notes=list(self.notes))  # fmt: skip

    def _halves(self, source: int) -> tuple[Array, Array]:
        """Rows of a domain to learn from and rows held out, each class cut in half."""
        rows = np.flatnonzero(self.domain == source)
        first, second = halves(self.rows.y[rows], generator(self.opening.seed, f"{self.name}/{self.domains[source]}"))
        return rows[first], rows[second]

    def _classifier(self, x: Array, y: Array) -> Any:
        smallest = int(np.bincount(y, minlength=len(self.rows.classes)).min())
        probe = Probe("scikit-learn", min(self.settings.folds, smallest), FOLD_SEED, len(self.rows.classes))
        strength = probe.choose(x, y, wide=True)[0] if probe.folds > 1 else 1.0
        return probe.fit((x, y), strength)
