"""Distance of the batch from a standard normal law along random directions (SIGReg, LeJEPA)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, Family, all_views, any_views, loss_of_batch
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import number, whole

COST = "V B S (D + knots) for S directions"


def epps_pulley(samples: Tensor, knots: int, highest: float) -> Tensor:
    """How far each column of (B, S) is from a standard normal law, (S,): the test of Epps and Pulley 1983.

    ``B * integral of |mean e^(i t x) - e^(-t²/2)|² e^(-t²/2) dt`` from -highest to highest, by the trapezoid rule on
    `knots` points of its positive half.

    Examples
    --------
    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> normal = torch.randn(2000, 1, generator=draw)
    >>> bool(epps_pulley(normal, 17, 3.0) < epps_pulley(3 * normal, 17, 3.0))
    True
    """
    step, total = highest / (knots - 1), samples.new_zeros(samples.shape[1])
    for k in range(knots):
        angle = samples * (step * k)
        window = float(torch.exp(torch.tensor(-((step * k) ** 2) / 2, dtype=torch.float64)))
        gap = (angle.cos().mean(dim=0) - window).square() + angle.sin().mean(dim=0).square()
        total = total + gap * (window * step * (1 if k in (0, knots - 1) else 2))
    return total * len(samples)


@objective(
    "sigreg", paper="Balestriero and LeCun 2025, arXiv 2511.08544, LeJEPA, section 4", family="second order", cost=COST,
    slots="characteristic function along random directions against that of a normal law",
)  # fmt: skip
class SIGReg(Family):
    """The mean over views and random directions of `epps_pulley`: the embeddings of a batch should be standard normal.

    Nothing is normalised. The directions are a function of the run's seed and the step, the same on every process.

    Parameters
    ----------
    directions : int
        Random unit vectors, anew in every step.
    knots : int
        Points of the integral.
    highest : float
        Highest frequency.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.zeros(4, 2)}  # along every direction all values are 0
    >>> far = build("sigreg")(z, ObjectiveBatch.of(z)).loss
    >>> z = {"anchor": torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])}
    >>> bool(build("sigreg")(z, ObjectiveBatch.of(z)).loss < far)
    True
    """

    requires = frozenset({"anchor"})
    accepts = FURTHER | {"positive"}

    def __init__(self, *, directions: int = 1024, knots: int = 17, highest: float = 3.0) -> None:
        super().__init__()
        self.directions, self.knots = whole("directions", directions, least=1), whole("knots", knots, least=2)
        self.highest = number("highest", highest, above=0)

    def statistic(self, views: list[Tensor], batch: ObjectiveBatch) -> Tensor:
        """The mean over views (B, D) and directions."""
        draw = batch.generator("directions")
        wide = torch.randn(views[0].shape[1], self.directions, generator=draw, dtype=torch.float64)
        directions = (wide / wide.norm(dim=0)).to(views[0])  # (D, S)
        return torch.stack([epps_pulley(z @ directions, self.knots, self.highest).mean() for z in views]).mean()

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The statistic; every process evaluates the whole batch."""
        return loss_of_batch({"normality": self.statistic(any_views(embeddings), batch)}, batch)


@objective(
    "lejepa", paper="Balestriero and LeCun 2025, arXiv 2511.08544, LeJEPA, algorithm 2", family="second order",
    cost=COST, slots="sigreg, and the distance of all views from the mean of the global ones",
)  # fmt: skip
class LeJEPA(SIGReg):
    """``weight * SIGReg(all views) + (1 - weight) * mean (z - centre)²``, centre the mean of a row's global views.

    Parameters
    ----------
    weight : float
        Share of the first term.
    global_views : int
        Views that make the centre: the first ones, "anchor", "positive", "view3" ...
    directions, knots : int
        See `SIGReg`.
    highest : float
        See `SIGReg`.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": -torch.eye(2)}
    >>> build({"name": "lejepa", "weight": 0.0})(z, ObjectiveBatch.of(z)).loss  # the centre is 0
    tensor(0.5000)
    """

    requires = frozenset({"anchor", "positive"})
    accepts = FURTHER

    def __init__(self, *, weight: float = 0.05, global_views: int = 2, directions: int = 1024, knots: int = 17,
                 highest: float = 3.0) -> None:  # fmt: skip
        super().__init__(directions=directions, knots=knots, highest=highest)
        self.weight = number("weight", weight, least=0, most=1)
        self.global_views = whole("global_views", global_views, least=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the weighted terms ``normality`` and ``invariance``."""
        views = all_views(embeddings)
        centre = torch.stack(views[: self.global_views]).mean(dim=0)
        apart = (torch.stack(views) - centre).square().mean()
        terms = {"normality": self.weight * self.statistic(views, batch), "invariance": (1 - self.weight) * apart}
        return loss_of_batch(terms, batch)
