"""Weights of a sum by multi-objective optimisation: the shortest vector among the mixtures of the terms' gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.compose.wrappers import Terms, merge
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, prepare, require

MOST = 10
"""Terms at most: every set of them is looked at."""


def min_norm(gram: np.ndarray) -> np.ndarray:
    """Weights (T,), not negative and of sum 1, of the shortest mixture of T vectors with inner products (T, T).

    Exact: the solution mixes some set of the vectors with equal multipliers; all sets are tried, the smallest first.

    Examples
    --------
    >>> min_norm(np.array([[1.0, 0.0], [0.0, 3.0]])).round(3)  # perpendicular: the shorter one counts more
    array([0.75, 0.25])
    >>> min_norm(np.array([[1.0, 2.0], [2.0, 5.0]]))  # the first is the shortest mixture itself
    array([1., 0.])
    """
    size = len(gram)
    best, least = np.full(size, 1 / size), np.inf
    for count in range(1, size + 1):
        for subset in map(list, combinations(range(size), count)):
            inner = gram[np.ix_(subset, subset)]
            solution = np.linalg.lstsq(inner, np.ones(count), rcond=None)[0]
            if count > 1 and not np.allclose(inner @ solution, 1.0, atol=1e-9):
                # a mixture of length 0: the null space holds it
                solution = np.linalg.svd(inner)[2][-1]
                solution *= np.sign(solution.sum()) or 1.0
            if not (solution >= 0).all() or solution.sum() <= 0:
                continue
            solution = solution / solution.sum()
            length = float(solution @ inner @ solution)
            if length < least - 1e-12 * abs(gram).max():
                least, best = length, np.zeros(size)
                best[subset] = solution
    return best


@objective(
    "mgda", paper="Desideri 2012; Sener and Koltun 2018, NeurIPS (arXiv 1810.04650), section 3.3: gradients on the "
    "shared representation; weights of Topic Modeling as Multi-Objective Contrastive Optimization", family="wrapper",
    slots="any objectives, weights that let none of them grow", cost="that of its terms, on every process",
)  # fmt: skip
class MinNorm(Terms):
    """A sum whose weights make the gradient on the embeddings the shortest mixture of those of the terms.

    A step along it lets no term grow (to first order); where it is zero, the terms cannot all be lowered any more
    (Pareto stationarity). The weights are of sum 1, found anew in every step, and have no gradient. Parameters of the
    terms get their weighted gradients.

    Parameters
    ----------
    terms : list of mapping
        See `Terms`; two to ten. Their own weights scale losses and gradients before the mixture is found.
    normalize : str
        What each gradient is divided by before: "none", "norm" (its length), "loss" (the value of its term) or
        "loss-norm" (both), as in the official code.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}
    >>> objective = build({"name": "mgda", "terms": [{"name": "infonce"}, {"name": "align-uniform"}]})
    >>> sorted(objective(z, ObjectiveBatch.of(z)).metrics)
    ['weight/align-uniform', 'weight/infonce']
    """

    def __init__(
        self,
        *,
        terms: Sequence[Mapping[str, Any]],
        normalize: str = "none",
        dim: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__(terms, dim, num_rows)
        require(1 < len(self.labels) <= MOST, "terms", self.labels, f"two to {MOST} objectives")
        self.normalize = choice("normalize", normalize, ("none", "norm", "loss", "loss-norm"))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """This process's share of the mixture; metrics: the weight of each term."""
        z = prepare(embeddings)
        shares = self._mixture(z, replace(batch, rows=slice(0, batch.size)))
        parts = {}
        for at, (label, part) in enumerate(zip(self.labels, self.inner, strict=True)):
            parts[label] = (self.weights[at] * float(shares[at]), part(*self.inputs_of(at, z, batch)))
        out = merge(parts)
        like = out.loss.detach()
        weights = {f"weight/{label}": like.new_tensor(share) for label, share in zip(self.labels, shares, strict=True)}
        return LossOutput(out.loss, out.terms, {**out.metrics, **weights})

    def _mixture(self, z: dict[str, Tensor], everyone: ObjectiveBatch) -> np.ndarray:
        """The weights (T,), from the gradients of the whole batch: the same on every process."""
        grads, values = [], []
        for at, (weight, part) in enumerate(zip(self.weights, self.inner, strict=True)):
            with torch.enable_grad():
                leaves = {name: x.detach().requires_grad_() for name, x in z.items()}
                loss = weight * part(*self.inputs_of(at, leaves, everyone)).loss
                gradient = torch.autograd.grad(loss, [*leaves.values()], allow_unused=True, materialize_grads=True)
            grads.append(torch.cat([g.reshape(-1).double() for g in gradient]))
            values.append(float(loss.detach()))
        every = torch.stack(grads)
        gram = (every @ every.T).cpu().numpy()
        scales = np.ones(len(gram))
        if "loss" in self.normalize:
            scales *= np.maximum(np.abs(values), 1e-12)
        if "norm" in self.normalize and self.normalize != "none":
            scales *= np.maximum(np.sqrt(np.diag(gram)), 1e-12)
        return min_norm(gram / np.outer(scales, scales))
