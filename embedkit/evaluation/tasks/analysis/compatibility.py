"""Compatibility of two models: queries by the new one, documents by the old one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from embedkit.errors import UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Side, Task, TaskResult
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.tasks.retrieval import RetrievalSettings, RetrievalTask


class CompatibilitySettings(RetrievalSettings):
    """``old``: the model, by folder or hub id, whose vectors the index holds; the rest as for ``retrieval``.

    Examples
    --------
    >>> CompatibilitySettings(old="last-year").main
    'ndcg@10'
    """

    old: str = ""


class OldIndex(Embedder):
    """The queries of one embedder over the documents of another.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> one, two = (SimpleNamespace(encode=lambda texts, n=n: np.full((len(texts), 2), n)) for n in (1.0, 2.0))
    >>> both = OldIndex(Embedder(one), Embedder(two))
    >>> both(["a"]).tolist(), next(both.blocks(["b"], 8))[1].tolist()
    ([[1.0, 1.0]], [[2.0, 2.0]])
    """

    def __init__(self, new: Embedder, old: Embedder) -> None:
        super().__init__(new.model, prompt=new.prompt, dim=new.dim, distributed=new.distributed)
        self.new, self.old = new, old

    def __call__(self, items: Sequence[Item], prompt: str | None = None, side: Side | None = None) -> Array:
        """Vectors of the new model."""
        return self.new(items, prompt, side)

    def blocks(
        self, items: Sequence[Item], size: int, prompt: str | None = None, *, side: Side | None = None,
        own: bool = False, keep: bool = False,
    ) -> Iterator[tuple[int, Array]]:  # fmt: skip
        """Vectors of the old model, block by block."""
        return self.old.blocks(items, size, prompt, side=side, own=own, keep=keep)


@TASKS.add("compatibility")
class CompatibilityTask(RetrievalTask):
    """The measure of ``retrieval`` with queries by the new model and documents by the old one.

    ``old_NAME`` and ``new_NAME`` are those of each model alone. ``update_gain`` is how much of the way from the old
    to the new one the new queries bring while the index stays (Shen et al. 2020, Backward-Compatible Representation
    Learning); ``compatible`` is 1 where they do better than the old queries. Data and settings are those of
    ``retrieval``, and ``old``.

    Examples
    --------
    >>> CompatibilityTask.settings_type.__name__
    'CompatibilitySettings'
    """

    settings_type = CompatibilitySettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        if not self.settings.old:
            raise UserError("no old model is given", where=f"task {self.name}", remedy="name it: --set old=MODEL")
        from embedkit.formats import load

        self.old: Any = load(self.settings.old)

    as_mteb = Task.as_mteb  # mteb has no such task, though it has the base class's

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Never guessed: the data are those of plain retrieval."""
        return None

    def score(self, embed: Embedder) -> TaskResult:
        """The new model's queries over the old model's documents."""
        old = Embedder(self.old, prompt=embed.prompt, dim=embed.dim, distributed=embed.distributed)
        queries = self.collection.queries[:1]
        sizes = [one(queries, self.settings.query_prompt, "query").shape[1] for one in (embed, old)]
        if sizes[0] != sizes[1]:
            what = f"its vectors have {sizes[0]} numbers, those of {self.settings.old} {sizes[1]}"
            raise UserError(what, where="the model", remedy="compare models of one size, or cut both: --truncate-dim")
        result = super().score(OldIndex(embed, old))
        main = self.settings.main
        alone = {name: super(CompatibilityTask, self).score(one).score for name, one in (("old", old), ("new", embed))}
        result.metrics |= {f"{name}_{main}": value for name, value in alone.items()}
        result.metrics["compatible"] = float(result.score > alone["old"])
        if alone["new"] != alone["old"]:
            result.metrics["update_gain"] = (result.score - alone["old"]) / (alone["new"] - alone["old"])
        return result
