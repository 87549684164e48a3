"""Second-order statistics: objectives on the D x D correlations or covariances of the whole batch.

They cannot be split over rows: every process computes them over all rows and returns its share.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError, UserError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, PAIR, Family, all_views, guides, loss_of_batch, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, require, unit, whole

COST = "B D²"


class SecondOrder(Family):
    """Base class of objectives on two views, or on each view and the guide's vectors of the other.

    Parameters
    ----------
    keys : str
        "own": the loss of (anchor, positive). "guide": the sum of the losses of (anchor, guide of the positive) and
        (positive, guide of the anchor), the guide without gradient, as UNSEE has it with a running mean of the encoder.

    Examples
    --------
    >>> sorted(SecondOrder(keys="guide").requires)
    ['anchor', 'guide', 'positive']
    """

    def __init__(self, keys: str) -> None:
        super().__init__()
        self.keys = choice("keys", keys, ("own", "guide"))
        self.requires = frozenset({"guide"} if keys == "guide" else ()) | frozenset(PAIR)

    def pairs(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> list[tuple[Tensor, Tensor]]:
        """The pairs (B, D) whose losses are added."""
        a, b = take(embeddings, *PAIR)
        if self.keys == "own":
            return [(a, b)]
        slow_a, slow_b = guides(batch, *PAIR, like=a)
        return [(a, slow_b), (b, slow_a)]


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
class BarlowTwins(SecondOrder):
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
    affine : bool
        Whether the normalisation has a trained scale and shift, one for both sides, as UNSEE has it.
    keys : str
        "own" or "guide", see `SecondOrder`.
    dim : int or None
        Size of the embeddings, for `affine`.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("barlow-twins")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    8.0099
    """

    undecayed = ("weight", "bias")

    def __init__(
        self, *, off_diagonal: float = 0.0051, scale: float = 1.0, eps: float = 1e-5, affine: bool = False,
        keys: str = "own", dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(keys)
        self.affine = choice("affine", affine, (True, False))
        self.weight = nn.Parameter(torch.ones(dim)) if affine and dim else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine and dim else None
        self.off_diagonal = number("off_diagonal", off_diagonal, least=0)
        self.scale = number("scale", scale, above=0)
        self.eps = number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``on_diagonal`` and ``off_diagonal``."""
        on = off = next(iter(embeddings.values())).new_zeros(())
        for a, b in self.pairs(embeddings, batch):
            correlation = self._normal(a).T @ self._normal(b) / len(a)  # (D, D)
            on = on + self.scale * (torch.diagonal(correlation) - 1.0).square().sum()
            off = off + self.scale * self.off_diagonal * off_diagonal(correlation).square().sum()
        return loss_of_batch({"on_diagonal": on, "off_diagonal": off}, batch)

    def _normal(self, vectors: Tensor) -> Tensor:
        columns = standardise(vectors, self.eps)
        if not self.affine:
            return columns
        if self.weight is None or self.bias is None:
            raise RecipeError("the normalisation's size is not known", where="objective", remedy="build it with dim=")
        return columns * self.weight.to(columns.dtype) + self.bias.to(columns.dtype)


@objective(
    "vicreg", paper="Bardes et al. 2022, ICLR, VICReg, section 4", family="second order", cost=COST,
    slots="mean square invariance, hinge on deviations, covariance",
)  # fmt: skip
class VICReg(SecondOrder):
    """Variance, invariance and covariance regularisation, in the weights of the paper's code.

    The variance term is the mean over the two views (some ports sum them), the covariance term the sum. The spread of
    a single row counts as zero. With ``keys: guide`` there are two such pairs, and the guide's own spread adds to the
    value, not to the gradient (UNSEE's released code has the same divisors as VICReg's, and that sum).

    Parameters
    ----------
    invariance, variance, covariance : float
        Weights of the three terms.
    target : float
        Standard deviation that each column should reach.
    eps : float
        Added to the variances under the root.
    keys : str
        "own" or "guide", see `SecondOrder`.

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
        keys: str = "own",
    ) -> None:
        super().__init__(keys)
        self.invariance = number("invariance", invariance, least=0)
        self.variance = number("variance", variance, least=0)
        self.covariance = number("covariance", covariance, least=0)
        self.target = number("target", target, above=0)
        self.eps = number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``invariance``, ``variance`` and ``covariance``."""
        pairs = self.pairs(embeddings, batch)
        invariance = variance = covariances = pairs[0][0].new_zeros(())
        for a, b in pairs:
            invariance = invariance + self.invariance * (a - b).square().mean()
        for z in (z for pair in pairs for z in pair):
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


@objective(
    "corinfomax", paper="Ozsoy et al. 2022, NeurIPS, Self-Supervised Learning with an Information Maximization "
    "Criterion",
    family="second order", cost="B D² + D³", state="running mean and covariance of both sides, D² each",
    slots="log-determinant of running covariances, mean square invariance",
    note="constants of UNSEE's code, for texts; the paper's own for images are not here",
)  # fmt: skip
class CorInfoMax(SecondOrder):
    """``invariance * mean (x - y)^2 - covariance * (log det(R_x + eps I) + log det(R_y + eps I)) / D``.

    R is a running covariance, ``R <- keep * R + (1 - keep) * C`` with C the batch's, divided by B and centred at the
    running mean, which moves in the same way first; R starts as I, the mean as zero, and the old values have no
    gradient. With ``keys: guide`` both pairs move one state, one after the other. Computed in double precision.

    Parameters
    ----------
    invariance, covariance : float
        Weights of the terms.
    keep : float
        Share of the old statistics.
    eps : float
        Added to the diagonal.
    keys : str
        "own" or "guide", see `SecondOrder`.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("corinfomax", dim=2)(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 3)
    2001.057
    """

    def __init__(
        self, *, invariance: float = 2000.0, covariance: float = 0.2, keep: float = 0.01, eps: float = 1e-6,
        keys: str = "own", dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(keys)
        self.invariance = number("invariance", invariance, least=0)
        self.covariance = number("covariance", covariance, least=0)
        self.keep, self.eps = number("keep", keep, least=0, below=1), number("eps", eps, above=0)
        self.register_buffer("means", torch.zeros(2, dim or 0, dtype=torch.float64))
        self.register_buffer("covariances", torch.eye(dim or 0, dtype=torch.float64).repeat(2, 1, 1))

    def _advanced(
        self, state: tuple[Tensor, Tensor], pair: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Means (2, D) and covariances (2, D, D) after a pair of vectors (B, D)."""
        x = torch.stack(pair).double()  # (2, B, D)
        means = self.keep * state[0].detach() + (1 - self.keep) * x.mean(dim=1)
        centred = x - means[:, None]
        batch = centred.transpose(1, 2) @ centred / x.shape[1]
        return means, self.keep * state[1].detach() + (1 - self.keep) * batch

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``invariance`` and ``covariance``."""
        pairs = self.pairs(embeddings, batch)
        kind, dim = pairs[0][0].dtype, pairs[0][0].shape[1]
        state = self.get_buffer("means").double(), self.get_buffer("covariances").double()
        if state[0].shape[1] != dim:
            raise RecipeError("the covariances' size is not known", where="objective", remedy="build it with dim=")
        eye = self.eps * torch.eye(dim, dtype=torch.float64, device=state[0].device)
        invariance, spread = pairs[0][0].new_zeros(()), state[0].new_zeros(())
        for a, b in pairs:
            state = self._advanced(state, (a, b))
            invariance = invariance + self.invariance * (a - b).square().mean()
            spread = spread - self.covariance * torch.linalg.slogdet(state[1] + eye).logabsdet.sum() / dim
        return loss_of_batch({"invariance": invariance, "covariance": spread.to(kind)}, batch)

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Keep the statistics of this step."""
        state = self.get_buffer("means").double(), self.get_buffer("covariances").double()
        for pair in self.pairs(embeddings, batch):
            state = self._advanced(state, pair)
        self.get_buffer("means").copy_(state[0])
        self.get_buffer("covariances").copy_(state[1])
