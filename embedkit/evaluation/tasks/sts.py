"""Semantic textual similarity: does the cosine of two sentences order pairs as people do?"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from embedkit.data.schema.roles import named_role
from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import (
    Array,
    Samples,
    ZeroRule,
    cosine_pairs,
    pearson,
    spearman,
    zero_vector_note,
)
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.core.worst import worst_pairs
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.datasets.tables import Table, all_numbers, content_hash, of_two_values, open_table
from embedkit.evaluation.mteb.parts import MtebPart, one_split

Aggregation = Literal["all", "mean", "wmean"]


class StsSettings(TaskSettings):
    """How subsets become one figure.

    ``aggregation``: one correlation over all subsets (SimCSE), or their mean, plain or by size (SentEval). With
    ``subsets`` false the rows are one set whatever their column "subset" says (STS-B, SICK-R). ``zero_vectors``: what
    the cosine with a zero vector is, 0 as in SentEval, or what scikit-learn and so MTEB make of it.

    Examples
    --------
    >>> StsSettings(aggregation="wmean").subsets
    True
    """

    aggregation: Aggregation = "all"
    subsets: bool = True
    zero_vectors: ZeroRule = "senteval"


def _scores_under_label(table: Table) -> Table:
    """The table with a column ``label`` of numbers as the scores, where no column is called like a score."""
    roles = {named_role(name): name for name in table.columns}
    return table if "score" in roles or "label" not in roles else table.renamed({roles["label"]: "score"})


@TASKS.add("sts")
class StsTask(Task):
    """Spearman's correlation x 100 of cosines and gold scores (SentEval's STS as SimCSE uses it).

    Cosines are compared as float32, so that pairs of equal sentences tie.
    Data: columns ``sentence1``, ``sentence2``, ``score``, optional ``subset`` and ``split``. Rows with a blank score
    are left out, as SemEval's unscored pairs are.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> lengths = SimpleNamespace(encode=lambda texts: np.array([[len(text), 1.0] for text in texts]))
    >>> cells = {"sentence1": ["cat", "a", "yes"], "sentence2": ["dog", "boat", "no"], "score": [5, 1, 2]}
    >>> task = StsTask(TaskConfig(name="pairs", kind="sts"), Opening(Table(cells, [1, 2, 3], "pairs"), "test"))
    >>> round(task.score(Embedder(lengths)).metrics["spearman_all"], 1)
    100.0
    """

    settings_type = StsSettings
    hub_type = "semantic-similarity"

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = open_table(config, opening.data, opening.split, opening.folder)
        if config.own and "score" not in self.settings.columns.values():
            table = _scores_under_label(table)
        table = self.own_table(table, {"anchor": "sentence1", "positive": "sentence2", "score": "score"})
        table.require("sentence1", "sentence2", "score")
        scored = [i for i, cell in enumerate(table.columns["score"]) if cell not in (None, "")]
        self.unscored = len(table) - len(scored)
        table = table.take(scored)
        self.first, self.second = table.texts("sentence1"), table.texts("sentence2")
        self.gold = np.array(table.numbers("score"))
        if len(self.gold) < 2 or np.ptp(self.gold) == 0:
            raise DataError("fewer than two different scores", where=table.source, remedy="nothing can be correlated")
        self.subsets: list[str] | None = None
        if not self.settings.subsets:
            self.subsets = ["all"] * len(self.gold)
        elif "subset" in table.columns:
            self.subsets = [str(cell) for cell in table.columns["subset"]]
        self.source = table.source
        self.expect_rows(len(self.gold))
        if self.subsets is None and self.settings.aggregation != "all":
            raise DataError(
                f"no column 'subset', so aggregation {self.settings.aggregation!r} is not defined",
                where=self.source,
                remedy="use aggregation=all or data with that column",
            )

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Pairs of texts with scores of more than two values, under ``score`` or ``label``."""
        if not {"anchor", "positive"} <= set(look.roles):
            return None
        role = next((role for role in ("score", "label") if role in look.roles), None)
        if role is None or (role == "label" and of_two_values(look.cells(role))) or not all_numbers(look.cells(role)):
            return None
        return f"pairs of sentences with a score (column {look.roles[role]!r})"

    @property
    def data(self) -> dict[str, Any]:
        """Source, pairs in use and the hash of their texts and scores."""
        digest = content_hash(self.first, self.second, self.gold.tolist())
        return {"source": self.source, "rows": len(self.gold), "sha256": digest}

    def requests(self) -> list[Request]:
        """All sentences, under the suite's prompt."""
        return [Request([*self.first, *self.second])]

    def as_mteb(self) -> list[MtebPart]:
        """mteb's STS, one Spearman over all rows."""
        from mteb.abstasks.sts import AbsTaskSTS

        data = one_split(sentence1=self.first, sentence2=self.second, score=self.gold.tolist())
        limits = {"min_score": float(self.gold.min()), "max_score": float(self.gold.max())}
        return [MtebPart(AbsTaskSTS, "STS", "t2t", "cosine_spearman", ("text",), data, limits)]

    def score(self, embed: Embedder) -> TaskResult:
        """The correlation by every aggregation; the chosen one is the score."""
        first, second = embed(self.first), embed(self.second)
        # as float32, in which pairs of equal sentences tie; in float64 the noise of their cosines would order them
        cosines = cosine_pairs(first, second, self.settings.zero_vectors).astype(np.float32).astype(np.float64)
        if np.ptp(cosines) == 0:
            raise NonFiniteError("all pairs have the same similarity", where=f"task {self.name}")
        samples = self._samples(cosines)
        aggregates = self._aggregated(cosines)
        metrics = {f"spearman_{name}": 100 * value for name, value in aggregates.items() if np.isfinite(value)}
        metrics["pearson"] = 100 * pearson(self.gold, cosines)
        score = 100 * aggregates[self.settings.aggregation]
        if not np.isfinite(score):
            raise NonFiniteError("a subset has constant scores, so there is no correlation", where=f"task {self.name}")
        zeros, remarks = zero_vector_note(first, second, self.settings.zero_vectors)
        details: dict[str, Any] = {"pairs": len(self.gold), "unscored": self.unscored, "pairs_with_zero_vector": zeros}
        if self.subsets is not None:
            details["subsets"] = self._by_subset(cosines)
        notes = [*self.notes, *(f"{self.name}: {words}" for words in remarks)]
        worst = worst_pairs(self.first, self.second, self.gold, cosines)
        return TaskResult(self.name, "spearman", score, metrics, samples, details=details, notes=notes, worst=worst)

    def _numbered(self) -> Array:
        _, numbers = np.unique(np.array(self.subsets), return_inverse=True)
        return numbers

    def _samples(self, cosines: Array) -> Samples:
        values: dict[str, Array] = {"gold": self.gold, "prediction": cosines}
        if self.settings.aggregation != "all":
            values["subset"] = self._numbered()
            values["by_size"] = np.full(len(self.gold), int(self.settings.aggregation == "wmean"))
        return Samples("spearman", values)

    def _aggregated(self, cosines: Array) -> dict[str, float]:
        aggregates = {"all": spearman(self.gold, cosines)}
        if self.subsets is not None:
            parts = list(self._by_subset(cosines).values())
            values, sizes = np.array([p["spearman"] / 100 for p in parts]), np.array([p["pairs"] for p in parts])
            aggregates["mean"], aggregates["wmean"] = float(values.mean()), float(values @ sizes / sizes.sum())
        return aggregates

    def _by_subset(self, cosines: Array) -> dict[str, dict[str, float]]:
        names = np.array(self.subsets)
        aggregates = {}
        for name in dict.fromkeys(self.subsets or ()):
            rows = np.flatnonzero(names == name)
            aggregates[name] = {"spearman": 100 * spearman(self.gold[rows], cosines[rows]), "pairs": len(rows)}
        return aggregates
