"""Second-order statistics: objectives on the D x D correlations or covariances of the whole batch.

They cannot be split over rows: every process computes them over all rows and returns its share.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, PAIR, Family, all_views, guides, loss_of_batch, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import number, require, unit, whole

COST = "B D²"


def standardise(vectors: Tensor, eps: float = 1e-5) -> Tensor:
    """The columns of (B, D) with mean zero and variance one over the batch (divided by B): BatchNorm without affine.

    Examples
    --------
    >>> import torch
    >>> standardise(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    tensor([[-1.0000,  0.0000],
            [ 1.0000,  0.0000]])
    """
    centred = vectors - vectors.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + eps).sqrt()


def off_diagonal(matrix: Tensor) -> Tensor:
    """A square matrix with zeros on its diagonal.

    Examples
    --------
    >>> import torch
    >>> off_diagonal(torch.ones(2, 2))
    tensor([[0., 1.],
            [1., 0.]])
    """
    return matrix - torch.diag(torch.diagonal(matrix))


def covariance(vectors: Tensor) -> Tensor:
    """Unbiased covariance (D, D) of the columns of (B, D); zero for a single row.

    Examples
    --------
    >>> import torch
    >>> covariance(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    tensor([[2., 4.],
            [4., 8.]])
    """
    centred = vectors - vectors.mean(dim=0)
    return centred.T @ centred / max(len(vectors) - 1, 1)


@objective(
    "barlow-twins", paper="Zbontar et al. 2021, ICML, Barlow Twins, eq. 1", family="second order", cost=COST,
    slots="cross-correlation of standardised columns, identity target",
)  # fmt: skip
class BarlowTwins(Family):
    """Distance of the views' cross-correlation matrix from the identity.

    ``sum_i (C_ii - 1)^2 + off_diagonal * sum_{i != j} C_ij^2`` with ``C = BN(z1)^T BN(z2) / B``. A column that is
    constant over the batch counts as uncorrelated.

    Parameters
    ----------
    off_diagonal : float
        Weight of the redundancy term; the paper's 0.0051.
    scale : float
        Factor of the whole loss; the paper's 1, solo-learn's 0.025.
    eps : float
        Added to the variances of the normalisation.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("barlow-twins")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    8.0099
    """

    def __init__(self, *, off_diagonal: float = 0.0051, scale: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.off_diagonal = number("off_diagonal", off_diagonal, least=0)
        self.scale = number("scale", scale, above=0)
        self.eps = number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``on_diagonal`` and ``off_diagonal``."""
        a, b = take(embeddings, *PAIR)
        correlation = standardise(a, self.eps).T @ standardise(b, self.eps) / len(a)  # (D, D)
        on = self.scale * (torch.diagonal(correlation) - 1.0).square().sum()
        off = self.scale * self.off_diagonal * off_diagonal(correlation).square().sum()
        return loss_of_batch({"on_diagonal": on, "off_diagonal": off}, batch)


@objective(
    "vicreg", paper="Bardes et al. 2022, ICLR, VICReg, section 4", family="second order", cost=COST,
    slots="mean square invariance, hinge on deviations, covariance",
)  # fmt: skip
class VICReg(Family):
    """Variance, invariance and covariance regularisation, in the weights of the paper's code.

    The variance term is the mean over the two views (some ports sum them), the covariance term the sum. The spread of
    a single row counts as zero.

    Parameters
    ----------
    invariance, variance, covariance : float
        Weights of the three terms.
    target : float
        Standard deviation that each column should reach.
    eps : float
        Added to the variances under the root.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("vicreg")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    32.8206
    """

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        target: float = 1.0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.invariance = number("invariance", invariance, least=0)
        self.variance = number("variance", variance, least=0)
        self.covariance = number("covariance", covariance, least=0)
        self.target = number("target", target, above=0)
        self.eps = number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``invariance``, ``variance`` and ``covariance``."""
        views = take(embeddings, *PAIR)
        invariance = self.invariance * (views[0] - views[1]).square().mean()
        variance = covariances = views[0].new_zeros(())
        for z in views:
            matrix = covariance(z)  # (D, D)
            deviation = (torch.diagonal(matrix) + self.eps).sqrt()  # (D,)
            variance = variance + self.variance / 2 * torch.relu(self.target - deviation).mean()
            covariances = covariances + self.covariance * off_diagonal(matrix).square().sum() / z.shape[1]
        return loss_of_batch({"invariance": invariance, "variance": variance, "covariance": covariances}, batch)


@objective(
    "w-mse", paper="Ermolov et al. 2021, ICML, Whitening for Self-Supervised Representation Learning, section 3",
    family="second order", cost="B D² + D³", slots="Cholesky whitening of sub-batches, cosine of the pairs",
)  # fmt: skip
class WMSE(Family):
    """Squared distance of whitened, normalised views.

    Each view is cut into random sub-batches, each is whitened with the inverse Cholesky factor of
    ``(1 - eps) * covariance + eps * I``, and ``2 - 2 cos`` is averaged over all pairs of views. The cut is a function
    of the run's seed and the step, the same on every process; it is drawn anew for each of the `iterations`.

    Parameters
    ----------
    sub_batch : int or None
        Least number of rows that are whitened together; None for the whole batch. The paper uses twice the dimension.
    iterations : int
        Random cuts whose losses are averaged.
    eps : float
        Shrinkage of the covariance towards the identity. The paper's 0 fails when rows do not span all dimensions.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build({"name": "w-mse", "eps": 0.1})(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    4.0
    """

    accepts = FURTHER

    def __init__(
        self,
        *,
        sub_batch: int | None = None,
        iterations: int = 1,
        eps: float = 1e-4,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.sub_batch = None if sub_batch is None else whole("sub_batch", sub_batch, least=2)
        self.iterations = whole("iterations", iterations, least=1)
        self.eps = number("eps", eps, least=0, below=1)
        if dim is not None and self.sub_batch is not None and self.eps == 0:
            require(self.sub_batch > dim, "sub_batch", sub_batch, f"greater than the dimension {dim}, or eps above 0")

    def _cuts(self, batch: ObjectiveBatch, device: torch.device) -> list[list[Tensor]]:
        """The rows of each sub-batch, for each iteration; every row is in one of them."""
        if self.sub_batch is None:
            return [[torch.arange(batch.size, device=device)]]
        generator = batch.generator("w-mse")
        parts = max(1, batch.size // self.sub_batch)
        orders = [torch.randperm(batch.size, generator=generator).to(device) for _ in range(self.iterations)]
        return [list(torch.tensor_split(order, parts)) for order in orders]

    def _whiten(self, vectors: Tensor) -> Tensor:
        """Rows (n, D) with mean zero and covariance close to the identity."""
        wide = vectors.double()  # in single precision eps is lost beside large variances
        eye = torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
        factor, failure = torch.linalg.cholesky_ex((1 - self.eps) * covariance(wide) + self.eps * eye)
        if int(failure):
            raise UserError(
                f"{len(vectors)} rows do not span {vectors.shape[1]} dimensions, they cannot be whitened",
                where="objective.eps",
                remedy="use eps 0.0001, a larger sub_batch or a smaller projection",
            )
        centred = wide - wide.mean(dim=0)
        return torch.linalg.solve_triangular(factor, centred.T, upper=False).T.to(vectors.dtype)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The mean distance of two or more views."""
        views = all_views(embeddings)
        losses = []
        for cut in self._cuts(batch, views[0].device):
            white = [unit(torch.cat([self._whiten(z[rows]) for rows in cut])) for z in views]  # (B, D), in cut order
            losses += [2.0 - 2.0 * (a * b).sum() / batch.size for a, b in combinations(white, 2)]
        return loss_of_batch({"distance": torch.stack(losses).mean()}, batch)


@objective(
    "feature-correlation", paper="Estepa et al. 2023, ICCV, All4One", family="second order", cost=COST,
    slots="cross-correlation of the guide's columns with the encoder's, identity target",
)  # fmt: skip
class FeatureCorrelation(Family):
    """All4One's feature term: cross-correlation of the EMA encoder's columns with the encoder's.

    Columns are scaled to length one over the batch, ``C1 = guide(anchor)^T positive`` and
    ``C2 = guide(positive)^T anchor``; the loss is ``scale * (on + off) / 2``, ``on`` the root mean square of
    ``diag(C) - 1`` and ``off`` that of the other entries. The guide's vectors carry no gradient.

    Parameters
    ----------
    scale : float
        Factor of the loss; the paper's code has 10.
    eps : float
        Added under the roots, whose gradient at zero is infinite otherwise.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("feature-correlation")(z, ObjectiveBatch.of(z, guide=z)).loss
    >>> round(loss.item(), 4)
    10.0
    """

    requires = frozenset({"anchor", "positive", "guide"})

    def __init__(self, *, scale: float = 10.0, eps: float = 1e-12) -> None:
        super().__init__()
        self.scale = number("scale", scale, above=0)
        self.eps = number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``on_diagonal`` and ``off_diagonal``."""
        a, b = take(embeddings, *PAIR)
        slow_a, slow_b = guides(batch, *PAIR, like=a)
        dim = a.shape[1]
        on = off = a.new_zeros(())
        for slow, fast in ((slow_a, b), (slow_b, a)):
            correlation = unit(slow.T) @ unit(fast.T).T  # (D, D)
            on = on + (torch.diagonal(correlation) - 1.0).square().mean() / 2
            off = off + off_diagonal(correlation).square().sum() / max(dim * (dim - 1), 1) / 2
        on, off = (self.scale / 2 * (x + self.eps).sqrt() for x in (on, off))
        return loss_of_batch({"on_diagonal": on, "off_diagonal": off}, batch)
