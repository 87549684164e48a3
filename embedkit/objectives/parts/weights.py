"""Slots `weight` and `prior`: how strongly negatives repel, and a correction for false negatives among them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedkit.objectives.matrix.problem import Row
from embedkit.objectives.matrix.similarity import Relation, Side
from embedkit.objectives.matrix.stats import Hardness, LogWeights, Stat
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import choice, number

LSE, COUNT, SUM = Stat("lse", "negative"), Stat("count", "negative"), Stat("sum", "negative")
Stats = dict[Stat, Tensor]


class Weight(nn.Module):
    """Base class of weights of negatives: the log of their weighted sum, from sums over a row. Here all weigh 1.

    Examples
    --------
    >>> import torch
    >>> Weight().log_neg({LSE: torch.tensor([0.5])})
    tensor([0.5000])
    """

    plain = False
    """Whether every negative weighs 1, so that reducers without a weighted sum accept it."""
    by_score = False
    """Whether the weights of single pairs depend on their scores."""
    requires: frozenset[str] = frozenset()

    def stats(self) -> list[Stat]:
        """The sums over negatives that `log_neg` reads."""
        return [LSE]

    def log_neg(self, stats: Stats) -> Tensor:
        """log Σ w e^l over the negatives, (n,)."""
        return stats[LSE]

    def weights(self, left: Side, right: Side) -> LogWeights:
        """Log weights of single pairs, applied inside the sums."""
        return LogWeights()


@part("weight", "uniform")
class Uniform(Weight):
    """Every negative weighs `negative_weight`; the logits of an anchor's own hard negatives get `hard_negative_weight`.

    The latter is added to the logit, as in supervised SimCSE (Gao et al. 2021), so 0 means "like any other". With
    `mean` the weights are divided by the number of negatives.

    Examples
    --------
    >>> import torch
    >>> Uniform(negative_weight=2.0).log_neg({LSE: torch.tensor([0.0])})
    tensor([0.6931])
    """

    def __init__(self, negative_weight: float = 1.0, hard_negative_weight: float = 0.0, mean: bool = False) -> None:
        super().__init__()
        self.log_weight = math.log(number("negative_weight", negative_weight, above=0))
        self.hard, self.mean = number("hard_negative_weight", hard_negative_weight), bool(mean)
        self.plain = self.log_weight == 0 and self.hard == 0 and not mean

    def stats(self) -> list[Stat]:
        """The log-sum-exp, and for a mean the number of negatives."""
        return [LSE, COUNT] if self.mean else [LSE]

    def log_neg(self, stats: Stats) -> Tensor:
        """The log-sum-exp plus the log weight."""
        total = stats[LSE] + self.log_weight
        return total - stats[COUNT].clamp_min(1).log() if self.mean else total

    def weights(self, left: Side, right: Side) -> LogWeights:
        """The log weight of an anchor's own hard negatives."""
        if not self.hard or "hard" not in right.ids:
            return LogWeights()
        return LogWeights([(Relation.of(left.id("row"), right.id("hard")), self.hard)])


@part("weight", "exponential")
class Exponential(Weight):
    """Negatives weigh e^(beta · l), normalised to mean 1 over the negatives of an anchor (HCL, HN-NCE).

    log Σ w e^l = log n + lse((1 + beta) l) - lse(beta l), so no table of weights is needed. `beta` multiplies the
    logit, temperature already applied. With `detach` no gradient flows through the weights.

    Examples
    --------
    >>> import torch
    >>> weight = Exponential(beta=1.0)
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> sharp, flat = (2 * logits).logsumexp(1), logits.logsumexp(1)
    >>> weight.log_neg({weight.sharp: sharp, weight.flat: flat, COUNT: torch.tensor([2.0])})
    tensor([2.5844])
    >>> logits.logsumexp(1)  # without weights
    tensor([2.1269])
    """

    def __init__(self, beta: float = 1.0, detach: bool = False) -> None:
        super().__init__()
        self.beta, self.detach = number("beta", beta, least=0), bool(detach)
        self.sharp, self.flat = Stat("lse", "negative", 1 + self.beta), Stat("lse", "negative", self.beta)

    def stats(self) -> list[Stat]:
        """Two log-sum-exps and the number of negatives."""
        return [self.sharp, self.flat, COUNT]

    def log_neg(self, stats: Stats) -> Tensor:
        """log Σ w e^l in closed form."""
        sharp, flat, count = stats[self.sharp], stats[self.flat], stats[COUNT]
        there = count > 0
        flat = flat.masked_fill(~there, 0.0)
        if not self.detach:
            return count.clamp_min(1).log() + sharp - flat
        # The gradient of log Σ sg(w) e^l by l is the softmax of (1 + beta) l: that of sharp / (1 + beta).
        carrier = sharp.masked_fill(~there, 0.0) / (1 + self.beta)
        return (count.clamp_min(1).log() + sharp - flat).detach() + carrier - carrier.detach()


@part("weight", "target-distance")
class TargetDistance(Weight):
    """Negatives weigh |difference of targets| + 1, the targets being the role ``score`` (SupReMix).

    Examples
    --------
    >>> import torch
    >>> left = Side(torch.eye(2), {}, score=torch.tensor([0.0, 1.0]))
    >>> TargetDistance().weights(left, left).tile(slice(0, 2), slice(0, 2)).exp()
    tensor([[1., 2.],
            [2., 1.]])
    """

    requires = frozenset({"score"})

    def weights(self, left: Side, right: Side) -> LogWeights:
        """Weights by the distance of scores."""
        if left.score is None or right.score is None:
            return LogWeights()
        return LogWeights(distance=(left.score, right.score))


@part("weight", "hardness")
class HardnessWeight(Weight):
    """Negatives weigh e^(strength · s), without gradient, s being the score before the temperature.

    LLaVE (Lan et al. 2025, arXiv 2503.04812, eq. 5) has strength 9 on the negatives of the other rows, EmbeddingGemma
    (Schechter Vera et al. 2025, arXiv 2509.20354) 5 on an anchor's own hard negatives. Unlike `exponential` the weights
    are not divided by their mean.

    Parameters
    ----------
    strength : float
        Log weight of a negative of score 1.
    harder : str
        Which negatives: "all", those of the other rows ("in-batch"), or an anchor's "own" hard negatives.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "weight": "hardness", "strength": 2.0, "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(1.0290)
    """

    by_score = True

    def __init__(self, strength: float = 9.0, harder: str = "all") -> None:
        super().__init__()
        self.strength = number("strength", strength, least=0)
        self.harder = choice("harder", harder, ("all", "in-batch", "own"))
        self.requires = frozenset({"negatives"} if harder == "own" else ())

    def weights(self, left: Side, right: Side) -> LogWeights:
        """Weights by the score, of all negatives or those in, or outside of, the anchor's row."""
        if self.harder == "all":
            return LogWeights(hardness=Hardness(self.strength))
        own = Relation.of(left.id("row"), right.id("hard" if self.harder == "own" else "row"))
        return LogWeights(hardness=Hardness(self.strength, own, inside=self.harder == "own"))


class Prior(nn.Module):
    """Base class of corrections of the sum over negatives for false negatives among them; the base corrects nothing.

    Examples
    --------
    >>> import torch
    >>> prior = Prior()
    >>> prior.absent, prior(None, log_neg=torch.tensor([0.5]), lowest=torch.tensor(-10.0))
    (True, tensor([0.5000]))
    """

    absent = True

    def forward(self, r: Row, log_neg: Tensor, lowest: Tensor) -> Tensor:
        """The corrected log Σ w e^l, (n,); `lowest` is the smallest logit there is."""
        return log_neg


@part("prior", "none")
class NoPrior(Prior):
    """Every negative counts as a true negative.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> build("ntxent").prior.absent, build("debiased").prior.absent
    (True, False)
    """


@part("prior", "debiased")
class Debiased(Prior):
    """The share `class_prior` of the negatives counts as false negatives (Chuang et al. 2020).

    max{(x - prior · n · mean e^l_pos) / (1 - prior), n e^l_min}, where x is the sum over n negatives.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objectives = [build({"name": "debiased", "class_prior": prior}) for prior in (0.0, 0.1)]
    >>> [round(objective(z, ObjectiveBatch.of(z)).loss.item(), 4) for objective in objectives]
    [0.7589, 0.702]
    """

    absent = False

    def __init__(self, class_prior: float = 0.1) -> None:
        super().__init__()
        self.prior = number("class_prior", class_prior, least=0, below=1)

    def forward(self, r: Row, log_neg: Tensor, lowest: Tensor) -> Tensor:
        """The corrected sum, as a logarithm."""
        count = r.stats[COUNT]
        log_count = count.clamp_min(1).log()
        there = (count > 0) & (r.count > 0)
        mean_pos = r.log_pos - r.count.clamp_min(1).log()
        ratio = self.prior * (log_count + mean_pos - log_neg).where(there, torch.zeros_like(log_neg)).exp()
        # Where nothing is left of the sum the logarithm is not looked at; 0.5 keeps its gradient finite.
        rest = log_neg + torch.log1p(-ratio.where(ratio < 1, torch.full_like(ratio, 0.5))) - math.log(1 - self.prior)
        floor = log_count + lowest
        corrections = torch.where((ratio < 1) & (rest > floor), rest, floor.expand_as(rest))
        return torch.where(there, corrections, log_neg)
