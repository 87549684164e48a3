"""Objectives made of objectives: prefixes of the embeddings (Matryoshka), weighted sums, feature transforms.

A wrapper builds its own copy of every objective inside it, so that each has its own temperature, queue and prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError, UserError, moved
from embedkit.objectives.base import LossOutput, NegativeCount, Objective, ObjectiveBatch
from embedkit.objectives.family import PAIR, take
from embedkit.objectives.matrix.similarity import VIEWS
from embedkit.objectives.registry import build, objective
from embedkit.objectives.tools import choice, number, require, unit, whole

Config = Mapping[str, Any] | str


def merge(parts: Mapping[str, tuple[float, LossOutput]]) -> LossOutput:
    """The weighted sum of named losses; its terms are the weighted losses, with the terms inside them as ``name/term``.

    Examples
    --------
    >>> import torch
    >>> near, far = LossOutput(torch.tensor(2.0)), LossOutput(torch.tensor(4.0))
    >>> out = merge({"near": (1.0, near), "far": (0.5, far)})
    >>> out.loss, out.terms["far"]
    (tensor(4.), tensor(2.))
    """
    total: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    for name, (weight, out) in parts.items():
        total.append(weight * out.loss)
        terms[name] = weight * out.loss.detach()
        terms |= {f"{name}/{inner}": weight * value for inner, value in out.terms.items()}
        metrics |= {f"{name}/{inner}": value for inner, value in out.metrics.items()}
    return LossOutput(torch.stack(total).sum(), terms, metrics)


def renamed(
    names: Mapping[str, str], embeddings: dict[str, Tensor], batch: ObjectiveBatch
) -> tuple[dict[str, Tensor], ObjectiveBatch]:
    """Embeddings and batch with some of the embeddings under other names, ``{new: old}``.

    Embeddings under the old names, and others under the new ones, are left out: they would take part as further views
    of the row.

    Examples
    --------
    >>> z = {"anchor": torch.zeros(1, 1), "positive": torch.ones(1, 1), "view3": torch.full((1, 1), 3.0)}
    >>> inner, _ = renamed({"positive": "view3"}, z, ObjectiveBatch.of(z))
    >>> {name: vectors.item() for name, vectors in inner.items()}
    {'positive': 3.0, 'anchor': 0.0}
    """

    def rename(by_name: dict[str, Tensor]) -> dict[str, Tensor]:
        others = {n: x for n, x in by_name.items() if n not in names and n not in names.values()}
        return {n: by_name[source] for n, source in names.items() if source in by_name} | others

    own = replace(batch, owner=rename(batch.owner), keys=rename(batch.keys), guide=rename(batch.guide),
                  scores=rename(batch.scores))  # fmt: skip
    return rename(embeddings), own


class Wrapper(Objective):
    """Base class of objectives that contain others, in ``self.inner``; they need what those need.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> wrapper = build({"name": "matryoshka", "objective": "supcon", "dims": [64, 32]})
    >>> len(wrapper.inner), sorted(wrapper.requires)
    (2, ['anchor', 'label'])
    """

    inner: nn.ModuleList

    def _adopt(self, inner: Sequence[Objective]) -> None:
        """Take over these objectives, what they require and what they accept."""
        self.inner = nn.ModuleList(inner)
        self.requires = frozenset().union(*(part.requires for part in inner))
        self.accepts = frozenset().union(*(part.accepts for part in inner))
        self.any_of = tuple(alternatives for part in inner for alternatives in part.any_of)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """Those of the inner objective with the most."""
        counts = [part.negatives(batch_size, hard, processes) for part in self.inner]  # type: ignore[operator]
        return max(counts, key=lambda count: count.total)


@objective(
    "matryoshka", paper="Kusupati et al. 2022, NeurIPS, Matryoshka Representation Learning, eq. 1", family="wrapper",
    splits=True, slots="any objective, on prefixes of the embeddings", cost="that of the objective, for each prefix",
)  # fmt: skip
class Matryoshka(Wrapper):
    """``sum_m weight_m * objective(embeddings[:, :m])`` with one copy of the objective for each m.

    With one prefix, the whole embedding, and weight one it is the objective itself. Terms are called ``dim64`` and so
    on.

    Parameters
    ----------
    objective : mapping or str
        Any objective.
    dims : list of int
        Sizes m of the prefixes.
    weights : list of float or None
        One for each size; one when not given.
    normalize : bool
        Scale the prefix to length one before the objective sees it. Objectives on the cosine do so themselves.
    per_step : int or None
        Sizes of a step, drawn by the run's seed; all of them when None.
    cut_guide : bool
        Cut the guide's vectors too: for objectives that compare an embedding with the guide's vector itself (BYOL,
        MoCo, embedding-mse) and not only similarities (distill-kl).
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build({"name": "matryoshka", "objective": "infonce", "dims": [2, 1]})(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    30.3466
    """

    def __init__(
        self,
        *,
        objective: Config,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        normalize: bool = False,
        cut_guide: bool = False,
        per_step: int | None = None,
        dim: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__()
        require(isinstance(dims, Sequence) and len(dims) > 0, "dims", dims, "a list of sizes")
        self.dims = [whole("dims", size, least=1, most=dim) for size in dims]
        require(len(set(self.dims)) == len(self.dims), "dims", dims, "sizes that differ from each other")
        weights = [1.0] * len(self.dims) if weights is None else list(weights)
        require(len(weights) == len(self.dims), "weights", weights, f"{len(self.dims)} numbers, one for each of dims")
        self.weights = [number("weights", weight, least=0) for weight in weights]
        self.normalize = choice("normalize", normalize, (True, False))
        self.cut_guide = choice("cut_guide", cut_guide, (True, False))
        self.per_step = None if per_step is None else whole("per_step", per_step, least=1, most=len(self.dims))
        self._adopt([build(objective, dim=size, num_rows=num_rows) for size in self.dims])

    def chosen(self, batch: ObjectiveBatch) -> list[int]:
        """The places in `dims` that this step takes."""
        if self.per_step is None:
            return list(range(len(self.dims)))
        draw = batch.random("matryoshka").choice(len(self.dims), self.per_step, replace=False)
        return sorted(int(place) for place in draw)

    def _cut(
        self, size: int, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> tuple[dict[str, Tensor], ObjectiveBatch]:
        """Embeddings and batch as the objective for prefixes of this size sees them."""
        for name, z in embeddings.items():
            if z.shape[1] < size:
                raise UserError(
                    f"the embedding {name!r} has {z.shape[1]} columns, a prefix of {size} was asked for",
                    where="objective.dims", remedy=f"use sizes up to {z.shape[1]}",
                )  # fmt: skip
        prefixes = {name: z[:, :size] for name, z in embeddings.items()}
        if self.normalize:
            prefixes = {name: unit(z) for name, z in zip(prefixes, take(prefixes, *prefixes), strict=True)}
        if self.cut_guide:
            batch = replace(batch, guide={name: z[:, :size] for name, z in batch.guide.items()})
        return prefixes, batch

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The weighted sum over the sizes."""
        parts = {}
        for place in self.chosen(batch):
            size, part = self.dims[place], self.inner[place]
            parts[f"dim{size}"] = (self.weights[place], part(*self._cut(size, embeddings, batch)))
        return merge(parts)

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of every copy."""
        for size, part in zip(self.dims, self.inner, strict=True):
            part.after_step(*self._cut(size, embeddings, batch))  # type: ignore[operator]


class Terms(Wrapper):
    """Base class of weighted sums: builds the terms, and gives each the inputs that it asks for.

    Parameters
    ----------
    terms : list of mapping
        Objectives with five keys besides their own: ``weight`` (1 when not given), ``label`` (the name in the log,
        the objective's name when not given), ``inputs`` (which embedding takes which place, e.g.
        ``{"positive": "view3"}``; the other names stay), ``views`` (the views of a row that it sees, under these
        names, e.g. ``["anchor", "positive"]`` without small crops; all when not given), ``dim`` (the size of the
        embeddings that it reads, where a method gives some of another size and the objective has vectors of its own).
        An objective that has a setting of one of these names is written
        ``{"objective": {"name": ..., "weight": ...}, "weight": 0.1}``.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> total = build({"name": "sum", "terms": [{"name": "clip"}, {"name": "align-uniform", "weight": 0.1}]})
    >>> total.labels, total.weights
    (['clip', 'align-uniform'], [1.0, 0.1])
    """

    def __init__(self, terms: Sequence[Mapping[str, Any]], dim: int | None, num_rows: int | None) -> None:
        super().__init__()
        is_list = isinstance(terms, Sequence) and len(terms) > 0 and all(isinstance(t, Mapping) for t in terms)
        require(is_list, "terms", terms, "a list of objectives, each with a name")
        self.labels: list[str] = []
        self.weights: list[float] = []
        self.inputs: list[dict[str, str]] = []
        self.unseen: list[frozenset[str]] = []
        self.sizes: list[int | None] = []
        inner = []
        for place, term in enumerate(terms):
            with moved("objective", f"objective.terms.{place}"):
                settings = dict(term)
                self.weights.append(number("weight", settings.pop("weight", 1.0), least=0))
                inputs = settings.pop("inputs", {})
                views = settings.pop("views", VIEWS)
                fits = isinstance(views, Sequence) and len(views) > 0 and all(view in VIEWS for view in views)
                require(fits, "views", views, f"a list of some of {', '.join(VIEWS[:4])} ... {VIEWS[-1]}")
                self.unseen.append(frozenset(VIEWS) - set(views))
                label = settings.pop("label", None)
                size = settings.pop("dim", None)
                self.sizes.append(dim if size is None else whole("dim", size, least=1))
                if "objective" in settings and "name" not in settings:
                    settings = self._inner_objective(settings)
                require(isinstance(inputs, Mapping), "inputs", inputs, "a mapping such as {positive: view3}")
                self.inputs.append(dict(inputs))
                label = str(settings.get("name") if label is None else label)
                if label in self.labels:
                    what = f"two terms are called {label!r}"
                    raise RecipeError(what, where="objective.label", remedy="give one of them a label")
                self.labels.append(label)
                inner.append(build(settings, dim=self.sizes[-1], num_rows=num_rows))
                lost = inner[-1].requires & self.unseen[-1]
                require(not lost, "views", views, f"a list with {sorted(lost)}, which the term {label!r} needs")
        self._adopt(inner)
        needs = [{names.get(n, n) for n in part.requires} for names, part in zip(self.inputs, inner, strict=True)]
        takes = [
            {names.get(n, n) for n in part.accepts - unseen}
            for names, unseen, part in zip(self.inputs, self.unseen, inner, strict=True)
        ]
        self.requires = frozenset().union(*needs)
        self.accepts = frozenset().union(*takes)

    @staticmethod
    def _inner_objective(term: dict[str, Any]) -> dict[str, Any]:
        """The objective of a term that is written ``{"objective": ..., "weight": ...}``."""
        config = term.pop("objective")
        require(not term, "terms", sorted(term), "settings inside the term's own objective")
        return {"name": config} if isinstance(config, str) else dict(config)

    def inputs_of(
        self, at: int, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> tuple[dict[str, Tensor], ObjectiveBatch]:
        """Embeddings and batch as the term number `at` sees them: under the names that it asks for."""
        names, unseen = self.inputs[at], self.unseen[at]
        if not names:
            return {name: z for name, z in embeddings.items() if name not in unseen}, batch
        for source in names.values():
            if source not in embeddings:
                raise UserError(
                    f"the term {self.labels[at]!r} asks for the embedding {source!r}, there are {sorted(embeddings)}",
                    where="objective.terms", remedy="use a method that makes this view, or fix inputs",
                )  # fmt: skip

        self._check_sizes(at, {source: embeddings[source].shape[1] for source in names.values()})
        inner, own = renamed(names, embeddings, batch)
        return {name: z for name, z in inner.items() if name not in unseen}, own

    def _check_sizes(self, at: int, columns: Mapping[str, int]) -> None:
        """Refuse embeddings of other sizes than the term's own vectors have."""
        size = self.sizes[at]
        if size is None or not any(tensor.ndim for tensor in (*self.inner[at].parameters(), *self.inner[at].buffers())):
            return
        for source, count in columns.items():
            if count != size:
                raise UserError(
                    f"the term {self.labels[at]!r} has vectors of {size} numbers, the embedding {source!r} has {count}",
                    where="objective.terms", remedy=f"give the term dim: {count}",
                )  # fmt: skip

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of every term."""
        for at, part in enumerate(self.inner):
            part.after_step(*self.inputs_of(at, embeddings, batch))  # type: ignore[operator]


@objective(
    "sum", paper="a weighted sum of objectives, each logged by name", family="wrapper", splits=True,
    slots="any objectives", cost="that of its terms",
)  # fmt: skip
class WeightedSum(Terms):
    """``sum_t weight_t * objective_t``; every term is logged, weighted, under its label.

    Parameters
    ----------
    terms : list of mapping
        See `Terms`: ``[{"name": "infonce"}, {"name": "energy-hinge", "weight": 10}]``.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> objective = build({"name": "sum", "terms": [{"name": "infonce"}, {"name": "energy-hinge", "weight": 10.0}]})
    >>> loss = objective(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    32.0
    """

    def __init__(
        self, *, terms: Sequence[Mapping[str, Any]], dim: int | None = None, num_rows: int | None = None
    ) -> None:
        super().__init__(terms, dim, num_rows)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The weighted sum of the terms."""
        outputs = [part(*self.inputs_of(at, embeddings, batch)) for at, part in enumerate(self.inner)]
        return merge(dict(zip(self.labels, zip(self.weights, outputs, strict=True), strict=True)))


@objective(
    "care", paper="Gupta et al. 2023, arXiv 2306.13924, CARE", family="wrapper", splits=True,
    slots="ntxent plus gram-equivariance",
)  # fmt: skip
class CARE(WeightedSum):
    """``NT-Xent + equivariance * Gram equivariance``; groups are the parts of a batch that share their augmentations.

    Parameters
    ----------
    temperature : float
        Of NT-Xent.
    equivariance : float
        Weight of the second term; the paper's code has 0.03 for CIFAR-10 with 16 groups.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("care")(z, ObjectiveBatch.of(z, group=torch.tensor([0, 0]))).loss
    >>> round(loss.item(), 4)
    2.2395
    """

    def __init__(self, *, temperature: float = 0.5, equivariance: float = 0.03) -> None:
        gram = {"name": "gram-equivariance", "weight": equivariance}
        # Here a group is a way of augmenting, not a reason to leave rows out of the negatives.
        super().__init__(terms=[{"name": "ntxent", "temperature": temperature, "groups": False}, gram])


@objective(
    "feature-transform", paper="Zhu et al. 2021, ICCV, Improving Contrastive Learning by Visualizing Feature "
    "Transformation", family="wrapper", splits=True, slots="any objective, on transformed features",
)  # fmt: skip
class FeatureTransform(Wrapper):
    """Positives are moved apart and hard negatives mixed before the objective sees them.

    On unit vectors, with numbers drawn for each row: the pair (a, p) becomes ``(m a + (1 - m) p, m p + (1 - m) a)``
    with ``m = 1 + Beta(extrapolate, extrapolate)``, which lowers their similarity; a hard negative n becomes
    ``l n + (1 - l) n'`` with ``l = Beta(interpolate, interpolate)`` and n' another one of the batch. Numbers are a
    function of the run's seed and the step, the same on every process. State of the objective (a queue) gets the
    vectors as they were. The paper moves only the pair's own score and mixes a queue, as ``moco-interpolated`` does
    (and ``infonce-interpolated`` the batch); here the moved vectors are candidates of the other rows too.

    Parameters
    ----------
    objective : mapping or str
        Any objective.
    extrapolate, interpolate : float or None
        Parameters of the distributions; None leaves the vectors alone.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build({"name": "feature-transform", "objective": "infonce"})(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    30.5007
    """

    def __init__(
        self,
        *,
        objective: Config,
        extrapolate: float | None = 2.0,
        interpolate: float | None = 1.6,
        dim: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.extrapolate = None if extrapolate is None else number("extrapolate", extrapolate, above=0)
        self.interpolate = None if interpolate is None else number("interpolate", interpolate, above=0)
        self._adopt([build(objective, dim=dim, num_rows=num_rows)])

    def transform(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> dict[str, Tensor]:
        """The embeddings that the inner objective sees."""
        rng = batch.random("feature-transform")
        features = dict(embeddings)

        def draw(shape: float, like: Tensor) -> Tensor:
            return torch.from_numpy(rng.beta(shape, shape, size=(len(like), 1))).to(like)  # (N, 1)

        if self.extrapolate is not None:
            a, p = (unit(z) for z in take(embeddings, *PAIR))
            m = 1.0 + draw(self.extrapolate, a)
            features |= {"anchor": m * a + (1 - m) * p, "positive": m * p + (1 - m) * a}
        if self.interpolate is not None and len(embeddings.get("negatives", ())):
            (n,) = (unit(z) for z in take(embeddings, "negatives"))
            mix = draw(self.interpolate, n)
            ring = rng.permutation(len(n))  # each with the next of a random ring, so that none is mixed with itself
            other = torch.from_numpy(np.roll(ring, -1)[np.argsort(ring)]).to(n.device)
            features["negatives"] = mix * n + (1 - mix) * n[other]
        return features

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The inner objective's loss on the transformed embeddings."""
        return self.inner[0](self.transform(embeddings, batch), batch)

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of the inner objective, with the embeddings before the transform."""
        self.inner[0].after_step(embeddings, batch)  # type: ignore[operator]
