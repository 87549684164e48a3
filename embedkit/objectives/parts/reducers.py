"""Slot `reducer`: how a row of the matrix becomes a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from embedkit.errors import DataError
from embedkit.objectives.matrix.problem import Problem, Row
from embedkit.objectives.matrix.stats import Stat, Table
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.weights import COUNT, SUM, Stats
from embedkit.objectives.tools import choice, grouped_lse, logaddexp, number, require, softplus


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
    lists = True
    """Whether it reads the positive pairs as the slot `positive` left them."""
    joins = False
    """Whether one loss is made of all directions, by `join`, and not one of each."""
    any_mass = False
    """Whether it reads targets whose weights sum to another number than 1."""
    average = "all"
    keeps_state = False
    requires: frozenset[str] = frozenset()
    any_of: tuple[frozenset[str], ...] = ()
    limits: Mapping[str, tuple[float, float]] = {}

    def stats(self) -> list[Stat]:
        """The sums that it reads besides those of the negative weight."""
        return []

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def join(self, rows: list[Row]) -> Tensor:
        """The loss of each row of this process, from the rows of all directions."""
        raise TypeError(f"{type(self).__name__} does not define join")

    def divisor(self, r: Row) -> int:
        """What the sum of the losses of the whole batch is divided by: the same number on every process."""
        if self.average == "positive":
            return int((r.problem.masks.count() > 0).sum())
        return r.problem.batch.size if self.average == "rows" else len(r.problem.whole)

    def band(self, table: Table) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest score (n,) of the negatives that it reads, without gradient; None for all of them."""
        return None

    def metrics(self, r: Row) -> dict[str, Tensor]:
        """Sums over this process's anchors, to be logged as terms."""
        return {}

    def advance(self, problem: Problem, stats: Stats, positive: Tensor, scale: Tensor) -> Tensor | None:
        """Update state from the sums of all anchors and their mean positive logits; gives the slope by temperature."""
        return None


def pair_scores_of_rows(r: Row) -> Tensor:
    """The score of each anchor's pair, (n,), between 0 and 1: of the role "scores" that of the positive.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> build("clhaif")(z, ObjectiveBatch.of(z, score=torch.tensor([0.5, 4.0])))
    Traceback (most recent call last):
        ...
    embedkit.errors.DataError: role 'score' row 1: score 4 is not between 0 and 1; divide the scores by their maximum
    """
    batch = r.problem.batch
    scores = batch.scores.get("positive", batch.score)
    role = "scores" if "positive" in batch.scores else "score"
    if scores is None:
        raise DataError("the objective needs the score of each pair", where="batch", remedy="map a column to 'score'")
    wrong = ~((scores >= 0) & (scores <= 1))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(f"score {float(scores[row]):g} is not between 0 and 1", where=f"role {role!r} row {row}",
                        remedy="divide the scores by their maximum")  # fmt: skip
    return scores.to(r.problem.whole.z.dtype)[r.problem.left.id("row")]


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
    by_score : str, optional
        CLHAIF (Cheng et al. 2023, Findings of ACL): the score of a pair, between 0 and 1 (the role "score", or that of
        the positive in the role "scores"), is the target of the "positive" alone; with "all" what is left of 1 is
        spread evenly over the negatives.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "reducer": "out", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(0.5178)
    """

    def __init__(self, own: float = 1.0, others: float = 0.0, average: str = "all", focal: float = 0.0,
                 reweight: bool = False, smoothing: float = 0.0, by_score: str | None = None) -> None:  # fmt: skip
        super().__init__(own, others, average)
        self.by_score = choice("by_score", by_score, (None, "positive", "all"))
        if by_score is not None:
            self.any_of, self.limits = (frozenset({"score", "scores"}),), {"score": (0.0, 1.0)}
            others_set = [name for name, value in (("smoothing", smoothing), ("focal", focal)) if value]
            require(not others_set, "by_score", by_score, f"left out beside {' and '.join(others_set)}")
        self.focal, self.reweight = number("focal", focal, least=0), bool(reweight)
        self.smoothing = number("smoothing", smoothing, least=0, below=1)
        self.pools = self.pools and not self.focal and not self.reweight

    def stats(self) -> list[Stat]:
        """For smoothing, the sum and number of all negatives."""
        return [SUM, COUNT] if self.smoothing or self.by_score == "all" else []

    def _blend(self, r: Row, logit: Tensor) -> Tensor:
        """Logits of the pairs when the negatives have what the score leaves of the target, (P,)."""
        count = r.stats[COUNT]
        spread = (r.stats[SUM] / count.clamp_min(1))[r.row]
        share = pair_scores_of_rows(r)[r.row]
        return torch.where((count > 0)[r.row], share * logit + (1 - share) * spread, logit)

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        den = _denominators(r, self.own, self.others)
        logit = r.logit if r.omega is None else r.logit * r.omega
        if self.smoothing:
            total = r.stats[SUM] + r.add(r.logit * r.part) * r.count
            spread = total / (r.stats[COUNT] + r.count).clamp_min(1)
            logit = (1 - self.smoothing) * logit + self.smoothing * spread[r.row]
        if self.by_score == "all":
            logit = self._blend(r, logit)
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
        loss = r.add(loss * r.part)
        return loss * pair_scores_of_rows(r) if self.by_score == "positive" else loss


@part("reducer", "in")
class SoftmaxIn(_Ratio):
    """-log of the mean over the positives of e^l_p / (own · e^l_p + others · Σ of other positives + negatives).

    Parameters
    ----------
    own, others : float
        Weights of the positive and of the other positives in the denominator.
    average : str
        Mean over "all" anchors, or only those with a "positive".

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
