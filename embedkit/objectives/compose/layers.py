"""Objectives on the vectors of earlier layers, so that a model can be cut to fewer layers after training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.compose.wrappers import Config, Wrapper, merge
from embedkit.objectives.family import take
from embedkit.objectives.registry import build, objective
from embedkit.objectives.tools import choice, number, require, unit, whole

_WEIGHTS = {
    "uniform": lambda place: 1.0,
    "log": lambda place: 1.0 / (1.0 + math.log(1 + place)),
    "linear": lambda place: 1.0 / (1 + place),
}


@objective(
    "adaptive-layers", paper="Li et al. 2024, arXiv 2402.14776, 2D Matryoshka Sentence Embeddings", family="wrapper",
    splits=True, slots="any objective without state, on the vectors of several layers",
    cost="that of the objective, for the last layer and each layer of a step",
)  # fmt: skip
class AdaptiveLayers(Wrapper):
    """``last * objective(z_L) + earlier * mean_l w_l objective(z_l) + kl T * sum_l KL(s(z_L) || s(z_l))``.

    s is the softmax of a vector's coordinates over T; z_l is the vector by the first l layers of the encoder, with its
    pooling and dense layers. The divergence is a mean over the vectors of all views, and has no gradient in z_L. The
    layers of a step are drawn by the run's seed. Around ``matryoshka`` it is 2-D Matryoshka.

    An embedding holds the vectors of all layers one behind the other, the last layer's last. The trainer sees to that
    for methods whose embeddings are the model's own vectors; see `embedkit.models.modules.text.TextEncoder`.

    Parameters
    ----------
    objective : mapping or str
        Any objective that keeps no state between steps; its parameters are the same for all layers.
    per_step : int or None
        Earlier layers of a step; all of them when None.
    last, earlier, kl : float
        Weights of the last layer's loss, of the earlier layers' and of the divergence.
    temperature : float
        T of the divergence.
    weighting : str
        w_l by the layer's place among the earlier ones, from 0 on: "uniform", "log", 1 / (1 + log(1 + place)), or
        "linear", 1 / (1 + place).
    normalize : bool
        Whether the divergence is one of unit vectors: what sentence-transformers has for a model that ends with its
        layer Normalize.
    embedding_layer : bool
        Whether the embedding layer's output is the first of the layers, as in sentence-transformers.
    size : int or None
        Size of a layer's vector; that of the model when not given.
    dim, num_rows : int or None
        Size of the model's embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> both = torch.cat([torch.ones(2, 2), torch.eye(2)], dim=1)  # of an earlier layer and of the last one
    >>> z = {"anchor": both, "positive": both}
    >>> loss = build({"name": "adaptive-layers", "objective": "infonce", "size": 2, "kl": 0.0})(z, ObjectiveBatch.of(z))
    >>> {name: round(term.item(), 4) for name, term in loss.terms.items()}
    {'last': 0.0, 'layer1': 0.6931}
    """

    reads_layers = True

    def __init__(
        self, *, objective: Config, per_step: int | None = 1, last: float = 1.0, earlier: float = 1.0, kl: float = 1.0,
        temperature: float = 0.3, weighting: str = "uniform", normalize: bool = False, embedding_layer: bool = False,
        size: int | None = None, dim: int | None = None, num_rows: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.per_step = None if per_step is None else whole("per_step", per_step, least=1)
        self.last, self.earlier = number("last", last, least=0), number("earlier", earlier, least=0)
        self.kl, self.temperature = number("kl", kl, least=0), number("temperature", temperature, above=0)
        self.weighting = choice("weighting", weighting, tuple(_WEIGHTS))
        self.normalize = choice("normalize", normalize, (True, False))
        self.embedding_layer = choice("embedding_layer", embedding_layer, (True, False))
        self.size = dim if size is None else whole("size", size, least=1)
        inner = build(objective, dim=self.size, num_rows=num_rows)
        if any(True for _ in inner.buffers()) or getattr(inner, "reads_layers", False):
            raise RecipeError(
                "the objective keeps state between steps, which layers cannot share", where="objective.objective",
                remedy="use one without a queue, centre or prototypes, such as infonce",
            )  # fmt: skip
        self._adopt([inner])

    def _layers(self, embeddings: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The embeddings of each layer, the last one last."""
        size = self.size or next(iter(embeddings.values())).shape[1]
        widths = {z.shape[1] for z in embeddings.values()}
        require(len(widths) == 1 and min(widths) % size == 0, "size", size, "that of each layer's vector")
        parts = {name: z.split(size, dim=1) for name, z in embeddings.items()}
        return [dict(zip(parts, vectors, strict=True)) for vectors in zip(*parts.values(), strict=True)]

    def chosen(self, count: int, batch: ObjectiveBatch) -> list[int]:
        """The earlier layers of this step, out of `count`, as places from 0 on."""
        if self.per_step is None or self.per_step >= count:
            return list(range(count))
        draw = batch.random("adaptive-layers").choice(count, self.per_step, replace=False)
        return sorted(int(place) for place in draw)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The weighted sum over the layers of this step."""
        *earlier, last = self._layers(embeddings)
        (inner,) = self.inner
        places = self.chosen(len(earlier), batch)
        parts = {"last": (self.last, inner(last, batch))}
        divergence = []
        for place in places:
            weight = self.earlier * _WEIGHTS[self.weighting](place) / len(places)
            parts[f"layer{place + (0 if self.embedding_layer else 1)}"] = (weight, inner(earlier[place], batch))
            divergence.append(self._divergence(earlier[place], last, batch))
        if self.kl > 0 and divergence:
            parts["kl"] = (self.kl * self.temperature, LossOutput(torch.stack(divergence).sum()))
        return merge(parts)

    def _divergence(self, layer: dict[str, Tensor], last: dict[str, Tensor], batch: ObjectiveBatch) -> Tensor:
        """This process's share of the mean over all vectors of the divergence from the last layer's."""
        total, names = sum(len(z) for z in last.values()), list(last)
        shares = []
        for name, own, target in zip(names, take(layer, *names), take(last, *names), strict=True):
            if self.normalize:
                own, target = unit(own), unit(target)
            owner = batch.owner[name]
            mine = (owner >= batch.rows.start) & (owner < batch.rows.stop)
            log_own = F.log_softmax(own[mine] / self.temperature, dim=1)
            log_target = F.log_softmax(target[mine].detach() / self.temperature, dim=1)
            shares.append((log_target.exp() * (log_target - log_own)).sum() / total)
        return torch.stack(shares).sum()

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Tell the objective of the last layer's vectors."""
        self.inner[0].after_step(self._layers(embeddings)[-1], batch)  # type: ignore[operator]
