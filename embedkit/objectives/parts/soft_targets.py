"""Soft targets: distributions over all candidates, and divergences from them (I-Con, ASCL, distillation). Dense."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import xlogy

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.problem import Problem, Row
from embedkit.objectives.matrix.similarity import Masks, Side
from embedkit.objectives.parts.reducers import Reducer
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.targets import Same, Target, guides
from embedkit.objectives.tools import choice, number, unit, whole


class SoftTarget(Target):
    """Base class of soft targets, which are distributions over candidates; positive is the anchor's own row.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(2), {"row": torch.arange(2)})
    >>> SoftTarget().masks(side, side, ObjectiveBatch.of({"anchor": side.z})).pairs()
    (tensor([0, 1]), tensor([0, 1]))
    """

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: the anchor's own row."""
        return Same().masks(left, right, batch)


def _softmax(logits: Tensor, valid: Tensor) -> Tensor:
    return logits.masked_fill(~valid, -torch.inf).softmax(-1).nan_to_num(0.0)


@part("target", "guide")
class GuideTarget(SoftTarget):
    """Softmax over candidates of the guide's cosines / `teacher_temperature`: distillation from a teacher.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "soft-targets", "temperature": 1.0, "teacher_temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z, guide={"anchor": z["positive"], "positive": z["positive"]})).loss
    tensor(0.0097)
    """

    requires = frozenset({"guide"})

    def __init__(self, teacher_temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = number("teacher_temperature", teacher_temperature, above=0)

    def distribution(self, problem: Problem, positive: Tensor, valid: Tensor) -> Tensor:
        """The softmax (n, M) of the guide's cosines."""
        mine, theirs = guides(problem.left, problem.right)
        return _softmax(mine @ theirs.T / self.temperature, valid)


@part("target", "own-and-guide")
class OwnAndGuide(GuideTarget):
    """The anchor's own row, and `guide_weight` times the softmax of the guide's cosines / `teacher_temperature`.

    The weights of a row sum to 1 + `guide_weight`: the cross-entropy from them is that from the row plus `guide_weight`
    times that from the guide, as in open_clip's DistillClipLoss.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> batch = ObjectiveBatch.of(z, guide={"anchor": z["positive"], "positive": z["positive"]})
    >>> round(build({"name": "clip", "temperature": 1.0})(z, batch).loss.item(), 4)
    0.5368
    >>> round(build({"name": "distill-clip", "temperature": 1.0})(z, batch).loss.item(), 4)
    1.0735
    """

    sums_to_one = False

    def __init__(self, teacher_temperature: float = 0.01, guide_weight: float = 1.0) -> None:
        super().__init__(teacher_temperature)
        self.guide_weight = number("guide_weight", guide_weight, least=0)

    def distribution(self, problem: Problem, positive: Tensor, valid: Tensor) -> Tensor:
        """The weights (n, M)."""
        own = positive.to(problem.whole.z.dtype)
        own = own / own.sum(-1, keepdim=True).clamp_min(1)
        return own + self.guide_weight * super().distribution(problem, positive, valid)


@part("target", "graph")
class GraphTarget(SoftTarget):
    """Walks of `hops` steps on the guide's graph of `neighbours` nearest neighbours (I-Con, neighbour propagation).

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "icon", "target": "graph", "neighbours": 1, "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z, guide={"anchor": z["positive"], "positive": z["positive"]})).loss
    tensor(0.8854)
    """

    requires = frozenset({"guide"})

    def __init__(self, neighbours: int = 10, hops: int = 1) -> None:
        super().__init__()
        self.neighbours, self.hops = whole("neighbours", neighbours, least=1), whole("hops", hops, least=1)

    def _step(self, cosines: Tensor, valid: Tensor) -> Tensor:
        count = min(self.neighbours, cosines.shape[1])
        best = cosines.masked_fill(~valid, -torch.inf).topk(count, dim=1).indices
        step = torch.zeros_like(cosines).scatter_(1, best, 1.0) * valid
        return step / step.sum(-1, keepdim=True).clamp_min(1)

    def distribution(self, problem: Problem, positive: Tensor, valid: Tensor) -> Tensor:
        """Probabilities (n, M) of the candidate at which a walk from the anchor ends."""
        mine, theirs = guides(problem.left, problem.right)
        distribution = self._step(mine @ theirs.T, valid)
        if self.hops > 1:
            step = self._step(theirs @ theirs.T, ~torch.eye(len(theirs), dtype=torch.bool, device=theirs.device))
            for _ in range(self.hops - 1):
                distribution = distribution @ step
        distribution = distribution * valid
        return distribution / distribution.sum(-1, keepdim=True).clamp_min(1e-30)


@part("target", "adaptive")
class AdaptiveTarget(SoftTarget):
    """The positive weighs 1 and a candidate min(1, neighbours · c · p_j), then normalised (ASCL, Feng and Patras 2022).

    p is the softmax of the positive's own cosine to the other candidates / `teacher_temperature`, and the confidence
    c is 1 - entropy(p) / log(number of them). The positive is the key of a weak view.

    Parameters
    ----------
    neighbours : float
        Factor on the weights of candidates other than the positive.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "reducer": "divergence", "target": "adaptive", "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.0247)
    """

    def __init__(self, teacher_temperature: float = 0.05, neighbours: float = 1.0) -> None:
        super().__init__()
        self.temperature = number("teacher_temperature", teacher_temperature, above=0)
        self.neighbours = number("neighbours", neighbours, least=0)

    @torch.no_grad()
    def distribution(self, problem: Problem, positive: Tensor, valid: Tensor) -> Tensor:
        """Normalised weights of the positive and the candidates."""
        right = unit(problem.right.z)
        keys = unit(positive.to(right.dtype) @ right)
        others = valid & ~positive
        p = _softmax(keys @ right.T / self.temperature, others)
        count = others.sum(-1).to(p.dtype)
        confidence = 1 + xlogy(p, p).sum(-1) / count.clamp_min(2).log()
        weight = (self.neighbours * confidence[:, None] * p).clamp_max(1.0) + positive
        return weight / weight.sum(-1, keepdim=True).clamp_min(1e-30)


@part("reducer", "divergence")
class Divergence(Reducer):
    """A divergence between a target distribution p and the learned one, q = softmax over candidates (I-Con).

    Alshammari et al. 2025 (arXiv 2504.16929). p is uniform over the positives, or what a soft target says.

    Parameters
    ----------
    form : str
        "cross-entropy", "kl" of p from q, "reverse-kl" of q from p, or "js".
    leak_p, leak_q : float
        Share of p and of q that is spread evenly over all candidates that count.
    average : str
        Mean over "all" anchors, or only those with a "positive".

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "icon", "form": "cross-entropy", "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.8854)
    """

    ratio = False
    dense = True
    lists = False

    def __init__(self, form: str = "kl", leak_p: float = 0.0, leak_q: float = 0.0, average: str = "all") -> None:
        super().__init__()
        self.form = choice("form", form, ("cross-entropy", "kl", "reverse-kl", "js"))
        self.leak_p, self.leak_q = number("leak_p", leak_p, least=0, most=1), number("leak_q", leak_q, least=0, most=1)
        self.average = choice("average", average, ("all", "positive"))
        self.any_mass = self.form == "cross-entropy" and not self.leak_p

    def forward(self, r: Row) -> Tensor:
        """The divergence of each anchor, (n,); 0 where no candidate counts."""
        rows, columns = (slice(0, n) for n in r.table.shape)
        logits = r.table.block(rows)
        positive, negative = r.table.masks.positives(rows, columns), r.table.negatives(rows, columns)
        positive = torch.zeros_like(logits, dtype=torch.bool) if positive is None else positive
        valid = torch.ones_like(positive) if negative is None else negative | positive
        with torch.no_grad():
            distribution, counts = r.distribution(positive, valid), valid.to(logits.dtype)
            even = counts / counts.sum(-1, keepdim=True).clamp_min(1)
            p = (1 - self.leak_p) * distribution + self.leak_p * even * (distribution.sum(-1, keepdim=True) > 0)
        logits = logits.masked_fill(~valid & valid.any(-1, keepdim=True), -torch.inf)
        log_q = logits.log_softmax(-1)
        if self.leak_q:
            log_share = log_q.masked_fill(~valid, -torch.inf)
            log_share = log_share + (math.log1p(-self.leak_q) if self.leak_q < 1 else -math.inf)
            log_q = torch.logaddexp(log_share, (self.leak_q * even).clamp_min(1e-38).log())
        return self._divergence(p, log_q.masked_fill(~valid, 0.0), valid)

    def _divergence(self, p: Tensor, log_q: Tensor, valid: Tensor) -> Tensor:
        if self.form == "cross-entropy":
            return -(p * log_q).sum(-1)
        if self.form == "kl":
            return (xlogy(p, p) - p * log_q).sum(-1)
        q = log_q.exp() * valid
        if self.form == "reverse-kl":
            return (q * (log_q - p.clamp_min(1e-12).log())).sum(-1)
        middle = (p + q) / 2
        log_middle = middle.clamp_min(1e-38).log()
        return ((xlogy(p, p) - p * log_middle) + q * (log_q - log_middle)).sum(-1) / 2
