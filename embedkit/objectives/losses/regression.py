"""Asymmetric regression without negatives: a predictor on one side, a stop-gradient on the other.

Where the target comes from: SimSiam's is the other view's own embedding; BYOL's comes from the EMA of the
encoder and arrives, like every output of a second model, as ``batch.guide["anchor"]`` and ``batch.guide["positive"]``.
The predictor belongs to the objective, so that it is trained, saved and resumed with it and never exported. Its
BatchNorm normalises over the whole batch of all processes and has no running statistics: it is not used outside
training, and so the loss does not depend on the number of processes or of evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, cosines, guides, loss_of_rows, take
from embedkit.objectives.losses.statistics.redundancy_reduction import standardise
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import unit, whole


class Predictor(nn.Module):
    """Linear without bias, BatchNorm over all rows, ReLU, Linear; computed in the precision of its input.

    Parameters
    ----------
    dim, hidden : int
        Columns of input and output, and between the two layers.

    Examples
    --------
    >>> import torch
    >>> Predictor(dim=4, hidden=8)(torch.randn(3, 4)).shape
    torch.Size([3, 4])
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, hidden, bias=False)
        self.scale = nn.Parameter(torch.ones(hidden))
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.second = nn.Linear(hidden, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Predictions (B, dim) of vectors (B, dim). A batch of one row gives the same output whatever the row."""
        kind = vectors.dtype
        hidden = standardise(vectors @ self.first.weight.to(kind).T)  # (B, hidden)
        hidden = torch.relu(hidden * self.scale.to(kind) + self.shift.to(kind))
        return hidden @ self.second.weight.to(kind).T + self.second.bias.to(kind)


class Regression(Family):
    """Base class of BYOL and SimSiam: cosine of one view's prediction with the other view's target, without negatives.

    Parameters
    ----------
    hidden : int
        Width of the predictor's hidden layer; 0 for no predictor, where the method has one.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.ones(2, 2), "positive": torch.ones(2, 2)}
    >>> build({"name": "simsiam", "hidden": 2}, dim=2)(z, ObjectiveBatch.of(z)).metrics  # all equal: collapse
    {'spread': tensor(0.)}
    """

    def __init__(self, *, hidden: int, dim: int | None = None) -> None:
        super().__init__()
        hidden = whole("hidden", hidden)
        self.predictor = None if dim is None else Predictor(dim, hidden) if hidden else nn.Identity()

    def targets(self, views: list[Tensor], batch: ObjectiveBatch) -> list[Tensor]:
        """The targets (B, D) of both views, before the swap."""
        raise TypeError(f"{type(self).__name__} does not define targets")

    def symmetric_cosine(
        self, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over this process's rows of both cosines, divided by B; and the spread of the embeddings.

        The spread is the mean over columns of the standard deviation of unit vectors, times the root of D: about one
        for healthy embeddings, zero when they have collapsed.
        """
        if self.predictor is None:
            raise RecipeError("the predictor's size is not known", where="objective", remedy="build it with dim=")
        a, b = take(embeddings, *PAIR)
        target_a, target_b = (t.detach() for t in self.targets([a, b], batch))
        rows = batch.rows
        first = cosines(self.predictor(a)[rows], target_b[rows]).sum() / batch.size
        second = cosines(self.predictor(b)[rows], target_a[rows]).sum() / batch.size
        spread = unit(a.detach()).std(dim=0, correction=0).mean() * a.shape[1] ** 0.5
        return first + second, {"spread": spread}


@objective(
    "byol", paper="Grill et al. 2020, NeurIPS, Bootstrap Your Own Latent, eq. 2", family="regression", splits=True,
    slots="predictor, target by the running mean of the encoder, cosine", cost="B D hidden", state="guide: EMA encoder",
)  # fmt: skip
class BYOL(Regression):
    """``(2 - 2 cos(p(z1), t2)) + (2 - 2 cos(p(z2), t1))``, t the vectors of the EMA encoder.

    Parameters
    ----------
    hidden : int
        Width of the predictor's hidden layer; 0 for none.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> loss = build({"name": "byol", "hidden": 2}, dim=2, num_rows=2)(z, ObjectiveBatch.of(z, guide=z)).loss
    >>> round(loss.item(), 4)
    2.4967
    """

    requires = frozenset({"anchor", "positive", "guide"})

    def __init__(self, *, hidden: int = 4096, dim: int | None = None) -> None:
        super().__init__(hidden=hidden, dim=dim)

    def targets(self, views: list[Tensor], batch: ObjectiveBatch) -> list[Tensor]:
        """The guide's vectors."""
        return guides(batch, *PAIR, like=views[0])

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The distance, between 0 and 8; metric ``spread``."""
        cosine, metrics = self.symmetric_cosine(embeddings, batch)
        out = loss_of_rows({"distance": 4.0 * batch.share - 2.0 * cosine})
        out.metrics = metrics
        return out


@objective(
    "simsiam", paper="Chen and He 2021, CVPR, Exploring Simple Siamese Representation Learning, section 3",
    family="regression", splits=True, slots="predictor, stopped gradient, cosine", cost="B D hidden",
)  # fmt: skip
class SimSiam(Regression):
    """``-(cos(p(z1), z2) + cos(p(z2), z1)) / 2`` with no gradient through the second argument.

    Parameters
    ----------
    hidden : int
        Width of the predictor's hidden layer, a quarter of the dimension in the paper.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> _ = torch.manual_seed(0)
    >>> loss = build({"name": "simsiam", "hidden": 2}, dim=2, num_rows=2)(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    -0.3758
    """

    def __init__(self, *, hidden: int = 512, dim: int | None = None) -> None:
        super().__init__(hidden=hidden, dim=dim)

    def targets(self, views: list[Tensor], batch: ObjectiveBatch) -> list[Tensor]:
        """The views' own vectors."""
        return views

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The negative cosine, between -1 and 1; metric ``spread``."""
        cosine, metrics = self.symmetric_cosine(embeddings, batch)
        out = loss_of_rows({"similarity": -0.5 * cosine})
        out.metrics = metrics
        return out
