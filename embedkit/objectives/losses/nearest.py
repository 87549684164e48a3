"""Directions whose anchors are looked up in a bank of earlier embeddings (NNCLR, All4One)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError
from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.compose.wrappers import WeightedSum
from embedkit.objectives.kernel import table_preset
from embedkit.objectives.losses.regression import Predictor
from embedkit.objectives.matrix.similarity import Side, collect
from embedkit.objectives.parts.banks import Queue
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.targets import Direction, Embeddings, Sides, guide_keys
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, decay_of, number, unit, whole


class _Lookup(Direction):
    """A queue of unit anchors, a predictor, and the nearest-neighbour search."""

    accepts = frozenset()

    def __init__(self, size: int, hidden: int, keys: str, random_start: bool, dim: int | None) -> None:
        super().__init__()
        hidden, self.keys = whole("hidden", hidden, least=1), choice("keys", keys, ("own", "guide"))
        self.queue = Queue(size, random_start=random_start, dim=dim)
        self.queue.keeps_roles = False
        self.predictor = None if dim is None else Predictor(dim, hidden)
        self.requires = frozenset({"anchor", "positive"} | ({"guide"} if keys == "guide" else set()))

    def predict(self, side: Side) -> Side:
        """The side with the predictor's outputs in place of its vectors."""
        if self.predictor is None:
            raise RecipeError("the predictor's size is not known", where="objective", remedy="give build(..., dim=)")
        return replace(side, z=self.predictor(side.z))

    @torch.no_grad()
    def nearest(self, side: Side, count: int) -> Tensor:
        """The `count` nearest vectors of the queue to each vector (or its guide's), (N, count, D)."""
        bank = self.queue.side(side)
        assert bank is not None
        seek = unit(side.z if self.keys == "own" or side.guide is None else guide_keys(side).z)
        if not len(bank):
            return seek[:, None].expand(-1, count, -1)
        places = [(block @ bank.z.T).topk(min(count, len(bank)), dim=1).indices for block in seek.split(1024)]
        index = torch.cat(places)
        # A queue that is still short gives its last neighbour again.
        return bank.z[torch.cat([index, index[:, -1:].expand(-1, count - index.shape[1])], dim=1)]

    def after_step(self, embeddings: Embeddings, batch: ObjectiveBatch) -> None:
        """Put the anchors into the queue."""
        self.queue.after_step(embeddings, batch, collect(["anchor"], embeddings, batch))


@part("direction", "nearest")
class NearestNeighbours(_Lookup):
    """Anchor: the queue's nearest neighbour of one view; candidates: predictions of the other view; then swapped.

    NNCLR (Dwibedi et al. 2021). No gradient flows to the neighbour. Before the first step the queue holds random unit
    vectors; without `random_start` it is empty, and an anchor is its own neighbour.

    Parameters
    ----------
    size : int
        Vectors in the queue.
    keys : str
        Whose vectors are looked up: the encoder's "own", or those of the "guide".
    hidden : int
        Width of the predictor.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> direction = NearestNeighbours(size=8, hidden=4, random_start=False, dim=2)
    >>> (anchors, candidates), _ = direction.sides(z, ObjectiveBatch.of(z))
    >>> anchors.z, candidates.z.shape  # the queue is still empty: an anchor is its own neighbour
    (tensor([[1., 0.],
            [0., 1.]]), torch.Size([2, 2]))
    """

    def __init__(self, size: int = 65_536, hidden: int = 4096, keys: str = "own", random_start: bool = True,
                 dim: int | None = None) -> None:  # fmt: skip
        super().__init__(size, hidden, keys, random_start, dim)

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        views = [collect([name], embeddings, batch) for name in ("anchor", "positive")]
        targets = [replace(view, z=self.nearest(view, 1)[:, 0]) for view in views]
        predictions = [self.predict(view) for view in views]
        return [(targets[0], predictions[1]), (targets[1], predictions[0])]


@part("direction", "centroids")
class Centroids(_Lookup):
    """Anchor: a transformer's summary of the nearest neighbours of one view; candidates: of the other's, shifted.

    All4One (Estepa et al. 2023): the summary r of the neighbours nn_1 .. nn_k, and g of [prediction, nn_1 .. nn_k-1],
    are the transformer's first outputs. Its dropout is left out, so that the loss is the same on every process.

    Parameters
    ----------
    size : int
        Vectors in the queue.
    keys : str
        Whose vectors are looked up: the encoder's "own", or those of the "guide".
    hidden : int
        Width of the predictor.
    random_start : bool
        Whether the queue begins with random vectors.
    nearest : int
        Neighbours in a summary.
    layers, heads : int
        Of the transformer.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> direction = Centroids(size=8, hidden=4, nearest=3, layers=1, heads=1, dim=2)
    >>> (anchors, candidates), _ = direction.sides(z, ObjectiveBatch.of(z))
    >>> anchors.z.shape, candidates.z.shape
    (torch.Size([2, 2]), torch.Size([2, 2]))
    """

    def __init__(self, size: int = 98_304, hidden: int = 4096, keys: str = "own", random_start: bool = True,
                 nearest: int = 5, layers: int = 3, heads: int = 8, dim: int | None = None) -> None:  # fmt: skip
        super().__init__(size, hidden, keys, random_start, dim)
        self.span = whole("nearest", nearest, least=1)
        layers, heads = whole("layers", layers, least=1), whole("heads", heads, least=1)
        if dim is not None and dim % heads:
            raise RecipeError(f"{heads} heads do not divide {dim}", where="objective.heads", remedy="choose a divisor")
        self.mixer = None if dim is None else nn.TransformerEncoder(
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout=0.0, batch_first=True), layers,
            enable_nested_tensor=False,
        )  # fmt: skip

    def summary(self, tokens: Tensor) -> Tensor:
        """First output of the transformer over (N, k, D) with sinusoidal positions, (N, D)."""
        assert self.mixer is not None
        k, dim = tokens.shape[1:]
        even, place = torch.arange(0, dim, 2).to(tokens), torch.arange(k).to(tokens)
        angle = place[:, None] * torch.exp(even * (-math.log(10_000.0) / dim))
        place = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]
        return self.mixer(tokens + place)[:, 0]

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        views = [collect([name], embeddings, batch) for name in ("anchor", "positive")]
        near = [self.nearest(view, self.span) for view in views]
        anchors = [replace(view, z=self.summary(n)) for view, n in zip(views, near, strict=True)]
        candidates = [
            replace(view, z=self.summary(torch.cat([self.predict(view).z[:, None], n[:, :-1]], dim=1)))
            for view, n in zip(views, near, strict=True)
        ]
        return [(anchors[0], candidates[1]), (anchors[1], candidates[0])]


@part("direction", "local-groups")
class LocalGroups(Centroids):
    """Anchor: a transformer's summary of one view and its neighbours; key: the same of the guide's vector of the other.

    Mugs (Zhou et al. 2022, arXiv 2203.14415, local-group supervision), from memory. Neighbours of a view and of a
    guide's vector are sought in a queue of the guide's vectors. The encoder's summary goes through a predictor; the
    keys come from a running mean of the transformer, without gradient. Both directions are averaged.

    Parameters
    ----------
    size, random_start
        Of the queue of guide's vectors.
    hidden : int
        Of the predictor.
    nearest : int
        Neighbours in a group, beside the view itself.
    layers, heads : int
        Of the transformer.
    momentum : float, optional
        Share of the old weights in the transformer's running mean; the guide's decay in each step if not given.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> direction = LocalGroups(size=8, hidden=4, nearest=3, layers=1, heads=1, dim=2)
    >>> [(anchors.z.requires_grad, keys.z.requires_grad) for anchors, keys in
    ...  direction.sides(z, ObjectiveBatch.of(z, guide=z))]
    [(True, False), (True, False)]
    """

    def __init__(self, size: int = 65_536, hidden: int = 4096, random_start: bool = True, nearest: int = 8,
                 layers: int = 2, heads: int = 8, momentum: float | None = None,
                 dim: int | None = None) -> None:  # fmt: skip
        super().__init__(size, hidden, "own", random_start, nearest, layers, heads, dim)
        self.requires = frozenset({"anchor", "positive", "guide"})
        self.momentum = None if momentum is None else number("momentum", momentum, least=0, most=1)
        for name, weight in self._weights().items():
            self.register_buffer(_mean_of(name), weight.detach().clone())

    def _weights(self) -> dict[str, Tensor]:
        return {} if self.mixer is None else dict(self.mixer.named_parameters())

    def _group(self, side: Side) -> Tensor:
        """A vector and its neighbours, (N, 1 + nearest, D)."""
        return torch.cat([unit(side.z)[:, None], self.nearest(side, self.span)], dim=1)

    @torch.no_grad()
    def _keys(self, tokens: Tensor) -> Tensor:
        """What the running mean of the transformer makes of groups."""
        weights = {f"mixer.{name}": self.get_buffer(_mean_of(name)).to(tokens.dtype) for name in self._weights()}
        return torch.func.functional_call(_Summary(self), weights, (tokens,))  # type: ignore[no-any-return]

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        own = [collect([name], embeddings, batch) for name in ("anchor", "positive")]
        theirs = [guide_keys(view) for view in own]
        anchors = [self.predict(replace(view, z=self.summary(self._group(view)))) for view in own]
        keys = [replace(view, z=self._keys(self._group(view))) for view in theirs]
        return [(anchors[0], keys[1]), (anchors[1], keys[0])]

    @torch.no_grad()
    def after_step(self, embeddings: Embeddings, batch: ObjectiveBatch) -> None:
        """Put the guide's vectors of the anchors into the queue; move the running mean."""
        self.queue.after_step(embeddings, batch, guide_keys(collect(["anchor"], embeddings, batch)))
        decay = decay_of(self.momentum, batch)
        for name, weight in self._weights().items():
            mean = self.get_buffer(_mean_of(name))
            mean.lerp_(weight.to(mean.dtype), 1 - decay)


class _Summary(nn.Module):
    """`Centroids.summary` as a module, so that it can be called with other weights."""

    def __init__(self, direction: Centroids) -> None:
        super().__init__()
        self.mixer, self._of = direction.mixer, direction.summary

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, k, D) -> (N, D)."""
        return self._of(tokens)


def _mean_of(name: str) -> str:
    """The name of the buffer that holds the running mean of a parameter."""
    return "mean of " + name.replace(".", " ")


table_preset(
    "local-group", paper="Zhou et al. 2022 (arXiv 2203.14415), Mugs, local-group supervision", direction="local-groups",
    temperature=0.2, bank="queue", state="queues of Q vectors and of Q groups; mean of the transformer",
    cost="B (B + Q) D", note="[M] constants and form from memory",
)  # fmt: skip
table_preset(
    "nnclr", paper="Dwibedi et al. 2021 (arXiv 2104.14548)", direction="nearest", temperature=0.1,
    state="queue of Q anchors", cost="B (B + Q) D",
)  # fmt: skip
table_preset(
    "neighbour-centroid", paper="Estepa et al. 2023 (arXiv 2303.09417), All4One, section 3.2", direction="centroids",
    temperature=0.1, state="queue of Q anchors", cost="B (B + Q) D",
)  # fmt: skip


@objective(
    "all4one", paper="Estepa et al. 2023 (arXiv 2303.09417)", family="table", splits=True, state="queues of anchors",
    slots="neighbour-centroid, nnclr and feature-correlation",
)  # fmt: skip
class All4One(WeightedSum):
    """Half the sum of the centroid term at temperature 0.1, NNCLR, and the feature term. Needs the guide's vectors.

    Parameters
    ----------
    temperature : float
        Of NNCLR.
    size, hidden, nearest, heads : int
        Of queues, predictors, neighbours, and the transformer's attention.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> objective = build({"name": "all4one", "size": 2, "hidden": 2, "heads": 1}, dim=2, num_rows=2)
    >>> loss = objective(z, ObjectiveBatch.of(z, guide=z)).loss
    >>> round(loss.item(), 4)
    6.2301
    """

    def __init__(self, *, temperature: float = 0.2, size: int = 98_304, hidden: int = 4096, nearest: int = 5,
                 heads: int = 8, dim: int | None = None) -> None:  # fmt: skip
        number("temperature", temperature, above=0)
        common = {"size": size, "hidden": hidden, "keys": "guide", "weight": 0.5}
        super().__init__(
            terms=[{"name": "neighbour-centroid", "nearest": nearest, "heads": heads, **common},
                   {"name": "nnclr", "temperature": temperature, **common},
                   {"name": "feature-correlation", "weight": 0.5}],
            dim=dim,
        )  # fmt: skip
