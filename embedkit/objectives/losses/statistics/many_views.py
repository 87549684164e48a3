"""Statistics of many views: coding rate (EMP-SSL), Frobenius and nuclear norms (FroSSL, MMCR), covariance (TiCo)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, Family, all_views, guides, loss_of_batch
from embedkit.objectives.losses.statistics.redundancy_reduction import SecondOrder
from embedkit.objectives.matrix.similarity import views_of
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, unit


def coding_rate(vectors: Tensor, eps: float) -> Tensor:
    """``log det(I + D / (B eps) z'z) / 2`` of vectors (B, D): how much of the space they fill.

    Yu et al. 2020, "Maximal Coding Rate Reduction", eq. 1, with eps for its square. Computed in double precision.

    Examples
    --------
    >>> import torch
    >>> round(coding_rate(torch.eye(2), eps=1.0).item(), 4)  # two eigenvalues of 1 + 1
    0.6931
    """
    wide = vectors.double()
    rows, dim = wide.shape
    gram = wide.T @ wide if dim < rows else wide @ wide.T  # both have the same determinant
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.slogdet(eye + dim / (rows * eps) * gram).logabsdet.to(vectors.dtype) / 2


@objective(
    "emp-ssl", paper="Tong et al. 2023, arXiv 2304.03977, EMP-SSL, eq. 3", family="second order", cost="V (B D² + D³)",
    slots="coding rate of each view, cosine with the mean of the views",
    note="eps stands for the paper's square of it, as in the authors' code",
)  # fmt: skip
class EMPSSL(Family):
    """``-invariance * mean_v cos(z_v, mean of views) - mean_v R(z_v)``, R the coding rate of unit vectors.

    Parameters
    ----------
    invariance : float
        Weight of the cosine.
    eps : float
        Distortion of the coding rate, see `coding_rate`.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> loss = build({"name": "emp-ssl", "eps": 1.0, "invariance": 1.0})(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    -1.6931
    """

    accepts = FURTHER

    def __init__(self, *, invariance: float = 200.0, eps: float = 0.2) -> None:
        super().__init__()
        self.invariance, self.eps = number("invariance", invariance, least=0), number("eps", eps, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``invariance`` and ``coding_rate``."""
        views = torch.stack([unit(z) for z in all_views(embeddings)])  # (V, B, D)
        cosine = (views * unit(views.mean(dim=0))).sum(dim=2).mean()
        rate = torch.stack([coding_rate(z, self.eps) for z in views]).mean()
        return loss_of_batch({"invariance": -self.invariance * cosine, "coding_rate": -rate}, batch)


@objective(
    "frossl", paper="Skean et al. 2024, ECCV, FroSSL (arXiv 2310.02903), eq. 5", family="second order", cost="V B D²",
    slots="log of the covariance's Frobenius norm, distance from the mean of the views",
    note="the scale of the invariance term is that of a port",
)  # fmt: skip
class FroSSL(Family):
    """``sum_v log ||C_v||_F²`` plus ``invariance * sum_v V / B * sum_i ||z_vi - mean of views||²``.

    Columns of a view are scaled to length one over the batch; ``C = z'z / trace``. The norm is least when all
    eigenvalues are equal.

    Parameters
    ----------
    invariance : float
        Weight of the distances.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> round(build("frossl")(z, ObjectiveBatch.of(z)).loss.item(), 4)  # twice the log of 1/2
    -1.3863
    """

    accepts = FURTHER

    def __init__(self, *, invariance: float = 1.0) -> None:
        super().__init__()
        self.invariance = number("invariance", invariance, least=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``invariance`` and ``norm``."""
        views = torch.stack([unit(z.T).T for z in all_views(embeddings)])  # (V, B, D), unit columns
        count, rows, dim = views.shape
        norms = []
        for z in views:
            gram = z.T @ z if dim < rows else z @ z.T
            trace = torch.diagonal(gram).sum().clamp_min(1e-12)
            norms.append((gram / trace).square().sum().clamp_min(1e-12).log())
        apart = (views - views.mean(dim=0)).square().sum() * count / rows
        return loss_of_batch({"invariance": self.invariance * apart, "norm": torch.stack(norms).sum()}, batch)


@objective(
    "mmcr", paper="Yerxa et al. 2023, NeurIPS, Maximum Manifold Capacity Representations (arXiv 2303.03307), eq. 5",
    family="second order", cost="B D² and B V² D", slots="nuclear norms of the centroids and of each row's views",
)  # fmt: skip
class MMCR(Family):
    """``-||C||_* + local / B * sum_i ||Z_i||_*``: C (B, D) the means of the rows' unit views Z_i (V, D).

    The first term spreads the centroids over all directions, and lengthens them where the views agree.

    Parameters
    ----------
    local : float
        Weight of the second term.
    with_guide : bool
        Whether the guide's vectors of the views, a running mean of the encoder, stand beside the views.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> round(build({"name": "mmcr", "local": 0.0})(z, ObjectiveBatch.of(z)).loss.item(), 4)  # two singular values of 1
    -2.0
    """

    accepts = FURTHER

    def __init__(self, *, local: float = 0.005, with_guide: bool = False) -> None:
        super().__init__()
        self.local, self.with_guide = number("local", local, least=0), choice("with_guide", with_guide, (True, False))
        if with_guide:
            self.requires = self.requires | {"guide"}

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``centroids`` and ``local``."""
        views = all_views(embeddings)
        if self.with_guide:
            names = [name for name in views_of(embeddings) if name in batch.guide] or ["anchor"]
            views += guides(batch, *names, like=views[0])
        each = torch.stack([unit(z) for z in views], dim=1)  # (B, V, D)
        terms = {"centroids": -torch.linalg.svdvals(each.mean(dim=1)).sum()}
        if self.local:
            terms["local"] = self.local * torch.linalg.svdvals(each).sum() / batch.size
        return loss_of_batch(terms, batch)


@objective(
    "tico", paper="Zhu et al. 2022, arXiv 2206.10698, TiCo, algorithm 1", family="second order", cost="B D²",
    state="running mean of the products of columns, D²", slots="cosine of pairs, running uncentred covariance",
)  # fmt: skip
class TiCo(SecondOrder):
    """``1 - mean cos(x, y) + contrast * mean x' C x`` of unit vectors, C a running mean of ``x'x / B``.

    ``C <- keep * C + (1 - keep) * x'x / B``, without gradient, is moved before it is read; it starts at zero. With
    ``keys: guide`` (the paper's, y by a running mean of the encoder) both crossed pairs move one state, one after the
    other, and their losses are added.

    Parameters
    ----------
    contrast : float
        Weight of the second term, rho of the paper.
    keep : float
        Share of the old state, beta of the paper.
    keys : str
        "own" or "guide", see `SecondOrder`.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> round(build("tico", dim=2)(z, ObjectiveBatch.of(z)).loss.item(), 4)  # 8 x 0.1 x 1/2
    0.4
    """

    def __init__(self, *, contrast: float = 8.0, keep: float = 0.9, keys: str = "own", dim: int | None = None) -> None:
        super().__init__(keys)
        self.contrast, self.keep = number("contrast", contrast, least=0), number("keep", keep, least=0, below=1)
        self.register_buffer("products", torch.zeros(dim or 0, dim or 0, dtype=torch.float64))

    @torch.no_grad()
    def _advanced(self, state: Tensor, vectors: Tensor) -> Tensor:
        """The state after a batch of unit vectors (B, D)."""
        wide = vectors.to(state.dtype)
        return self.keep * state + (1 - self.keep) * wide.T @ wide / len(wide)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the terms ``invariance`` and ``contrast``."""
        pairs = [(unit(x), unit(y)) for x, y in self.pairs(embeddings, batch)]
        state = self.get_buffer("products").double()
        if len(state) != pairs[0][0].shape[1]:
            raise RecipeError("the covariance's size is not known", where="objective", remedy="build it with dim=")
        invariance = contrast = pairs[0][0].new_zeros(())
        for x, y in pairs:
            state = self._advanced(state, x)
            invariance = invariance + 1 - (x * y).sum(dim=1).mean()
            contrast = contrast + self.contrast * ((x @ state.to(x.dtype)) * x).sum(dim=1).mean()
        return loss_of_batch({"invariance": invariance, "contrast": contrast}, batch)

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Keep the state of this step."""
        state = self.get_buffer("products").double()
        for x, _ in self.pairs(embeddings, batch):
            state = self._advanced(state, unit(x))
        self.get_buffer("products").copy_(state)
