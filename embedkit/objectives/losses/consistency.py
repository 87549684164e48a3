"""Agreement of two views on how alike the other rows are (CO2)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, loss_of_rows, other_rows, take
from embedkit.objectives.matrix.similarity import Side, collect
from embedkit.objectives.parts.banks import Queue
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, prepare, unit, whole


@objective(
    "co2", paper="Wei et al. 2021, ICLR, CO2: Consistent Contrast (arXiv 2010.02217), eq. 4 to 6", family="potential",
    splits=True, cost="B (B + Q) D", state="queue (Q, D) when asked for",
    slots="symmetric divergence of two views' softmax over the other rows or a queue",
    note="[M] a term beside a contrastive loss: {name: sum, terms: [{name: moco}, {name: co2, weight: 10}]}",
)  # fmt: skip
class CO2(Family):
    """``(KL(p || q) + KL(q || p)) / 2``, averaged over rows: q and p are how alike anchor and positive find the rest.

    ``q_j = softmax_j(cos(anchor, n_j) / temperature)``, p the same of the positive. With a queue, n are the last
    positives of earlier steps, without gradient, as in the paper; without one they are the other rows of the batch,
    their positives for an anchor and their anchors for a positive. A single row without a queue counts as zero.

    Parameters
    ----------
    temperature : float
        Of both distributions.
    size : int
        Vectors of the queue; 0 for none. It starts with random unit vectors.
    pair : bool
        Whether the row's own pair stands in both distributions too.
    dim : int or None
        Size of the embeddings, for the queue.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(3), "positive": torch.eye(3)}  # both find all others equally alike
    >>> build("co2")(z, ObjectiveBatch.of(z)).loss
    tensor(0.)
    """

    repels = True

    def __init__(self, *, temperature: float = 0.05, size: int = 0, pair: bool = False, dim: int | None = None) -> None:
        super().__init__()
        self.temperature, self.pair = number("temperature", temperature, above=0), choice("pair", pair, (True, False))
        self.queue = Queue(size, dim=dim) if whole("size", size) else None
        if self.queue is not None:
            self.queue.keeps_roles = False

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """The queue, or the batch."""
        if self.queue is not None:
            return NegativeCount(in_batch=0, hard=0, other_processes=0, bank=self.queue.size)
        return super().negatives(batch_size, hard, processes)

    def _log_share(self, view: Tensor, other: Tensor, bank: Side | None, rows: slice) -> Tensor:
        """Logarithm of a view's distribution (rows, N) over the rest; -inf where a candidate does not count."""
        pair = (view[rows] * other[rows]).sum(dim=1, keepdim=True)
        if bank is not None:
            scores, there = view[rows] @ bank.z.T, None
        else:
            scores, there = view[rows] @ other.T, other_rows(len(view), rows, view.device)
        logits = scores / self.temperature
        logits = logits if there is None else logits.masked_fill(~there, -torch.inf)
        if self.pair:
            logits = torch.cat([pair / self.temperature, logits], dim=1)
        return logits.log_softmax(dim=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The divergence of this process's rows."""
        a, b = (unit(z) for z in take(embeddings, *PAIR))
        bank = None if self.queue is None else self.queue.side(Side(a, {}))
        if bank is None and batch.size < 2:
            return loss_of_rows({"consistency": 0.0 * (a.sum() + b.sum())})
        q, p = self._log_share(a, b, bank, batch.rows), self._log_share(b, a, bank, batch.rows)
        there = torch.isfinite(q) & torch.isfinite(p)
        q, p = q.masked_fill(~there, -1e4), p.masked_fill(~there, -1e4)  # e^-10000 is 0; inf - inf would be NaN
        gap = ((q.exp() - p.exp()) * (q - p)).sum()  # KL(q || p) + KL(p || q)
        return loss_of_rows({"consistency": gap / (2 * batch.size)})

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Put the positives into the queue."""
        if self.queue is not None:
            z = prepare(embeddings)
            self.queue.after_step(z, batch, collect(["positive"], z, batch))
