"""Shuffled group whitening, a normalisation of a whole batch. Import this file inside functions: it needs torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import ModelError


class _InverseRoot(torch.autograd.Function):
    """S^(-1/2) of symmetric positive matrices (..., n, n); the gradient is finite where eigenvalues are equal."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        roots = values.sqrt()
        ctx.save_for_backward(roots, vectors)
        return (vectors / roots[..., None, :]) @ vectors.transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        one, two = roots[..., :, None], roots[..., None, :]
        # (a^-1/2 - b^-1/2) / (a - b), written without the difference
        quotient = -1.0 / (one * two * (one + two))
        inner = vectors.transpose(-1, -2) @ ((grad + grad.transpose(-1, -2)) / 2) @ vectors
        return vectors @ (quotient * inner) @ vectors.transpose(-1, -2)


class ShuffledGroupWhitening(nn.Module):
    """Whitens random groups of columns over the rows given (WhitenedCSE, Zhuo et al. 2023, section 3.2).

    The columns are shuffled, cut into equal groups, each group is centred and multiplied by the inverse root of its
    covariance (ZCA, divisor N, plus `eps` on the diagonal), and the shuffle is undone. In single precision at least.
    It has no weights and is not used at inference.

    Parameters
    ----------
    size : int
        Columns D.
    groups : int
        Groups G; each has D / G columns.
    eps : float
        Added to the variances. The released code has none, and fails where a group's covariance is singular.

    Raises
    ------
    ModelError
        The columns cannot be cut into equal groups.

    Examples
    --------
    >>> z = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) * 5 + 1
    >>> white = ShuffledGroupWhitening(6, groups=2)(z, None)
    >>> torch.round(white[:, :3].T @ white[:, :3] / 64, decimals=3) + 0.0
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """

    def __init__(self, size: int, groups: int = 128, eps: float = 1e-5) -> None:
        super().__init__()
        if size % groups:
            raise ModelError(f"vectors of {size} numbers cannot be cut into {groups} equal groups",
                             where="method.groups", remedy=f"give a divisor of {size}")  # fmt: skip
        self.groups, self.eps = groups, eps

    def forward(self, vectors: Tensor, generator: torch.Generator | None) -> Tensor:
        """(N, D) -> (N, D); the shuffle is drawn from `generator`, none without one."""
        z = vectors if vectors.dtype == torch.float64 else vectors.float()
        count, size = z.shape
        order = torch.arange(size) if generator is None else torch.randperm(size, generator=generator)
        order = order.to(z.device)
        with torch.autocast(z.device.type, enabled=False):
            grouped = z[:, order].view(count, self.groups, -1).transpose(0, 1)  # (G, N, D / G)
            centred = grouped - grouped.mean(dim=1, keepdim=True)
            covariance = centred.transpose(1, 2) @ centred / count
            eye = torch.eye(covariance.shape[-1], dtype=z.dtype, device=z.device)
            white = centred @ _InverseRoot.apply(covariance + self.eps * eye)
        return white.transpose(0, 1).reshape(count, size)[:, order.argsort()]
