"""Bank of mixtures along a continuous target (SupReMix)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embedkit.objectives.matrix.problem import Extra, Problem
from embedkit.objectives.parts.banks import Bank
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import number, whole


@part("bank", "label-mixes")
class LabelMixes(Bank):
    """Negatives and positives mixed from the batch along a real target, the role ``score`` (SupReMix, Wu et al.).

    Negative mixtures are a z_i + (1-a) z_k, a ~ Beta(2, 8), of an anchor and a row of another target; positive ones are
    b z_j + (1-b) z_k of a row below and a row above the anchor's target, nearer than `window`, with b chosen so that
    the mixed target is the anchor's. Mixtures have no gradient and are not normalised again. A negative weighs
    |difference of targets| + 1.

    Parameters
    ----------
    mixes, positive_mixes : int
        Mixtures of each kind for each anchor.
    window : float
        In units of the target.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(3), "positive": torch.eye(3)}
    >>> batch = ObjectiveBatch.of(z, score=torch.tensor([0.0, 1.0, 2.0]))
    >>> losses = [build({"name": "supremix", "mixes": mixes})(z, batch).loss for mixes in (0, 16)]
    >>> losses[0] < losses[1]  # mixtures with the anchor itself are hard negatives
    tensor(True)
    """

    requires = frozenset({"score"})
    makes_extras = True

    def __init__(self, mixes: int = 16, positive_mixes: int = 1, window: float = 5.0) -> None:
        super().__init__()
        self.mixes, self.positive_mixes = whole("mixes", mixes), whole("positive_mixes", positive_mixes)
        self.window = number("window", window, above=0)

    def extras(self, problem: Problem) -> list[Extra]:
        """Scores of both kinds of mixture."""
        target = problem.whole.score
        assert target is not None
        rng = problem.batch.random("mixtures", problem.place)
        return [e for e in (self._negatives(problem, target, rng), self._positives(problem, target, rng)) if e]

    def _negatives(self, problem: Problem, target: Tensor, rng: np.random.Generator) -> Extra | None:
        if not self.mixes:
            return None
        z, size = problem.parts[0].left.detach(), len(problem.whole)
        other = torch.from_numpy(rng.integers(0, size, (size, self.mixes))).to(z.device)[problem.mine]
        share = torch.from_numpy(rng.beta(2, 8, (size, self.mixes))).to(z)[problem.mine]
        gap = (target[other] - target[problem.mine][:, None]).abs()
        mine = problem.my_parts[0].left
        # <z_i, a z_i + (1-a) z_k> without holding the mixtures.
        to_other = torch.einsum("nd,nkd->nk", mine, z[other])
        scores = share * (mine * mine.detach()).sum(-1, keepdim=True) + (1 - share) * to_other
        weight = ((1 - share) * gap + 1).log()
        return Extra(scores, weight.masked_fill(gap == 0, -torch.inf))

    def _positives(self, problem: Problem, target: Tensor, rng: np.random.Generator) -> Extra | None:
        if not self.positive_mixes:
            return None
        z, size = problem.parts[0].left.detach(), len(problem.whole)
        ascending, order = target.sort(stable=True)
        low = torch.searchsorted(ascending, target - self.window, right=True)
        own_first, own_last = torch.searchsorted(ascending, target), torch.searchsorted(ascending, target, right=True)
        high = torch.searchsorted(ascending, target + self.window)
        draw = torch.from_numpy(rng.random((2, size, self.positive_mixes))).to(target)
        below = low[:, None] + (draw[0] * (own_first - low)[:, None]).long()
        above = own_last[:, None] + (draw[1] * (high - own_last)[:, None]).long()
        there = ((own_first > low) & (high > own_last))[:, None].expand_as(below)
        j, k = order[below.clamp(0, size - 1)][problem.mine], order[above.clamp(0, size - 1)][problem.mine]
        t = target[problem.mine][:, None]
        share = ((target[k] - t) / (target[k] - target[j]).where(target[k] != target[j], torch.ones_like(t))).to(z)
        mine = problem.my_parts[0].left
        scores = share * torch.einsum("nd,nkd->nk", mine, z[j]) + (1 - share) * torch.einsum("nd,nkd->nk", mine, z[k])
        missing = torch.zeros_like(scores).masked_fill(~there[problem.mine], -torch.inf)
        return Extra(scores, missing, positive=True)
