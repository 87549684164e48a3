"""Anisotropy of tokens: how alike the token vectors of each layer are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.tables import content_hash, open_table


class TokenSettings(TaskSettings):
    """``batch``: texts at a time. ``limit``: the first texts only.

    Examples
    --------
    >>> TokenSettings().limit
    2000
    """

    batch: int = Field(64, gt=0)
    limit: int = Field(2000, gt=0)


def token_cosines(model: Any, texts: Sequence[str], batch: int) -> dict[int, dict[str, float]]:
    """Mean cosine of two different tokens by layer (0 the embedding layer): of all tokens, and of those of one text.

    Every two tokens count, special ones too: the mean is that of the sum of unit vectors, and needs no table of pairs.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("simcse-unsup", smoke=True).model)
    >>> sorted(token_cosines(model, ["a cat", "the dog ran"], 2))
    [0, 1, 2]
    """
    import torch

    layers = tuple(range(int(model.encoder.config.num_hidden_layers) + 1))
    sums = {layer: np.zeros(model.hidden_size) for layer in layers}
    within: dict[int, list[float]] = {layer: [] for layer in layers}
    count, was_training = 0, model.training
    model.eval()
    try:
        for start in range(0, len(texts), batch):
            inputs = model.prepare(list(texts[start : start + batch])).to(model.device)
            with torch.inference_mode():
                states = model.token_states(inputs, layers)
            ends = np.cumsum(states.plan.lengths)
            count += int(ends[-1])
            for layer in layers:
                unit = torch.nn.functional.normalize(states.layers[layer].double(), dim=-1).cpu().numpy()
                for text in np.split(unit, ends[:-1]):
                    total, size = text.sum(axis=0), len(text)
                    sums[layer] += total
                    if size > 1:
                        within[layer].append(float(total @ total - size) / (size * (size - 1)))
    finally:
        model.train(was_training)
    return {
        layer: {
            "all": float(sums[layer] @ sums[layer] - count) / (count * (count - 1)),
            "within": float(np.mean(within[layer])) if within[layer] else float("nan"),
        }
        for layer in layers
    }


@TASKS.add("token-geometry")
class TokenTask(Task):
    """1 - the mean cosine of two different tokens in the last layer: 1 for evenly spread tokens, 0 for a narrow cone.

    ``anisotropy_layer_N`` is that cosine in each layer (Ethayarajh 2019), ``within_layer_N`` the same for the tokens
    of one text, which SimCTG's term pushes down (Su et al. 2022). Data: a column ``text``. The model is a text
    encoder with layers.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> from embedkit.factory import build
    >>> opening = Opening(Table({"text": ["a cat", "the dog ran"]}, [1, 2], "texts"), "test")
    >>> task = TokenTask(TaskConfig(name="texts", kind="token-geometry"), opening)
    >>> result = task.score(Embedder(build(load_recipe("simcse-unsup", smoke=True).model)))
    >>> round(result.score + result.metrics["anisotropy_layer_2"], 6)
    1.0
    """

    settings_type = TokenSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = self.own_table(open_table(config, opening.data, opening.split, opening.folder), {"anchor": "text"})
        self.texts, self.source = table.texts("text"), table.source
        if len(self.texts) > self.settings.limit:
            self.notes.append(f"{self.name}: the first {self.settings.limit:,} of {len(self.texts):,} texts")
            self.texts = self.texts[: self.settings.limit]

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows and the hash of the texts."""
        return {"source": self.source, "rows": len(self.texts), "sha256": content_hash(self.texts)}

    def requests(self) -> list[Request]:
        """None: tokens are asked of the model itself."""
        return []

    @staticmethod
    def encoder(embed: Embedder) -> Any:
        """The text encoder of a model, which must have layers."""
        model = getattr(embed.model, "text_model", embed.model)
        if not hasattr(model, "token_states"):
            raise UserError("it has no layers with token vectors", where="the model",
                            remedy="score an embedkit model with a transformer as its text encoder")  # fmt: skip
        return model

    def score(self, embed: Embedder) -> TaskResult:
        """The spread of the last layer's tokens."""
        figures = token_cosines(self.encoder(embed), self.texts, self.settings.batch)
        metrics = {"token_isotropy": 1 - figures[max(figures)]["all"]}
        for layer, values in figures.items():
            metrics[f"anisotropy_layer_{layer}"] = values["all"]
            metrics[f"within_layer_{layer}"] = values["within"]
        metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
        return TaskResult(self.name, "token_isotropy", metrics["token_isotropy"], metrics, unit=1.0,
                          notes=list(self.notes))  # fmt: skip
