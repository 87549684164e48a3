"""Assignment to learned prototypes (SwAV)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, PAIR, Family, all_views, loss_of_rows, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import number, require, unit, whole


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignment of N vectors to K prototypes that uses all prototypes equally.

    Cuturi 2013; Caron et al. 2020, section 3.1. Computed on logarithms, so that no epsilon overflows.

    Parameters
    ----------
    scores : Tensor (N, K)
        Similarities.
    epsilon : float
        Entropic regularisation: smaller is sharper.
    iterations : int
        Rounds of normalising prototypes, then vectors.

    Returns
    -------
    Tensor (N, K)
        Rows sum to one; columns sum to about N / K.

    Examples
    --------
    >>> import torch
    >>> sinkhorn(torch.tensor([[0.9, 0.1], [0.8, 0.7]]), epsilon=0.5, iterations=20)
    tensor([[0.6682, 0.3318],
            [0.3318, 0.6682]])
    """
    plan = scores / epsilon
    for _ in range(iterations):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return plan.exp()


@objective(
    "swav", paper="Caron et al. 2020, NeurIPS, SwAV, section 3.1", family="prototypes", splits=True,
    slots="cosine with learned prototypes, Sinkhorn codes of the other view, softmax", cost="B K D",
    state="prototypes (K, D); queue (2, L, D) when asked for",
)  # fmt: skip
class SwAV(Family):
    """Swapped prediction: the code of one view, a balanced assignment to prototypes, from the other views.

    Codes are made of "anchor" and "positive" without gradient, predictions by every other view:
    ``-sum_k code_k log softmax(cos(z, c_k) / temperature)``, averaged over rows and over the 2 (V - 1) pairs.
    Prototypes are scaled to length one where they are used and after every step; the gradient is taken through the
    scaling, so that it has no part along the prototype.

    Parameters
    ----------
    prototypes : int
        How many, K.
    temperature : float
        Of the prediction.
    epsilon, iterations : float, int
        Regularisation and rounds of the assignment.
    freeze_steps : int
        Steps at the start in which prototypes get no gradient.
    queue : int
        Earlier embeddings of each of the two views that take part in the assignment; zero for none. Small batches need
        it.
    queue_from : int
        Epoch from which the queue is filled; it is used once it is full.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.
    num_rows : int or None
        Rows of the training data, of which there must be at least as many as prototypes.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> loss = build({"name": "swav", "prototypes": 2}, dim=2, num_rows=2)(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    11.9534
    """

    accepts = FURTHER

    def __init__(
        self,
        *,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        freeze_steps: int = 313,
        queue: int = 0,
        queue_from: int = 15,
        dim: int | None = None,
        num_rows: int | None = None,
    ) -> None:
        super().__init__()
        count = whole("prototypes", prototypes, least=2)
        if num_rows is not None:
            require(count <= num_rows, "prototypes", prototypes, f"at most the {num_rows} rows of the training data")
        self.temperature = number("temperature", temperature, above=0)
        self.epsilon = number("epsilon", epsilon, above=0)
        self.iterations = whole("iterations", iterations, least=1)
        self.freeze_steps = whole("freeze_steps", freeze_steps)
        self.queue_from = whole("queue_from", queue_from)
        length = whole("queue", queue)
        self.prototypes = None if dim is None else nn.Parameter(unit(torch.randn(count, dim)))
        self.queue: Tensor
        self.filled: Tensor
        self.register_buffer("queue", torch.zeros(2, length, dim or 0))  # newest first, unit vectors
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))  # vectors in the queue, of each view

    def _codes(self, scores: Tensor, earlier: Tensor, bank: Tensor) -> Tensor:
        """Codes (B, K) of the batch from its scores (B, K), with the queue (L, D) when it is full."""
        scores = scores.detach()
        if len(earlier) and int(self.filled) == len(earlier):
            scores = torch.cat([scores, earlier.to(bank.dtype) @ bank.detach().T])  # (B + L, K)
        return sinkhorn(scores, self.epsilon, self.iterations)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The prediction loss of this process's rows; every process computes the codes of the whole batch."""
        if self.prototypes is None:
            raise RecipeError("the prototypes' size is not known", where="objective", remedy="build it with dim=")
        views = [unit(z) for z in all_views(embeddings)]
        bank = unit(self.prototypes.to(views[0].dtype))  # (K, D)
        if batch.step < self.freeze_steps:
            bank = bank.detach()
        scores = [z @ bank.T for z in views]  # V times (B, K)
        rows, total = batch.rows, views[0].new_zeros(())
        for source in range(2):
            code = self._codes(scores[source], self.queue[source], bank)[: batch.size][rows]
            for view, logits in enumerate(scores):
                if view != source:
                    total = total - (code * (logits[rows] / self.temperature).log_softmax(dim=1)).sum()
        return loss_of_rows({"prediction": total / (batch.size * 2 * (len(views) - 1))})

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Scale the prototypes to length one and put the batch into the queue."""
        if self.prototypes is not None:
            self.prototypes.copy_(unit(self.prototypes))
        length = self.queue.shape[1]
        if length and batch.epoch >= self.queue_from:
            newest = torch.stack([unit(z) for z in take(embeddings, *PAIR)]).to(self.queue.dtype)  # (2, B, D)
            self.queue.copy_(torch.cat([newest, self.queue], dim=1)[:, :length])
            self.filled.fill_(min(int(self.filled) + newest.shape[1], length))
