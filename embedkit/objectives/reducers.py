"""Slots `weight`, `prior` and `reducer`: how strongly negatives repel, and how a row becomes a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from embedkit.objectives.slots import part
from embedkit.objectives.stats import LogWeights, Stat
from embedkit.objectives.sides import Relation, Side
from embedkit.objectives.tools import logaddexp, number

LSE = Stat("lse", "negative")
COUNT = Stat("count", "negative")


@dataclass
class Row:
    """What a reducer reads: n anchors, P positive pairs sorted by anchor.

    ``row`` (P,) anchor of a pair, ``logit`` (P,) after the margin, ``count`` (n,) positives of each anchor,
    ``stats`` sums over negatives (n,), ``log_neg`` (n,) log Σ w e^l over negatives (-inf when there is none),
    ``omega`` (P,) weight of each positive logit or None, ``scale`` () or (n, 1), ``scores`` (P,) before scale.
    """

    row: Tensor
    logit: Tensor
    scores: Tensor
    count: Tensor
    stats: dict[Stat, Tensor]
    log_neg: Tensor | None
    scale: Tensor
    omega: Tensor | None = None

    def add(self, values: Tensor) -> Tensor:
        """Sum over the pairs of each anchor, (n,)."""
        return values.new_zeros(len(self.count)).index_add(0, self.row, values)

    def lse(self, values: Tensor) -> Tensor:
        """Log-sum-exp over the pairs of each anchor, (n,); -inf where there is none."""
        top = values.new_full((len(self.count),), -torch.inf).scatter_reduce(0, self.row, values.detach(), "amax")
        shift = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
        total = self.add((values - shift[self.row]).exp())
        empty = total == 0
        return torch.where(empty, -torch.inf, total.masked_fill(empty, 1.0).log() + shift)


class Weight(nn.Module):
    """Base of negative weights: what they need to know of a row, and the log of the weighted sum."""

    plain = False
    """Whether every negative weighs 1, so that reducers without a weighted sum accept it."""

    def wanted(self) -> list[Stat]:
        """The sums over negatives that `log_neg` reads."""
        return [LSE]

    def log_neg(self, stats: dict[Stat, Tensor]) -> Tensor:
        """log Σ w e^l over the negatives, (n,)."""
        return stats[LSE]

    def weights(self, left: Side, right: Side) -> LogWeights:
        """Weights of single pairs, inside the sums."""
        return LogWeights()


@part("weight", "uniform")
class Uniform(Weight):
    """Every negative weighs `negative_weight`; the logits of an anchor's own hard negatives get `hard_negative_weight`.

    The latter is added to the logit, as in supervised SimCSE (Gao et al. 2021), so 0 means "like any other".
    """

    def __init__(self, negative_weight: float = 1.0, hard_negative_weight: float = 0.0) -> None:
        super().__init__()
        self.log_weight = math.log(number("negative_weight", negative_weight, above=0))
        self.hard = number("hard_negative_weight", hard_negative_weight)
        self.plain = self.log_weight == 0 and self.hard == 0

    def log_neg(self, stats: dict[Stat, Tensor]) -> Tensor:
        """Plain log-sum-exp, shifted."""
        return stats[LSE] + self.log_weight

    def weights(self, left: Side, right: Side) -> LogWeights:
        """The shift of own hard negatives."""
        if not self.hard or "hard" not in right.ids:
            return LogWeights()
        return LogWeights([(Relation.of(left.id("row"), right.id("hard")), self.hard)])


@part("prior", "none")
class NoPrior(nn.Module):
    """Negatives are taken for negatives."""

    absent = True


class Reducer(nn.Module):
    """Base of reducers."""

    ratio = True
    """Whether it divides by a (weighted) sum over negatives."""
    own = 1.0
    average = "all"

    def wanted(self) -> list[Stat]:
        """Sums it reads besides those of the negative weight."""
        return []

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        raise TypeError(f"{type(self).__name__} does not define forward")


def log_or_nothing(value: float) -> float:
    """log(value), and -inf for 0."""
    return math.log(value) if value > 0 else -math.inf


def denominators(r: Row, own: float, others: float) -> Tensor:
    """log(own · e^l_p + others · Σ_{p' ≠ p} e^l_p' + D) for every positive pair p, (P,); 0 when it is empty."""
    assert r.log_neg is not None
    den = r.log_neg[r.row]
    if others > 0:
        den = logaddexp(den, r.lse(r.logit)[r.row] + math.log(others))
    if own > others:
        den = logaddexp(den, r.logit + math.log(own - others))
    # No negatives and no positive in the denominator: what is left of the loss is -l_p.
    return torch.where(torch.isneginf(den), torch.zeros_like(den), den)


@part("reducer", "out")
class SoftmaxOut(Reducer):
    """Mean over the positives of -l_p + log(own · e^l_p + others · Σ of other positives + negatives).

    Parameters
    ----------
    own : float
        Weight of the positive in its own denominator: 1 InfoNCE, 0 decoupled.
    others : float
        Weight of the other positives there, at most `own`: 1 SupCon, 0 Poly-View.
    average : str
        "all" anchors, or only those with a "positive".
    """

    def __init__(self, own: float = 1.0, others: float = 0.0, average: str = "all") -> None:
        super().__init__()
        self.own = number("own", own, least=0)
        self.others = number("others", others, least=0, most=self.own)
        self.average = average

    def forward(self, r: Row) -> Tensor:
        """Per anchor."""
        logit = r.logit if r.omega is None else r.logit * r.omega
        return r.add(denominators(r, self.own, self.others) - logit) / r.count.clamp_min(1)


@part("reducer", "in")
class SoftmaxIn(Reducer):
    """-log of the mean over the positives of e^l_p / (own · e^l_p + others · Σ of other positives + negatives)."""

    def __init__(self, own: float = 1.0, others: float = 0.0, average: str = "all") -> None:
        super().__init__()
        self.own = number("own", own, least=0)
        self.others = number("others", others, least=0, most=self.own)
        self.average = average

    def forward(self, r: Row) -> Tensor:
        """Per anchor."""
        total = r.lse(r.logit - denominators(r, self.own, self.others))
        return torch.where(r.count > 0, r.count.clamp_min(1).log() - total, torch.zeros_like(total))


@part("reducer", "sigmoid")
class Sigmoid(Reducer):
    """Σ softplus(-l) over positives plus Σ softplus(l) over negatives (Zhai et al. 2023, SigLIP)."""

    ratio = False
    negative = Stat("softplus", "negative")

    def wanted(self) -> list[Stat]:
        """One sum over the negatives."""
        return [self.negative]

    def forward(self, r: Row) -> Tensor:
        """Per anchor, summed over its row."""
        return r.add(softplus(-r.logit)) + r.stats[self.negative]
