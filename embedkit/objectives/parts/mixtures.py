"""Banks of mixtures: along a continuous target (SupReMix), and of negatives with one another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.problem import Extra, Problem
from embedkit.objectives.matrix.similarity import NOBODY, Relation, Side
from embedkit.objectives.parts.banks import Bank, Embeddings, Queue
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import number, unit, whole


def _ring(count: int, shape: float, batch: ObjectiveBatch, like: Tensor) -> tuple[Tensor, Tensor]:
    """A partner for each of `count` vectors, never itself where there are two, and the share (count, 1) it keeps."""
    rng = batch.random("interpolation")
    ring = rng.permutation(count)
    partner = torch.from_numpy(np.roll(ring, -1)[np.argsort(ring)]).to(like.device)
    return partner, torch.from_numpy(rng.beta(shape, shape, size=(count, 1))).to(like)


@part("bank", "interpolated-queue")
class InterpolatedQueue(Queue):
    """A queue whose vectors repel as mixtures ``l n + (1 - l) n'`` with another of it, ``l ~ Beta(interpolate, .)``.

    Zhu et al. 2021, section 4.2. Partners and shares are drawn anew in each step, the same on every process; the queue
    keeps the vectors as they were. A mixture has no label, group or guide's vector.

    Parameters
    ----------
    interpolate : float
        Both parameters of the Beta distribution that shares are drawn from.

    Examples
    --------
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> queue = InterpolatedQueue(size=2, random_start=False, dim=2)
    >>> queue.after_step(z, ObjectiveBatch.of(z), Side(z["positive"], {}))
    >>> side = Side(z["anchor"], {})
    >>> bool((queue.candidates(side, side, z, ObjectiveBatch.of(z)).z > 0).all())  # between the two
    True
    """

    keeps_roles = False

    def __init__(self, size: int = 65_536, interpolate: float = 1.6, in_batch: bool = False, random_start: bool = True,
                 dim: int | None = None) -> None:  # fmt: skip
        super().__init__(size, in_batch, random_start, None, dim)
        self.interpolate = number("interpolate", interpolate, above=0)

    def candidates(self, left: Side, right: Side, embeddings: Embeddings, batch: ObjectiveBatch) -> Side | None:
        """The mixtures of this step."""
        side = self.side(left)
        if side is None or not len(side):
            return side
        partner, share = _ring(len(side), self.interpolate, batch, side.z)
        return Side(unit(share * side.z + (1 - share) * side.z[partner]), {})


@part("bank", "interpolated-batch")
class InterpolatedBatch(Bank):
    """The positives of the batch repel as mixtures ``l p + (1 - l) p'`` of two rows, and no longer as they are.

    After Zhu et al. 2021, section 4.2, without a queue: unit vectors, with gradient. A mixture that holds the anchor's
    own row is left out.

    Parameters
    ----------
    interpolate : float
        Both parameters of the Beta distribution that shares are drawn from.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(4), "positive": torch.eye(4)}
    >>> build("infonce-interpolated")(z, ObjectiveBatch.of(z)).loss > 0
    tensor(True)
    """

    in_batch = False
    cosine_only = True

    def __init__(self, interpolate: float = 1.6) -> None:
        super().__init__()
        self.interpolate = number("interpolate", interpolate, above=0)

    def candidates(self, left: Side, right: Side, embeddings: Embeddings, batch: ObjectiveBatch) -> Side | None:
        """Mixtures of the candidates that are no hard negatives; they know which two rows they are of."""
        whole = right.take(right.id("hard") < 0)
        z, row = unit(whole.z), whole.id("row")
        partner, share = _ring(len(z), self.interpolate, batch, z.detach())
        return Side(unit(share * z + (1 - share) * z[partner]), {"first of": row, "second of": row[partner]})

    def count(self, rows: int) -> int:
        """The mixtures of other rows."""
        return max(0, rows - 2)

    def drop(self, left: Side, right: Side) -> list[Relation]:
        """Mixtures that hold the anchor's own row."""
        return [Relation.of(left.id("row"), right.id(of)) for of in ("first of", "second of")]


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


@part("bank", "hard-pairs")
class HardPairs(Bank):
    """A hard positive and a hard negative of each anchor, mixed from the batch by label (Core-tuning, Zhang et al.).

    The positive is ``l p + (1 - l) n`` of the anchor's farthest vector p of its own class and its nearest n of another;
    the negative ``l n + (1 - l) m`` of n and any vector m of another class. Mixtures are brought to length 1 and have
    no gradient. An anchor without both kinds has neither. Only a summary of the paper was at hand: the choice of the
    parts is from memory [M], and a share l of ``max(b, 1 - b), b ~ Beta(mixture, mixture)`` is ours.

    Parameters
    ----------
    mixture : float
        Of the Beta distribution of the shares.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(4), "positive": torch.eye(4)}
    >>> batch = ObjectiveBatch.of(z, label=torch.tensor([0, 0, 1, 1]))
    >>> losses = [build({"name": "supcon", "bank": bank})(z, batch).loss for bank in ("none", "hard-pairs")]
    >>> losses[0] < losses[1]
    tensor(True)
    """

    requires = frozenset({"label"})
    makes_extras = True
    cosine_only = True

    def __init__(self, mixture: float = 1.0) -> None:
        super().__init__()
        self.mixture = number("mixture", mixture, above=0)

    def extras(self, problem: Problem) -> list[Extra]:
        """Cosines with both mixtures, (n, 1) each."""
        left, right = problem.my_parts[0].left, problem.my_parts[0].right.detach()
        rng, every = problem.batch.random("hard-pairs", problem.place), len(problem.whole)
        # Drawn for all anchors of the batch, then cut to this process's.
        draw, beta = rng.random((every, 1)), rng.beta(self.mixture, self.mixture, (2, every, 1))
        chance = torch.from_numpy(draw).to(left)[problem.mine]
        first, second = torch.from_numpy(np.maximum(beta, 1 - beta)).to(left)[:, problem.mine]
        ids = {name: (problem.whole.id(name)[problem.mine], problem.right.id(name)) for name in ("label", "vector")}
        scores, there = [left.new_zeros(0, 2)], [torch.zeros(0, dtype=torch.bool, device=left.device)]
        for at in range(0, len(left), 256):
            block = slice(at, at + 256)
            cosines = left[block].detach() @ right.T
            same, itself = (mine[block, None] == theirs[None] for mine, theirs in ids.values())
            labelled = (ids["label"][1] != NOBODY)[None]
            alike, unlike = same & ~itself & labelled, ~same & labelled
            far = right[cosines.masked_fill(~alike, torch.inf).argmin(dim=1)]
            near = right[cosines.masked_fill(~unlike, -torch.inf).argmax(dim=1)]
            place = (chance[block] * unlike.sum(dim=1, keepdim=True)).long()
            other = right[(unlike.cumsum(dim=1) > place).to(torch.uint8).argmax(dim=1)]
            mixtures = torch.stack([
                unit(first[block] * far + (1 - first[block]) * near),
                unit(second[block] * near + (1 - second[block]) * other),
            ], dim=1)  # fmt: skip
            scores.append((left[block, None] * mixtures).sum(dim=2))
            there.append(alike.any(dim=1) & unlike.any(dim=1))
        missing = torch.zeros_like(torch.cat(scores)).masked_fill(~torch.cat(there)[:, None], -torch.inf)
        both = torch.cat(scores)
        return [Extra(both[:, :1], missing[:, :1], positive=True), Extra(both[:, 1:], missing[:, 1:])]

    def count(self, rows: int) -> int:
        """One mixture."""
        return 1
