"""The probe behind the head: what a projection that is used in training only has thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedkit.errors import UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.task import TASKS, Task, TaskResult
from embedkit.evaluation.datasets.look import Look
from embedkit.evaluation.tasks.probe import ProbeTask


def behind_head(model: Any) -> Iterator[Any]:
    """The model with its first train-only layer applied, with the first two, and so on; weights are shared.

    Raises
    ------
    UserError
        The model has none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("simcse-unsup", smoke=True).model)
    >>> [one.layers[-1].train_only for one in behind_head(model)]
    [False]
    """
    count = sum(layer.train_only for layer in getattr(model, "layers", ()))
    if not count:
        remedy = "train with model.head: {kind: tanh, train_only: true}; embedkit's own folders keep it"
        raise UserError("it has no layer that is used in training only", where="the model", remedy=remedy)
    for heads in range(1, count + 1):
        yield model.by_other_vectors(heads=heads)


@TASKS.add("head")
class HeadTask(ProbeTask):
    """Accuracy x 100 of a probe on the vectors that the model gives, and behind each layer of its train-only head.

    ``accuracy_behind_1`` ... are those behind the first layer, the first two ...; ``loss_of_head`` is what the whole
    head costs (Gao et al. 2024, Investigating the Benefits of Projection Head). Data and settings are those of the task
    ``probe``.

    Examples
    --------
    >>> HeadTask.settings_type.__name__
    'ProbeSettings'
    """

    as_mteb = Task.as_mteb  # mteb has no such task, though it has the base class's

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """Never guessed: the data are those of a plain probe."""
        return None

    def score(self, embed: Embedder) -> TaskResult:
        """The probe's result with those behind the head."""
        behind = [Embedder(one, prompt=embed.prompt, dim=embed.dim) for one in behind_head(embed.model)]
        result = super().score(embed)
        for place, other in enumerate(behind, start=1):
            result.metrics[f"{result.metric}_behind_{place}"] = super().score(other).score
        result.metrics["loss_of_head"] = result.score - result.metrics[f"{result.metric}_behind_{len(behind)}"]
        return result
