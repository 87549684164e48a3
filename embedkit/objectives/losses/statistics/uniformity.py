"""Pairwise potentials: sums of a function of pairs, without a ratio per anchor."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from embedkit.config.settings import refuse_idle
from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import (
    FURTHER,
    PAIR,
    Family,
    all_views,
    any_views,
    guides,
    loss_of_batch,
    loss_of_rows,
    other_rows,
    require_role,
    square_distances,
    take,
)
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, masked_lse, number, unit, whole


def log_mean_potential(vectors: Tensor, t: float) -> Tensor:
    """``log mean_{i != j} exp(-t ||x_i - x_j||²)`` of (B, D); zero for a single vector.

    Wang and Isola 2020, "Understanding Contrastive Representation Learning", section 4.1.

    Examples
    --------
    >>> import torch
    >>> log_mean_potential(torch.eye(2), t=2.0)  # one pair, at the squared distance 2
    tensor(-4.)
    """
    size = len(vectors)
    if size < 2:
        return 0.0 * vectors.sum()
    mask = other_rows(size, slice(0, size), vectors.device).flatten()
    return masked_lse((-t * square_distances(vectors, vectors)).flatten(), mask) - math.log(size * (size - 1))


@objective(
    "align-uniform", paper="Wang and Isola 2020, ICML, Alignment and Uniformity on the Hypersphere, section 4.1",
    family="potential", slots="power of the distance of pairs, log-mean Gaussian potential",
)  # fmt: skip
class AlignUniform(Family):
    """``align * mean ||a - p||^alpha + uniform * (U(anchors) + U(positives)) / 2`` on unit vectors.

    ``U(X) = log mean_{i<j} exp(-t ||x_i - x_j||²)``, zero for a single row.

    Parameters
    ----------
    align, uniform : float
        Weights of the terms.
    alpha : float
        Power of the distance.
    t : float
        Sharpness of the potential.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("align-uniform")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    -2.0
    """

    repels = True

    def __init__(self, *, align: float = 1.0, uniform: float = 1.0, alpha: float = 2.0, t: float = 2.0) -> None:
        super().__init__()
        self.align, self.uniform = number("align", align, least=0), number("uniform", uniform, least=0)
        self.alpha, self.t = number("alpha", alpha, above=0), number("t", t, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``alignment`` and ``uniformity``."""
        a, b = (unit(z) for z in take(embeddings, *PAIR))
        square = (a - b).square().sum(dim=1)  # (B,)
        apart = square > 0  # a power below two has no gradient at zero
        distance = torch.where(apart, torch.where(apart, square, 1.0) ** (self.alpha / 2), 0.0)
        uniformity = (log_mean_potential(a, self.t) + log_mean_potential(b, self.t)) / 2
        return loss_of_batch(
            {"alignment": self.align * distance.mean(), "uniformity": self.uniform * uniformity}, batch
        )


@objective(
    "koleo", paper="Sablayrolles et al. 2019, ICLR, Spreading vectors for similarity search, section 3.3",
    family="potential", splits=True, slots="log of the distance from the nearest other vector", cost="V B² D",
)  # fmt: skip
class KoLeo(Family):
    """``-mean_i log(min_{j != i} ||x_i - x_j|| + eps)`` of unit vectors, averaged over views; each view is a set alone.

    After Kozachenko and Leonenko's estimate of entropy. DINOv2 adds it to its loss, the sum over two views, times 0.1.
    A single row has no neighbour and counts as zero.

    Parameters
    ----------
    eps : float
        Added to the distance; equal vectors have no gradient.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2)}
    >>> round(build("koleo")(z, ObjectiveBatch.of(z)).loss.item(), 4)  # -log of the root of 2
    -0.3466
    """

    requires = frozenset({"anchor"})
    accepts = FURTHER | {"positive"}
    repels = True

    def __init__(self, *, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        views, rows = [unit(z) for z in any_views(embeddings)], batch.rows
        total = 0.0 * views[0].sum()
        itself = ~other_rows(batch.size, rows, total.device)  # (rows, B)
        for z in views if batch.size > 1 else []:
            nearest = (z[rows] @ z.T).detach().masked_fill(itself, -torch.inf).argmax(dim=1)
            square = (z[rows] - z[nearest]).square().sum(dim=1)
            apart = square > 0
            distance = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
            total = total - (distance + self.eps).log().sum()
        return loss_of_rows({"nearest": total / (batch.size * len(views))})


@objective(
    "part-diversity", paper="arXiv 2508.02762 (abstract only), Context-Adaptive Multi-Prompt Embedding",
    family="potential", splits=True, slots="squared cosine of two parts of a vector", cost="K B D",
)  # fmt: skip
class PartDiversity(Family):
    """The mean squared cosine of two of the K parts of a vector, over all pairs of parts and all rows; views averaged.

    Beside a contrastive loss on vectors that are put together of parts, as those of several prompts are, so that the
    parts say different things. The abstract asks for diversity; squared cosines are chosen here.

    Parameters
    ----------
    parts : int
        How many equal parts a vector has.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, 1.0, 1.0, 0.0]])}
    >>> build({"name": "part-diversity", "parts": 2})(z, ObjectiveBatch.of(z)).loss  # 1 and 0
    tensor(0.5000)
    """

    requires = frozenset({"anchor"})
    accepts = FURTHER | {"positive"}

    def __init__(self, *, parts: int = 2, dim: int | None = None) -> None:
        super().__init__()
        self.parts = whole("parts", parts, least=2)
        if dim is not None:
            self._check(dim)

    def _check(self, dim: int) -> None:
        if dim % self.parts:
            raise RecipeError(f"{self.parts} parts do not divide {dim} coordinates", where="objective.parts",
                              remedy="set the number of prompts")  # fmt: skip

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        views = any_views(embeddings)
        total = 0.0 * views[0].sum()
        for z in views:
            self._check(z.shape[1])
            each = unit(z[batch.rows].unflatten(1, (self.parts, z.shape[1] // self.parts)))  # (rows, K, D / K)
            cosines = each @ each.transpose(1, 2)
            total = total + (cosines.square().sum() - cosines.diagonal(dim1=1, dim2=2).square().sum())
        return loss_of_rows({"alike": total / (self.parts * (self.parts - 1) * batch.size * len(views))})


@objective(
    "spectral", paper="HaoChen et al. 2021, NeurIPS, Spectral Contrastive Loss", family="potential",
    splits=True, slots="dot product with capped length, square",
)  # fmt: skip
class Spectral(Family):
    """``(-2 mean_i z1_i . z2_i + mean_{i != j} (z1_i . z2_j)²) / mu`` on vectors no longer than the root of mu.

    Longer vectors are scaled down to that length, shorter ones are left alone; the division by mu is the paper's
    code's. A single row has no pairs, its second term is zero.

    Parameters
    ----------
    mu : float
        Square of the greatest length.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("spectral")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    1.0
    """

    repels = True

    def __init__(self, *, mu: float = 1.0) -> None:
        super().__init__()
        self.mu = number("mu", mu, above=0)

    def _cap(self, vectors: Tensor) -> Tensor:
        """Vectors (B, D) whose length is at most the root of mu."""
        long = vectors.square().sum(dim=1, keepdim=True) >= self.mu
        return torch.where(long, unit(vectors) * self.mu**0.5, vectors)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors, with the terms ``attraction`` and ``repulsion``."""
        a, b = (self._cap(z) for z in take(embeddings, *PAIR))
        rows, size = batch.rows, batch.size
        attraction = -2.0 * (a[rows] * b[rows]).sum() / (size * self.mu)
        square = (a[rows] @ b.T).square().masked_fill(~other_rows(size, rows, a.device), 0.0)  # (rows, B)
        return loss_of_rows(
            {"attraction": attraction, "repulsion": square.sum() / (max(size * (size - 1), 1) * self.mu)}
        )


@objective(
    "decoupled-uniformity", paper="Dufumier et al. 2023, ICML, Integrating Prior Knowledge in Contrastive Learning "
    "with Kernel", family="potential", cost="B² D, B³ with a prior",
    slots="centroids of views, kernel prior, log-mean Gaussian potential",
)  # fmt: skip
class DecoupledUniformity(Family):
    """``log mean_{i != j} exp(-t ||m_i - m_j||²)``, m the means of a row's unit views, optionally smoothed by a prior.

    There is no alignment term: views that disagree shorten their mean. With a prior, ``m`` becomes ``A m`` with
    ``A = (K + ridge I)^-1 K``, K the kernel matrix of the prior, without gradient.

    Parameters
    ----------
    t : float
        Sharpness of the potential.
    prior : str
        "none"; "guide", a Gaussian kernel on the guide's vectors of the anchors as they are; or "label", one for
        rows of equal label and zero otherwise.
    sigma : float
        Width of the Gaussian kernel, in units of the guide's vectors.
    ridge : float
        Regularisation of the inverse.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("decoupled-uniformity")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    0.0
    """

    accepts = FURTHER
    repels = True

    def __init__(self, *, t: float = 2.0, prior: str = "none", sigma: float = 1.0, ridge: float = 0.01) -> None:
        super().__init__()
        self.t, self.sigma = number("t", t, above=0), number("sigma", sigma, above=0)
        self.ridge = number("ridge", ridge, above=0)
        self.prior = choice("prior", prior, ("none", "guide", "label"))
        if prior != "guide":
            refuse_idle(DecoupledUniformity, {"sigma": sigma}, "objective", "prior: guide")
        if prior == "none":
            refuse_idle(DecoupledUniformity, {"ridge": ridge}, "objective", "prior")
        else:
            self.requires = self.requires | {prior}

    def _smoother(self, batch: ObjectiveBatch) -> Tensor:
        """The matrix A (B, B) in float64."""
        if self.prior == "label":
            label = require_role(batch.label, "label")
            kernel = (label[:, None] == label[None, :]).double()
        else:
            (vectors,) = (z.double() for z in guides(batch, "anchor"))
            kernel = torch.exp(-square_distances(vectors, vectors) / (2 * self.sigma**2))
        eye = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
        return torch.linalg.solve(kernel + self.ridge * eye, kernel)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The uniformity of the centroids of two or more views."""
        centroids = torch.stack([unit(z) for z in all_views(embeddings)]).mean(dim=0)  # (B, D)
        if self.prior != "none":
            centroids = self._smoother(batch).to(centroids.dtype) @ centroids
        return loss_of_batch({"uniformity": log_mean_potential(centroids, self.t)}, batch)


@objective(
    "cacr", paper="Zheng et al. 2021, arXiv 2105.03746, Contrastive Attraction and Contrastive Repulsion",
    family="potential", splits=True, cost="V² B² D", slots="squared distance, softmax weights on both sides, linear",
)  # fmt: skip
class CACR(Family):
    """Farther positives attract more, nearer negatives repel more; the cost is the squared distance of unit vectors.

    ``attract * sum_y w+ D(x, y)`` with ``w+ = softmax(t_positive D)`` over the other views y of the row, averaged over
    rows and over every view as x; less ``repel * sum_n w- D(x, n)`` with ``w- = softmax(-t_negative D)`` over the
    other rows' vectors of a later view, averaged over rows and pairs of views. (The temperatures multiply.) A single
    row has no negatives, its second term is zero.

    Parameters
    ----------
    attract, repel : float
        Weights of the terms.
    t_positive, t_negative : float
        Sharpness of the weights; zero weighs all alike.
    detach : bool
        No gradient through the weights, as in the paper's large runs.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("cacr")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    2.0
    """

    accepts = FURTHER
    repels = True

    def __init__(
        self,
        *,
        attract: float = 1.0,
        repel: float = 1.0,
        t_positive: float = 1.0,
        t_negative: float = 2.0,
        detach: bool = False,
    ) -> None:
        super().__init__()
        self.attract, self.repel = number("attract", attract, least=0), number("repel", repel, least=0)
        self.t_positive = number("t_positive", t_positive, least=0)
        self.t_negative = number("t_negative", t_negative, least=0)
        self.detach = choice("detach", detach, (True, False))

    def _expectation(self, cost: Tensor, logits: Tensor) -> Tensor:
        """Mean of `cost` (R, n) under the softmax of `logits` (R, n), for each row (R,)."""
        weight = logits.softmax(dim=1)
        return ((weight.detach() if self.detach else weight) * cost).sum(dim=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows, with the weighted terms ``attraction`` and ``repulsion``."""
        views = [unit(z) for z in all_views(embeddings)]
        rows, count = batch.rows, len(views)
        pull = push = views[0].new_zeros(())
        for x in range(count):
            rest = torch.stack([views[y][rows] for y in range(count) if y != x], dim=1)  # (rows, V - 1, D)
            cost = (views[x][rows, None] - rest).square().sum(dim=2)  # (rows, V - 1)
            pull = pull + self._expectation(cost, self.t_positive * cost).sum() / count
        pairs = list(combinations(range(count), 2)) if batch.size > 1 else []
        other = other_rows(batch.size, rows, views[0].device)  # (rows, B)
        for x, y in pairs:
            cost = square_distances(views[x][rows], views[y])  # (rows, B)
            nearness = (-self.t_negative * cost).masked_fill(~other, -torch.inf)
            push = push + self._expectation(cost, nearness).sum() / len(pairs)
        size = batch.size
        return loss_of_rows({"attraction": self.attract * pull / size, "repulsion": -self.repel * push / size})


@objective(
    "mv-dhel", paper="Koromilas et al. 2025, arXiv 2507.06979, Multi-View Contrastive Learning",
    family="potential", splits=True, cost="V B² D", slots="cosine, joint sum over own pairs, log-sum per view",
)  # fmt: skip
class MVDHEL(Family):
    """``mean_i [-log sum_{l < m} exp(s_il,im / t) + sum_l log sum_{j != i} exp(s_il,jl / t)]``, s the cosine.

    All pairs of a row's own views attract jointly; only vectors of the same view repel, each view by a sum of its own,
    and no positive is among them. With two views it is DHEL. A single row has no negatives, its second term is zero.

    Parameters
    ----------
    temperature : float
        The t above.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("mv-dhel")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    0.0
    """

    accepts = FURTHER
    repels = True

    def __init__(self, *, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows, with the terms ``attraction`` and ``repulsion``."""
        views, rows = [unit(z) for z in all_views(embeddings)], batch.rows
        own = [(a[rows] * b[rows]).sum(dim=1) / self.temperature for a, b in combinations(views, 2)]
        attraction = -torch.stack(own).logsumexp(dim=0).sum() / batch.size
        repulsion = torch.zeros_like(attraction)
        other = other_rows(batch.size, rows, views[0].device)  # (rows, B)
        for z in views if batch.size > 1 else []:
            repulsion = repulsion + masked_lse(z[rows] @ z.T / self.temperature, other).sum() / batch.size
        return loss_of_rows({"attraction": attraction, "repulsion": repulsion})
