"""Gradient harmonisation: a sum of objectives whose gradients are realigned where they conflict.

Realignment is not linear in the gradients, so it cannot be done on shares. As every process has the embeddings of the
whole batch, each computes every term over all rows, realigns the whole gradients in the same way, and returns its
share of the result. That costs every process the whole similarity matrix; it is exact for any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.compose.wrappers import Terms, merge
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, prepare, require

Gradient = dict[str, Tensor]
"""Gradients of one term by name of embedding, (N_name, D) each."""


def _row_products(a: Gradient, b: Gradient, batch: ObjectiveBatch, scope: str) -> Tensor:
    """Inner products (B,) of two gradients, summed over the vectors of each row; with "batch" their sum, B times."""
    products = torch.stack([
        x.new_zeros(batch.size).index_add(0, batch.owner[name], (x * b[name]).sum(dim=1)) for name, x in a.items()
    ]).sum(dim=0)  # fmt: skip
    return products.sum().expand(batch.size) if scope == "batch" else products


def realign(grads: list[Gradient], batch: ObjectiveBatch, scope: str) -> tuple[list[Gradient], Tensor]:
    """Each gradient, projected onto the normal plane of every other that it conflicts with.

    Yu et al. 2020, "Gradient Surgery", algorithm 1: the others are taken in random order (a function of seed and step)
    and as they were at first.

    Returns
    -------
    (list of Gradient, Tensor ())
        The projections, and the share of pairs of terms (and rows) that were in conflict.

    Examples
    --------
    >>> import torch
    >>> batch = ObjectiveBatch.of({"anchor": torch.eye(1, 2)})
    >>> one, two = {"anchor": torch.tensor([[1.0, 0.0]])}, {"anchor": torch.tensor([[-1.0, 1.0]])}
    >>> projections, conflict = realign([one, two], batch, "batch")
    >>> [gradient["anchor"].tolist() for gradient in projections], conflict.item()
    ([[[0.5, 0.5]], [[0.0, 1.0]]], 1.0)
    """
    generator = batch.generator("harmonise")
    projections = []
    for at, own in enumerate(grads):
        projection = own
        for k in torch.randperm(len(grads), generator=generator).tolist():
            if k == at:
                continue
            product = _row_products(projection, grads[k], batch, scope)  # (B,)
            length = _row_products(grads[k], grads[k], batch, scope)
            factor = torch.where(product < 0, product / torch.where(length > 0, length, 1.0), 0.0)
            projection = {n: x - factor[batch.owner[n], None] * grads[k][n] for n, x in projection.items()}
        projections.append(projection)
    pairs = [_row_products(a, b, batch, scope) < 0 for a, b in combinations(grads, 2)]
    return projections, torch.stack(pairs).double().mean()


@objective(
    "harmonise", paper="Wu et al. 2022, NeurIPS, Scaling Multimodal Pre-Training via Cross-Modality Gradient "
    "Harmonization (arXiv 2211.02077); projection by Yu et al. 2020, Gradient Surgery, algorithm 1", family="wrapper",
    slots="any objectives, gradients on the embeddings realigned", cost="that of its terms, on every process",
    note="Only the abstract of the harmonisation paper was at hand; its threshold and the schedule are ours.",
)  # fmt: skip
class Harmonise(Terms):
    """A weighted sum whose terms' gradients on the embeddings no longer oppose each other.

    The value is that of `sum`. The gradient on the embeddings is the sum of the realigned gradients; trained
    parameters of the terms keep their own gradient. The gradient is not that of any function, so it has no second
    derivative.

    Parameters
    ----------
    terms : list of mapping
        See `Terms`; two or more. Terms on different views, e.g. ``inputs: {positive: view3}``, meet in the anchors.
    scope : str
        "batch": one inner product over all embeddings decides; "row": each row is realigned on its own.
    drop_below : float or None
        Rows where the cosine of two terms' gradients is below this number get no gradient on embeddings (noisy
        alignment). The number falls linearly to -1, where nothing is dropped, at the end of the run.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> objective = build({"name": "harmonise", "terms": [{"name": "infonce"}, {"name": "align-uniform"}]})
    >>> loss = objective(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    18.0
    """

    def __init__(
        self,
        *,
        terms: Sequence[Mapping[str, Any]],
        scope: str = "batch",
        drop_below: float | None = None,
        dim: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__(terms, dim, num_rows)
        require(len(self.labels) > 1, "terms", self.labels, "two objectives or more")
        self.scope = choice("scope", scope, ("batch", "row"))
        self.drop_below = None if drop_below is None else number("drop_below", drop_below, least=-1, most=0)

    def _valid_rows(self, grads: list[Gradient], batch: ObjectiveBatch) -> Tensor:
        """Mask (B,) of the rows whose gradients agree well enough."""
        valid = torch.ones(batch.size, dtype=torch.bool, device=batch.ids.device)
        if self.drop_below is None:
            return valid
        progress = min(batch.step / max(batch.total_steps, 1), 1.0)
        threshold = self.drop_below + (-1.0 - self.drop_below) * progress
        lengths = [_row_products(g, g, batch, "row").sqrt() for g in grads]
        for i, j in combinations(range(len(grads)), 2):
            valid &= _row_products(grads[i], grads[j], batch, "row") >= threshold * lengths[i] * lengths[j]
        return valid

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The weighted sum; metrics: the shares of pairs in ``conflict`` and of ``dropped`` rows, without gradient."""
        z = prepare(embeddings)
        everyone = replace(batch, rows=slice(0, batch.size))
        parameters = [p for p in self.parameters() if p.requires_grad]
        outputs, grads = [], []
        slopes = [torch.zeros_like(p) for p in parameters]
        for at, (weight, part) in enumerate(zip(self.weights, self.inner, strict=True)):
            with torch.enable_grad():
                leaves = {name: x.detach().requires_grad_() for name, x in z.items()}
                out = part(*self.inputs_of(at, leaves, everyone))
                gradients = torch.autograd.grad(
                    weight * out.loss, [*leaves.values(), *parameters], allow_unused=True, materialize_grads=True
                )
            grads.append(dict(zip(leaves, gradients, strict=False)))
            slopes = [s + g for s, g in zip(slopes, gradients[len(leaves) :], strict=True)]
            outputs.append(replace(out, loss=out.loss.detach()))
        projections, conflict = realign(grads, everyone, self.scope)
        valid = self._valid_rows(grads, everyone)
        whole = merge(dict(zip(self.labels, zip(self.weights, outputs, strict=True), strict=True)))
        # Zero in value; its gradients are the ones found above.
        carrier = [
            (x - x.detach()) * sum(g[n] for g in projections) * valid[batch.owner[n], None] for n, x in z.items()
        ]
        carrier += [(p - p.detach()) * s for p, s in zip(parameters, slopes, strict=True)]
        loss = batch.share * (whole.loss + torch.stack([c.sum() for c in carrier]).sum())
        terms = {name: value * batch.share for name, value in whole.terms.items()}
        agreement = {"conflict": conflict, "dropped": 1.0 - valid.double().mean()}
        return LossOutput(loss, terms, {**whole.metrics, **agreement})
