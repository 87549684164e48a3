"""Reducer of the global contrastive losses, which store a denominator for every training row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from embedkit.objectives.matrix.problem import Problem, Row
from embedkit.objectives.matrix.stats import Stat
from embedkit.objectives.parts.reducers import Reducer
from embedkit.objectives.parts.scales import mean_by_sample, sample_ids
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.weights import COUNT, LSE, Stats
from embedkit.objectives.tools import grouped_lse, number

EXPECT = Stat("expect", "negative")


@part("reducer", "global")
class GlobalRatio(Reducer):
    """-s_p + Σ_j w_ij s_ij / n with w_ij = e^(s_ij / tau) / u_i, u a running mean over steps of the mean e^(s/tau).

    SogCLR (Yuan et al., ICML 2022, arXiv 2202.12387) and iSogCLR: the gradient of tau · log of the denominator over
    the whole training set. The value is that of the surrogate; the term "global" logs tau · log u. u starts with the
    first visit's value, is updated before it is used, and is stored as a logarithm, which needs no running maximum.

    Parameters
    ----------
    gamma : float
        Weight of the newest value in u.
    relative : bool
        s_ij - s_ip in place of s_ij (the two-tower form); the weight then also multiplies s_ip.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> objective = build({"name": "sogclr", "temperature": 1.0}, num_rows=2)
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(-0.2480)
    >>> objective.after_step(z, ObjectiveBatch.of(z))
    >>> objective.reducer.log_u[0]  # of each training row
    tensor([0.4780, 0.4780])
    """

    keeps_state = True

    def __init__(self, gamma: float = 0.9, relative: bool = False, num_rows: int | None = None) -> None:
        super().__init__()
        self.gamma, self.relative = number("gamma", gamma, above=0, most=1), bool(relative)
        self.register_buffer("log_u", torch.full((2, num_rows or 0), -torch.inf))

    def stats(self) -> list[Stat]:
        """The log-sum-exp, its mean logit, and the number of negatives."""
        return [LSE, EXPECT, COUNT]

    @torch.no_grad()
    def _refresh(self, problem: Problem, stats: Stats, positive: Tensor) -> tuple[Tensor, Tensor]:
        """log g of each anchor and log u of its row after this step, (n,) each."""
        log_g = stats[LSE] - stats[COUNT].clamp_min(1).log()
        log_g = log_g - positive if self.relative else log_g
        ids = sample_ids(problem, self.get_buffer("log_u").shape[1])
        single, place = torch.unique(ids, return_inverse=True)
        views = torch.bincount(place, minlength=len(single)).to(log_g.dtype)
        new = grouped_lse(log_g, place, len(single)) - views.log()
        old = self.get_buffer("log_u")[problem.place, single].to(log_g.dtype)
        keep = math.log1p(-self.gamma) if self.gamma < 1 else -math.inf
        mean = torch.logaddexp(old + keep, new + math.log(self.gamma))
        return log_g, torch.where(torch.isneginf(old), new, mean)[place]

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        logit, score = r.add(r.logit * r.part), r.add(r.scores * r.part)
        log_g, log_u = self._refresh(r.problem, r.stats, logit.detach())
        there = r.stats[COUNT] > 0
        ratio = (log_g - log_u).where(there, torch.full_like(log_g, -torch.inf)).exp()
        scale = r.scale.squeeze(1) if r.scale.dim() else r.scale
        # The gradient is that of lse / scale, the softmax; the value is the mean score under it.
        carrier = (r.stats[LSE] / scale).where(there, torch.zeros_like(ratio))
        mean = carrier - carrier.detach() + r.stats[EXPECT] / scale
        return ratio * (mean - score) if self.relative else ratio * mean - score

    @torch.no_grad()
    def metrics(self, r: Row) -> dict[str, Tensor]:
        """tau · log u, summed over anchors."""
        _, log_u = self._refresh(r.problem, r.stats, r.add(r.logit * r.part))
        scale = r.scale.squeeze(1) if r.scale.dim() else r.scale
        return {"global": (log_u / scale).where(r.stats[COUNT] > 0, torch.zeros_like(log_u)).sum()}

    @torch.no_grad()
    def advance(self, problem: Problem, stats: Stats, positive: Tensor, scale: Tensor) -> Tensor | None:
        """Update u; returns log u - E_w[l], the slope of the objective by temperature less rho."""
        log_g, log_u = self._refresh(problem, stats, positive)
        ids, _ = mean_by_sample(sample_ids(problem, self.get_buffer("log_u").shape[1]), log_u)
        first = torch.zeros_like(ids)
        every = sample_ids(problem, self.get_buffer("log_u").shape[1])
        first[torch.searchsorted(ids, every)] = torch.arange(len(every), device=ids.device)
        table = self.get_buffer("log_u")[problem.place]
        table[ids] = log_u[first].to(table.dtype)
        mean = stats[EXPECT] - positive if self.relative else stats[EXPECT]
        return log_u - (log_g - log_u).exp() * mean
