"""Probes of attention: how far and how evenly the heads of each layer look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedkit.errors import UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.task import TASKS, TaskResult
from embedkit.evaluation.measures.attention import attention_measures
from embedkit.evaluation.tasks.analysis.tokens import TokenTask


def attention_of_layers(model: Any, texts: Sequence[str], batch: int) -> dict[int, dict[str, float]]:
    """Means of `attention_measures` over texts of two tokens or more and over heads, by layer from 1 on.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("simcse-unsup", smoke=True).model)
    >>> sorted(attention_of_layers(model, ["a cat", "the dog ran"], 2)[1])
    ['distance', 'entropy', 'first']
    """
    import torch

    sums: dict[int, dict[str, float]] = {}
    count, was_training = 0, model.training
    model.eval()
    try:
        for start in range(0, len(texts), batch):
            inputs = model.prepare(list(texts[start : start + batch])).to(model.device)
            record: dict[int, list[torch.Tensor]] = {}
            with torch.no_grad():
                model.token_states(inputs, record=record)
            count += int((inputs.costs > 1).sum())
            for layer, groups in record.items():
                own = sums.setdefault(layer + 1, {"distance": 0.0, "entropy": 0.0, "first": 0.0})
                for group in groups:
                    length = group.shape[-1]
                    if length > 1:
                        places = np.arange(length, dtype=np.float64)[:, None]
                        values = attention_measures(group.double().cpu().numpy(), places)
                        for name, value in values.items():
                            own[name] += float(value.mean(axis=1).sum())
    finally:
        model.train(was_training)
    return {layer: {name: total / max(1, count) for name, total in own.items()} for layer, own in sorted(sums.items())}


@TASKS.add("attention")
class AttentionTask(TokenTask):
    """How far heads look, as a share of even attention: the mean over layers, heads and texts.

    ``distance_layer_N``, ``entropy_layer_N`` and ``first_layer_N`` are those of each layer: the first two are 1 where
    attention is even, the third is the share that the first token gets ([CLS], say). Contrastive training makes late
    layers look far and evenly, masked words near (Park et al. 2023; Walmer et al. 2023, of images; from summaries).
    Data: a column ``text``. The model is a text encoder with layers that runs without padding.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.evaluation.core.suites import TaskConfig
    >>> from embedkit.evaluation.core.task import Opening
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> from embedkit.factory import build
    >>> opening = Opening(Table({"text": ["a cat", "the dog ran"]}, [1, 2], "texts"), "test")
    >>> task = AttentionTask(TaskConfig(name="texts", kind="attention"), opening)
    >>> result = task.score(Embedder(build(load_recipe("simcse-unsup", smoke=True).model)))
    >>> sorted(result.metrics)[:3]
    ['attention_distance', 'distance_layer_1', 'distance_layer_2']
    """

    def score(self, embed: Embedder) -> TaskResult:
        """The mean distance over layers."""
        layers = attention_of_layers(self.encoder(embed), self.texts, self.settings.batch)
        if not layers:
            raise UserError("it records no attention", where="the model", remedy="score a transformers text encoder")
        distance = float(np.mean([values["distance"] for values in layers.values()]))
        metrics = {f"{name}_layer_{layer}": value for layer, values in layers.items() for name, value in values.items()}
        return TaskResult(self.name, "attention_distance", distance, {"attention_distance": distance, **metrics},
                          unit=1.0, notes=list(self.notes))  # fmt: skip
