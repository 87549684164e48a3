"""Slots `weight`, `prior` and `reducer`: how strongly negatives repel, and how a row becomes a loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedkit.objectives.matrix.problem import Problem, Row
from embedkit.objectives.matrix.similarity import Relation, Side
from embedkit.objectives.matrix.stats import LogWeights, Stat
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import choice, grouped_lse, logaddexp, number, softplus

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


class Reducer(nn.Module):
    """Base class of reducers: from the positives and sums of a row of the matrix to the loss of its anchor.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> class Hinge(Reducer):
    ...     def forward(self, r):
    ...         return (1 + r.log_neg - r.log_pos).relu()
    >>> objective = build({"name": "table", "temperature": 1.0})
    >>> objective.reducer = Hinge()
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.6000)
    """

    ratio = True
    """Whether it divides by a (weighted) sum over negatives."""
    dense = False
    """Whether it reads the whole table of logits, and so cannot be tiled."""
    pools = False
    """Whether the pairs of an anchor may be replaced by their mean and their log-sum-exp."""
    average = "all"
    keeps_state = False

    def stats(self) -> list[Stat]:
        """The sums that it reads besides those of the negative weight."""
        return []

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def metrics(self, r: Row) -> dict[str, Tensor]:
        """Sums over this process's anchors, to be logged as terms."""
        return {}

    def advance(self, problem: Problem, stats: Stats, positive: Tensor, scale: Tensor) -> Tensor | None:
        """Update state from the sums of all anchors and their mean positive logits; gives the slope by temperature."""
        return None


def _denominators(r: Row, own: float, others: float) -> Tensor:
    """log(own · e^l_p + others · Σ_{p' ≠ p} e^l_p' + negatives) of every positive pair p, (P,); 0 when it is empty."""
    assert r.log_neg is not None
    den = r.log_neg[r.row]
    if others > 0:
        den = logaddexp(den, r.log_pos[r.row] + math.log(others))
    if own > others:
        den = logaddexp(den, r.logit + math.log(own - others))
    # No negatives and no positive in the denominator: what is left of the loss is -l_p.
    return torch.where(torch.isneginf(den), torch.zeros_like(den), den)


class _Ratio(Reducer):
    def __init__(self, own: float, others: float, average: str) -> None:
        super().__init__()
        self.own = number("own", own, least=0)
        self.others = number("others", others, least=0, most=self.own)
        self.average = choice("average", average, ("all", "positive"))
        self.pools = self.own == self.others


@part("reducer", "out")
class SoftmaxOut(_Ratio):
    """Mean over the positives of -l_p + log(own · e^l_p + others · Σ of other positives + negatives).

    Parameters
    ----------
    own : float
        Weight of the positive in its own denominator: 1 InfoNCE, 0 decoupled.
    others : float
        Weight of the other positives there, at most `own`: 1 SupCon, 0 Poly-View.
    average : str
        Mean over "all" anchors, or only those with a "positive".
    focal : float
        Each term is multiplied by (1 - p)^focal, p the ratio itself.
    reweight : bool
        Each term is divided by 1 - p, without gradient (MACL).
    smoothing : float
        Share of the target that is spread evenly over all candidates that count.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "reducer": "out", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(0.5178)
    """

    def __init__(self, own: float = 1.0, others: float = 0.0, average: str = "all", focal: float = 0.0,
                 reweight: bool = False, smoothing: float = 0.0) -> None:  # fmt: skip
        super().__init__(own, others, average)
        self.focal, self.reweight = number("focal", focal, least=0), bool(reweight)
        self.smoothing = number("smoothing", smoothing, least=0, below=1)
        self.pools = self.pools and not self.focal and not self.reweight

    def stats(self) -> list[Stat]:
        """For smoothing, the sum and number of all negatives."""
        return [SUM, COUNT] if self.smoothing else []

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        den = _denominators(r, self.own, self.others)
        logit = r.logit if r.omega is None else r.logit * r.omega
        if self.smoothing:
            total = r.stats[SUM] + r.add(r.logit * r.part) * r.count
            spread = total / (r.stats[COUNT] + r.count).clamp_min(1)
            logit = (1 - self.smoothing) * logit + self.smoothing * spread[r.row]
        loss = den - logit
        if self.focal or self.reweight:
            if self.own == 1 and not self.others:
                assert r.log_neg is not None
                against = r.log_neg[r.row] - r.logit  # 1 - p and -log p without a difference of large numbers
                rest = against.sigmoid()
                loss = torch.nn.functional.softplus(against) if logit is r.logit else loss
            else:
                rest = -torch.expm1((r.logit - den).clamp_max(0.0))
            if self.focal:
                # 0^focal has an infinite slope below focal 1.
                loss = loss * rest.clamp_min(1e-12) ** self.focal
            if self.reweight:
                loss = loss / rest.detach().clamp_min(torch.finfo(rest.dtype).tiny)
        return r.add(loss * r.part)


@part("reducer", "in")
class SoftmaxIn(_Ratio):
    """-log of the mean over the positives of e^l_p / (own · e^l_p + others · Σ of other positives + negatives).

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "reducer": "in", "by": "label", "others": 1.0, "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z, label=torch.tensor([0, 0]))).loss
    tensor(0.6931)
    """

    def __init__(self, own: float = 1.0, others: float = 0.0, average: str = "all") -> None:
        super().__init__(own, others, average)

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        den = _denominators(r, self.own, self.others)
        if r.pooled is not None:
            return r.add(den + r.count.clamp_min(1).log()[r.row] - r.pooled[r.row])
        total = r.lse(r.part.log() + r.logit - den)
        return torch.where(r.count > 0, -total, torch.zeros_like(total))


@part("reducer", "merged")
class Merged(Reducer):
    """-log of Σ e^l over all positives of a batch row's anchors / Σ e^l over all their candidates (MV-InfoNCE).

    One term for each batch row, whose views share numerator and denominator.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "reducer": "merged", "direction": "views", "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.9006)
    """

    pools = True
    average = "rows"

    def forward(self, r: Row) -> Tensor:
        """The loss of a batch row at its first anchor, 0 at the others."""
        assert r.log_neg is not None
        row = r.problem.left.id("row")
        first = r.problem.batch.rows.start
        size = r.problem.batch.rows.stop - first
        positive = grouped_lse(r.log_pos, row - first, size)
        everything = grouped_lse(logaddexp(r.log_pos, r.log_neg), row - first, size)
        loss = torch.where(torch.isneginf(positive), torch.zeros_like(positive), everything - positive)
        return torch.cat([loss, loss.new_zeros(max(0, len(row) - size))])


@part("reducer", "sigmoid")
class Sigmoid(Reducer):
    """Σ softplus(-l) over positives plus Σ softplus(l) over negatives (Zhai et al. 2023, SigLIP).

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "reducer": "sigmoid", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(1.3075)
    """

    ratio = False
    negative = Stat("softplus", "negative")

    def stats(self) -> list[Stat]:
        """One sum over the negatives."""
        return [self.negative]

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, summed over its row."""
        return r.add(softplus(-r.logit)) + r.stats[self.negative]
