"""Order and equivariance: differentiable sorting (GroCo), average precision (FastAP), ListMLE, Gram matrices (CARE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import (
    FURTHER,
    PAIR,
    Family,
    all_views,
    any_views,
    guides,
    loss_of_rows,
    other_rows,
    require_role,
    square_distances,
    take,
    teacher_scores,
)
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, require, unit, whole


def odd_even_sort(values: Tensor, steepness: float) -> Tensor:
    """Soft permutation of an odd-even sorting network, ascending.

    Petersen et al. 2022, "Monotonic Differentiable Sorting Networks", with the Cauchy sigmoid: neighbours a, b change
    places to the degree ``1/2 - atan(steepness * (b - a)) / pi``.

    Parameters
    ----------
    values : Tensor (R, n)
        Rows to be sorted.
    steepness : float
        Inverse temperature of each swap.

    Returns
    -------
    Tensor (R, n, n)
        Doubly stochastic: entry (r, k, j) says how much element j is at place k.

    Examples
    --------
    >>> import torch
    >>> odd_even_sort(torch.tensor([[2.0, 1.0]]), steepness=10.0)
    tensor([[[0.0317, 0.9683],
             [0.9683, 0.0317]]])
    """
    count = values.shape[1]
    eye = torch.eye(count, dtype=values.dtype, device=values.device)
    places = eye.expand(len(values), count, count)
    for layer in range(count):
        low = torch.arange(layer % 2, count - 1, 2, device=values.device)
        a, b = values[:, low], values[:, low + 1]  # (R, pairs)
        keep = 0.5 + torch.atan(steepness * (b - a)) / math.pi
        values = values.index_copy(1, low, keep * a + (1 - keep) * b)
        values = values.index_copy(1, low + 1, (1 - keep) * a + keep * b)
        a, b, keep = places[:, low], places[:, low + 1], keep[:, :, None]  # (R, pairs, n)
        places = places.index_copy(1, low, keep * a + (1 - keep) * b)
        places = places.index_copy(1, low + 1, (1 - keep) * a + keep * b)
    return places


@objective(
    "groco", paper="Shvetsova et al. 2023, ICCV, Learning by Sorting, section 3", family="ranking", splits=True,
    slots="differentiable odd-even sorting of positives and hardest negatives, cross-entropy of the two groups",
    cost="B² D + B n³ for n = negatives + views - 1",
)  # fmt: skip
class GroCo(Family):
    """Group ordering: all positives of an anchor should come after its hardest negatives when sorted by cosine.

    Every view is an anchor. Its positives are the other views of its row, its negatives the `hardest` most similar
    vectors of its own view; both carry no gradient. The network sorts ``[negatives ascending, positives ascending]``;
    the loss is the binary cross-entropy of each element's probability of ending in the positive group, averaged over
    elements. (The paper averages it with that of the negative group, which is the same number, as the two
    probabilities sum to one.)

    Parameters
    ----------
    hardest : int
        Negatives per anchor; fewer when the batch has fewer.
    steepness : float
        Inverse temperature of each swap.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("groco")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    0.6931
    """

    accepts = FURTHER
    repels = True

    def __init__(self, *, hardest: int = 10, steepness: float = 1.0) -> None:
        super().__init__()
        self.hardest = whole("hardest", hardest, least=1)
        self.steepness = number("steepness", steepness, above=0)

    def _group_loss(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Loss (R,) of each anchor from its similarities (R, P) and (R, N)."""
        values = torch.cat([negatives.sort(dim=1).values, positives.sort(dim=1).values], dim=1)  # (R, n)
        split_at = negatives.shape[1]
        places = odd_even_sort(values, self.steepness)  # (R, n, n)
        chance = places[:, split_at:].sum(dim=1).clamp(0.0, 1.0)  # (R, n): ends among the positives
        truth = (torch.arange(values.shape[1], device=values.device) >= split_at).to(values.dtype)
        return F.binary_cross_entropy(chance, truth.expand_as(chance), reduction="none").mean(dim=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors, in every view."""
        views = [unit(z) for z in all_views(embeddings)]
        rows = batch.rows
        total = views[0].new_zeros(())
        other = other_rows(batch.size, rows, views[0].device)  # (rows, B)
        for at, anchors in enumerate(views):
            keys = torch.stack([z for k, z in enumerate(views) if k != at]).detach()  # (V - 1, B, D)
            positives = torch.einsum("rd,vrd->rv", anchors[rows], keys[:, rows])  # (rows, V - 1)
            table = (anchors[rows] @ anchors.detach().T).masked_fill(~other, -torch.inf)  # (rows, B)
            hardest = min(self.hardest, batch.size - 1)
            total = total + self._group_loss(positives, table.topk(hardest, dim=1).values).sum()
        return loss_of_rows({"order": total / (batch.size * len(views))})


@objective(
    "fast-ap", paper="Cakir et al. 2019, CVPR, Deep Metric Learning to Rank, eq. 7 to 9", family="ranking", splits=True,
    cost="B² (D + bins)", slots="average precision of the class, from a soft histogram of squared distances",
)  # fmt: skip
class FastAP(Family):
    """``1 - mean of AP``, the average precision of each vector's class when all others are sorted by their distance.

    Squared distances of unit vectors fall into bins around ``0, 4 / bins, ..., 4``, each counted by its two nearest
    bins in proportion. With h+ the histogram of the vectors of the class, H+ and H the cumulated histograms of the
    class and of all, ``AP = sum_j h+_j H+_j / H_j / count``. Every view is an example; vectors that are
    alone with their label count in no mean.

    Parameters
    ----------
    bins : int
        Width of a bin is 4 / bins.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])}
    >>> build("fast-ap")(z, ObjectiveBatch.of(z, label=torch.tensor([0, 0, 1, 1]))).loss  # the class comes first
    tensor(0.)
    """

    requires = frozenset({"anchor", "label"})
    accepts = FURTHER | {"positive"}
    repels = True

    def __init__(self, *, bins: int = 10) -> None:
        super().__init__()
        self.bins = whole("bins", bins, least=1)

    def _precision(self, square: Tensor, own: Tensor, there: Tensor) -> Tensor:
        """Average precision (n,) from squared distances (n, N), which are of the class and which count."""
        width, class_sum, all_sum = 4.0 / self.bins, square.new_zeros(len(square)), square.new_zeros(len(square))
        total = torch.zeros_like(class_sum)
        for j in range(self.bins + 1):
            pulse = (1 - (square - width * j).abs() / width).relu()
            here = (pulse * own).sum(dim=1)
            class_sum, all_sum = class_sum + here, all_sum + (pulse * there).sum(dim=1)
            filled = here > 0
            total = total + torch.where(filled, here * class_sum / torch.where(filled, all_sum, 1.0), 0.0)
        return total / own.sum(dim=1).clamp_min(1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's vectors."""
        views = [unit(z) for z in any_views(embeddings)]
        label, every = require_role(batch.label, "label").repeat(len(views)), torch.cat(views)  # (N, D)
        place = torch.arange(len(every), device=every.device)
        same = label[:, None] == label[None, :]
        count = same.sum(dim=1) - 1
        mine = torch.cat([place[batch.rows.start + k * batch.size : batch.rows.stop + k * batch.size]
                          for k in range(len(views))])  # fmt: skip
        there = place[mine, None] != place[None, :]
        precision = self._precision(square_distances(every[mine], every), same[mine] & there, there)
        missing = torch.where(count[mine] > 0, 1 - precision, 0.0)
        return loss_of_rows({"precision": missing.sum() / (count > 0).sum().clamp_min(1)})


@objective(
    "gram-equivariance", paper="Gupta et al. 2023, arXiv 2306.13924, CARE", family="equivariance", splits=True,
    slots="equality of the Gram matrices of two views within a group",
    note="CARE adds it to ntxent; its group is the part of a batch that shares one pair of augmentations.",
)  # fmt: skip
class GramEquivariance(Family):
    """Equal Gram matrices: within a group of rows, both views should have the same cosines between rows.

    ``2 * mean_i sum_{j != i} (cos(a_i, a_j) - cos(p_i, p_j))²`` over the rows of a group, averaged over groups. A group
    is a set of rows whose views were made by one and the same pair of augmentations, so that an augmentation acts as
    a rotation. A group of one row counts as zero.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("gram-equivariance")(z, ObjectiveBatch.of(z, group=torch.tensor([0, 0]))).loss
    >>> round(loss.item(), 4)
    0.0
    """

    requires = frozenset({"anchor", "positive", "group"})
    shares_draws = True

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        a, b = (unit(z) for z in take(embeddings, *PAIR))
        group, rows = require_role(batch.group, "group"), batch.rows
        _, inverse, sizes = group.unique(return_inverse=True, return_counts=True)
        same = (group[rows, None] == group[None, :]) & other_rows(batch.size, rows, a.device)  # (rows, B)
        gaps = (a[rows] @ a.T - b[rows] @ b.T).square().masked_fill(~same, 0.0).sum(dim=1)  # (rows,)
        weight = 2.0 / (sizes[inverse[rows]] * len(sizes)).to(a.dtype)
        return loss_of_rows({"gram": (weight * gaps).sum()})


def plackett_luce(student: Tensor, target: Tensor, valid: Tensor, ties: Tensor) -> Tensor:
    """-log of the probability of the order of the targets when candidates are drawn by e^student, one by one, (R,).

    Xia et al. 2008, ListMLE, section 4.1. Equal targets are ordered by `ties`.

    Parameters
    ----------
    student, target, ties : Tensor (R, n)
        Logits of the candidates, what they are to be ordered by (the highest first), and random numbers.
    valid : Tensor (R, n)
        Which candidates there are.

    Examples
    --------
    >>> import torch
    >>> there = torch.ones(1, 3, dtype=torch.bool)
    >>> plackett_luce(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.9, 0.5, 0.1]]), there, torch.rand(1, 3))
    tensor([0.7209])
    """
    order = ties.argsort(dim=1)
    by_target = target.masked_fill(~valid, -torch.inf).gather(1, order).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, by_target)
    there = valid.gather(1, order)
    low = student.detach().min() - 1000 if student.numel() else 0.0  # e^-1000 is 0, and has a gradient, unlike -inf
    logits = student.masked_fill(~valid, float(low)).gather(1, order)
    rest = logits.flip(1).logcumsumexp(dim=1).flip(1)  # what is left to draw from, at each place
    return (rest - logits).masked_fill(~there, 0.0).sum(dim=1)


def order_prior(teacher: Tensor, valid: Tensor, omega: float, fidelity: str) -> Tensor:
    """A teacher's similarities of ordered lists, moved towards the order of the lists, (R, n, n).

    Row i of a list ranks the members i, i + 1, ... by the teacher. A member at distance r = j - i that does not stand
    at place r is moved by ± log(1 + omega · g), g being how far its similarity is from the one at place r, down where
    it stands too early. The lower triangle mirrors the upper one. The released code compares a member's place with j
    (``fidelity`` "code"), so that it is nearly always moved down.

    Examples
    --------
    >>> import torch
    >>> teacher = torch.tensor([[[1.0, 0.2, 0.6], [0.2, 1.0, 0.3], [0.6, 0.3, 1.0]]])
    >>> order_prior(teacher, torch.ones(1, 3, dtype=torch.bool), omega=1.0, fidelity="paper")[0, 0]
    tensor([1.0000, 0.5365, 0.2635])
    """
    count = teacher.shape[1]
    place = torch.arange(count, device=teacher.device)
    gap = place[None, :] - place[:, None]  # j - i
    tail = (gap >= 0) & valid[:, None, :]
    values = teacher.masked_fill(~tail, -torch.inf)
    order = values.argsort(dim=2, descending=True, stable=True)
    rank = order.argsort(dim=2)
    by_rank = values.gather(2, order)
    in_place = by_rank.gather(2, gap.clamp_min(0).expand_as(teacher))
    away = torch.where(tail & in_place.isfinite(), (teacher - in_place).abs(), 0.0)
    early = rank < (gap if fidelity == "paper" else place[None, :].expand_as(gap))
    prior = teacher + torch.where(early, -1.0, 1.0) * torch.log1p(omega * away)
    upper = prior.triu()
    return upper + upper.transpose(1, 2) - torch.diag_embed(prior.diagonal(dim1=1, dim2=2))


@objective(
    "list-mle", paper="Xia et al. 2008, ICML, ListMLE; lists: Liu et al. 2023, ACL, RankCSE, section 3.3",
    family="ranking", splits=True, slots="likelihood of a teacher's order of the candidates",
    note="omega: Refining Sentence Embedding Model through Ranking Sentences Generation (2025), from the released code",
)  # fmt: skip
class ListMLE(Family):
    """``-log P(order by the teacher)``, candidates being drawn one after another by ``softmax(cos / temperature)``.

    Parameters
    ----------
    temperature : float
        The student's.
    lists : str
        Who ranks whom. "own": an anchor its positive and hard negatives, by a teacher's ``scores`` of them where rows
        have them, else by the guide's vectors. "batch": an anchor all positives and hard negatives of the batch, by the
        guide. "members": every text of a row (anchor, positive, negatives in their order) all texts of the row, itself
        included, by the guide; the mean over them.
    omega : float
        With "members": how strongly the order in which a row lists its texts corrects the guide, see `order_prior`.
    teacher_temperature : float, optional
        The guide's similarities are divided by it before that; 0.05 when not given. Elsewhere only their order counts.
    fidelity : str
        "paper" or "code" of that correction.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.eye(2).flip(0)}
    >>> scores = {"positive": torch.tensor([0.9, 0.2]), "negatives": torch.tensor([0.1, 0.7])}
    >>> build({"name": "list-mle", "temperature": 1.0})(z, ObjectiveBatch.of(z, scores=scores)).loss
    tensor(0.8133)
    """

    accepts = frozenset({"negatives", "guide", "scores"})
    any_of: tuple[frozenset[str], ...] = (frozenset({"guide", "scores"}),)

    def __init__(self, *, temperature: float = 0.05, lists: str = "own", omega: float = 0.0,
                 teacher_temperature: float | None = None, fidelity: str = "paper") -> None:  # fmt: skip
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.lists = choice("lists", lists, ("own", "batch", "members"))
        self.omega, self.fidelity = number("omega", omega, least=0), choice("fidelity", fidelity, ("paper", "code"))
        require(not omega or lists == "members", "omega", omega, "0 where lists is not 'members'")
        require(teacher_temperature is None or omega > 0, "teacher_temperature", teacher_temperature,
                "left out without omega: only the order counts")  # fmt: skip
        width = 0.05 if teacher_temperature is None else teacher_temperature
        self.teacher_temperature = number("teacher_temperature", width, above=0)
        if lists != "own":
            self.requires, self.accepts = frozenset({*PAIR, "guide"}), frozenset({"negatives"})
            self.any_of = ()

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        names = (*PAIR, "negatives") if len(embeddings.get("negatives", ())) else PAIR
        z = {name: unit(x) for name, x in zip(names, take(embeddings, *names), strict=True)}
        teacher: dict[str, Tensor] = {}
        if self.lists != "own" or not batch.scores:
            teacher = {name: unit(x) for name, x in zip(names, guides(batch, *names), strict=True)}
        losses = {"own": self._own, "batch": self._batch, "members": self._members}[self.lists](z, teacher, batch)
        return loss_of_rows({"order": losses.sum() / batch.size})

    def _own(self, z: dict[str, Tensor], teacher: dict[str, Tensor], batch: ObjectiveBatch) -> Tensor:
        """Each anchor and its own candidates, (rows,)."""
        names = [name for name in z if name != "anchor"]
        owner = torch.cat([batch.owner[name] for name in names])
        place, valid = _lists(owner, batch.rows)
        student = (z["anchor"][owner] * torch.cat([z[name] for name in names])).sum(dim=1)
        if teacher:
            target = (teacher["anchor"][owner] * torch.cat([teacher[name] for name in names])).sum(dim=1)
        else:
            target = torch.cat([teacher_scores(batch, name) for name in names]).to(student.dtype)
        return plackett_luce(student[place] / self.temperature, target[place], valid, _ties(batch, owner)[place])

    def _batch(self, z: dict[str, Tensor], teacher: dict[str, Tensor], batch: ObjectiveBatch) -> Tensor:
        """Each anchor and all candidates, (rows,)."""
        student, target = (
            side["anchor"][batch.rows] @ torch.cat([x for name, x in side.items() if name != "anchor"]).T
            for side in (z, teacher)
        )
        ties = _ties(batch, student.T).expand_as(student)
        return plackett_luce(student / self.temperature, target.to(student.dtype),
                             torch.ones_like(student, dtype=torch.bool), ties)  # fmt: skip

    def _members(self, z: dict[str, Tensor], teacher: dict[str, Tensor], batch: ObjectiveBatch) -> Tensor:
        """Every text of each row and all of them, (rows,)."""
        owner = torch.cat([batch.owner[name] for name in z])
        place, valid = _lists(owner, batch.rows)
        student, target = (
            torch.einsum("rnd,rmd->rnm", members, members)
            for members in (torch.cat(list(side.values()))[place] for side in (z, teacher))
        )  # (rows, n, n) each
        target = target.to(student.dtype)
        if self.omega:
            target = order_prior(target / self.teacher_temperature, valid, self.omega, self.fidelity)
        count = place.shape[1]
        flat = (x.expand(-1, count, -1).flatten(0, 1) for x in (valid[:, None], _ties(batch, owner)[place][:, None]))
        losses = plackett_luce(student.flatten(0, 1) / self.temperature, target.flatten(0, 1), *flat)
        return (losses.view(-1, count) * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)


def _lists(owner: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """The numbers of the vectors of each of these rows, padded, (rows, n), and which are no padding."""
    order = owner.argsort(stable=True)
    order = order[(owner[order] >= rows.start) & (owner[order] < rows.stop)]
    own = owner[order] - rows.start
    count = torch.bincount(own, minlength=rows.stop - rows.start)
    within = torch.arange(len(own), device=own.device) - (count.cumsum(0) - count)[own]
    width = int(count.max()) if len(count) else 0
    place = torch.zeros(len(count), width, dtype=torch.long, device=owner.device)
    place[own, within] = order
    return place, torch.arange(width, device=owner.device)[None, :] < count[:, None]


def _ties(batch: ObjectiveBatch, like: Tensor) -> Tensor:
    """A random number for each vector, the same on every process."""
    return torch.from_numpy(batch.random("list-mle").random(len(like))).to(like.device)
