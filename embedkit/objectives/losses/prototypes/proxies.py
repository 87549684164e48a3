"""Losses against trained vectors of each class: proxy-anchor, proxy-NCA, ArcFace, CosFace, SoftTriple."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedkit.errors import DataError, RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, Family, any_views, loss_of_batch, loss_of_rows, require_role
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, logaddexp, masked_lse, number, require, unit, whole

COST = "B C D for C proxies"
STATE = "proxies (C, D)"


class Proxies(Family):
    """Base class of losses that compare embeddings with trained vectors of the classes, `per_class` each.

    Every view of a row is an example of its class. The role ``label`` counts classes from zero.

    Parameters
    ----------
    classes : int or None
        How many classes the labels tell apart; it must be given to train.
    per_class : int
        Proxies of a class.
    dim : int or None
        Size of the embeddings; without it the objective can be checked but not evaluated.

    Examples
    --------
    >>> Proxies(classes=3, per_class=2, dim=4).proxies.shape
    torch.Size([6, 4])
    >>> Proxies(classes=None, per_class=1, dim=4)
    Traceback (most recent call last):
        ...
    embedkit.errors.RecipeError: objective: classes is None; it must be the number of classes of the role label
    """

    requires = frozenset({"anchor", "label"})
    accepts = FURTHER | {"positive"}

    def __init__(self, *, classes: int | None, per_class: int, dim: int | None) -> None:
        super().__init__()
        require(classes is not None or dim is None, "classes", classes, "the number of classes of the role label")
        self.classes = 2 if classes is None else whole("classes", classes, least=2)
        self.limits = {} if classes is None else {"label": (0.0, self.classes - 1.0)}
        self.proxies = None if dim is None else nn.Parameter(unit(torch.randn(self.classes * per_class, dim)))

    def cosines(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> tuple[list[Tensor], Tensor]:
        """Cosines (B, C x per_class) of each view with the proxies, and the class (B,) of each row."""
        if self.proxies is None:
            raise RecipeError("the proxies' size is not known", where="objective", remedy="build it with dim=")
        views = any_views(embeddings)
        label = require_role(batch.label, "label").long()
        strange = (label < 0) | (label >= self.classes)
        if bool(strange.any()):
            row = int(strange.nonzero()[0])
            raise DataError(
                f"label {int(label[row])} is none of the {self.classes} classes", where=f"role 'label' row {row}",
                remedy=f"set classes to {int(label.max()) + 1} at least, and count labels from 0",
            )  # fmt: skip
        proxies = unit(self.proxies.to(views[0].dtype))
        return [unit(z) @ proxies.T for z in views], label

    def cross_entropy(self, logits: list[Tensor], label: Tensor, batch: ObjectiveBatch) -> Tensor:
        """Mean over rows and views of the cross-entropy with the class, this process's share."""
        rows = batch.rows
        losses = [nn.functional.cross_entropy(x[rows], label[rows], reduction="sum") for x in logits]
        return torch.stack(losses).sum() / (batch.size * len(logits))


@objective(
    "proxy-anchor", paper="Kim et al. 2020, CVPR, Proxy Anchor Loss for Deep Metric Learning, eq. 4", family="proxies",
    cost=COST, state=STATE, slots="each proxy an anchor: log-sum-exp over the batch's examples",
)  # fmt: skip
class ProxyAnchor(Proxies):
    """Every proxy p draws the examples of its class and repels the others, the hardest most.

    ``mean over classes in the batch of log(1 + sum_{x of p} exp(-alpha (cos(x, p) - margin)))`` plus ``mean over all
    classes of log(1 + sum_{x not of p} exp(alpha (cos(x, p) + margin)))``.

    Parameters
    ----------
    classes : int or None
        Number of classes.
    margin, alpha : float
        Margin of the cosines and sharpness.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2)}
    >>> objective = build({"name": "proxy-anchor", "classes": 2}, dim=2)
    >>> objective.proxies.data = torch.eye(2)  # each example is at its proxy
    >>> round(objective(z, ObjectiveBatch.of(z, label=torch.tensor([0, 1]))).loss.item(), 4)
    3.24
    """

    def __init__(
        self, *, classes: int | None = None, margin: float = 0.1, alpha: float = 32.0, dim: int | None = None
    ) -> None:
        super().__init__(classes=classes, per_class=1, dim=dim)
        self.margin, self.alpha = number("margin", margin), number("alpha", alpha, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss, with the terms ``attraction`` and ``repulsion``; every process evaluates the whole batch."""
        cosines, label = self.cosines(embeddings, batch)
        scores, label = torch.cat(cosines), label.repeat(len(cosines))  # (V B, C)
        own = label[:, None] == torch.arange(self.classes, device=label.device)
        none = scores.new_zeros(self.classes)
        pull = logaddexp(none, masked_lse(-self.alpha * (scores - self.margin), own, dim=0))  # (C,)
        push = logaddexp(none, masked_lse(self.alpha * (scores + self.margin), ~own, dim=0))
        present = own.any(dim=0).sum()
        return loss_of_batch({"attraction": pull.sum() / present, "repulsion": push.mean()}, batch)


@objective(
    "proxy-nca", paper="Movshovitz-Attias et al. 2017, ICCV, No Fuss Distance Metric Learning using Proxies, eq. 4",
    family="proxies", splits=True, cost=COST, state=STATE, slots="softmax of negative squared distances to proxies",
)  # fmt: skip
class ProxyNCA(Proxies):
    """``-log(exp(-scale d(x, p_y)) / sum_{z != y} exp(-scale d(x, p_z)))``, d the squared distance of unit vectors.

    Parameters
    ----------
    classes : int or None
        Number of classes.
    scale : float
        Inverse temperature; ProxyNCA++ (Teh et al. 2020) has 9.
    own : bool
        Whether the own proxy stands in the denominator too, as in ProxyNCA++; the paper leaves it out.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2)}
    >>> objective = build({"name": "proxy-nca", "classes": 2}, dim=2)
    >>> objective.proxies.data = torch.eye(2)
    >>> objective(z, ObjectiveBatch.of(z, label=torch.tensor([0, 1]))).loss.item()  # two squared distances: 0 - 2
    -2.0
    """

    def __init__(
        self, *, classes: int | None = None, scale: float = 1.0, own: bool = False, dim: int | None = None
    ) -> None:
        super().__init__(classes=classes, per_class=1, dim=dim)
        self.scale, self.own = number("scale", scale, above=0), choice("own", own, (True, False))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        cosines, label = self.cosines(embeddings, batch)
        logits = [2 * self.scale * cosine for cosine in cosines]  # -d less a constant
        if self.own:
            return loss_of_rows({"nca": self.cross_entropy(logits, label, batch)})
        rows, total = batch.rows, logits[0].new_zeros(())
        others = label[rows, None] != torch.arange(self.classes, device=label.device)
        for logit in logits:
            near = logit[rows].gather(1, label[rows, None]).squeeze(1)
            total = total + (masked_lse(logit[rows], others) - near).sum()
        return loss_of_rows({"nca": total / (batch.size * len(logits))})


@objective(
    "cosface", paper="Wang et al. 2018, CVPR, CosFace, eq. 4", family="proxies", splits=True, cost=COST, state=STATE,
    slots="softmax of cosines, less a margin at the own class", margin=0.35, additive=True,
)  # fmt: skip
@objective(
    "arcface", paper="Deng et al. 2019, CVPR, ArcFace, eq. 3", family="proxies", splits=True, cost=COST, state=STATE,
    slots="softmax of cosines, a margin on the angle at the own class",
)  # fmt: skip
class MarginSoftmax(Proxies):
    """Cross-entropy of ``scale * cos(x, p_c)``, the own class made harder by a margin.

    ArcFace has ``cos(angle + margin)`` there, and beyond ``angle = pi - margin`` the cosine less ``margin sin(margin)``
    so that it keeps falling (the authors' code); CosFace has ``cos - margin``.

    Parameters
    ----------
    classes : int or None
        Number of classes.
    margin : float
        In radians, or of the cosine.
    scale : float
        Length of the vectors, s of the papers.
    additive : bool
        Whether the margin is one of the cosine.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2)}
    >>> objective = build({"name": "cosface", "classes": 2, "scale": 1.0}, dim=2)
    >>> objective.proxies.data = torch.eye(2)
    >>> round(objective(z, ObjectiveBatch.of(z, label=torch.tensor([0, 1]))).loss.item(), 4)  # log(1 + e^-(1 - 0.35))
    0.4201
    """

    def __init__(
        self, *, classes: int | None = None, margin: float = 0.5, scale: float = 64.0, additive: bool = False,
        dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes=classes, per_class=1, dim=dim)
        self.additive = choice("additive", additive, (True, False))
        self.margin = number("margin", margin, least=0, most=None if additive else math.pi)
        self.scale = number("scale", scale, above=0)

    def _harder(self, cosine: Tensor) -> Tensor:
        """The cosines with the margin."""
        if self.additive:
            return cosine - self.margin
        inside = cosine.clamp(-1 + 1e-7, 1 - 1e-7)  # the root has no gradient at 1
        wide = inside * math.cos(self.margin) - (1 - inside.square()).sqrt() * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), wide, cosine - self.margin * math.sin(self.margin))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        cosines, label = self.cosines(embeddings, batch)
        own = nn.functional.one_hot(label, self.classes).bool()
        logits = [self.scale * torch.where(own, self._harder(cosine), cosine) for cosine in cosines]
        return loss_of_rows({"cross_entropy": self.cross_entropy(logits, label, batch)})


@objective(
    "soft-triple", paper="Qian et al. 2019, ICCV, SoftTriple Loss, eq. 5 to 7", family="proxies", splits=True,
    cost="B C K D for K centres of C classes", state="centres (C K, D)",
    slots="several centres a class, their softmax-weighted cosine, softmax with a margin",
    note="the weight of merging centres is from memory [M]",
)  # fmt: skip
class SoftTriple(Proxies):
    """Cross-entropy of ``scale * (S_c - margin [c = y])``; S_c weighs the centres w of a class, nearest first.

    ``S_c = sum_k softmax_k(cos(x, w_ck) / gamma) cos(x, w_ck)``. The distances of a class's centres are added,
    ``merge * sum of ||w_cs - w_ct|| over s < t / (C K (K - 1))``, so that centres that are not needed fall together.

    Parameters
    ----------
    classes : int or None
        Number of classes.
    centres : int
        Centres of a class, K.
    scale, gamma, margin : float
        Lambda, gamma and delta of the paper.
    merge : float
        Weight of the distances of a class's centres, tau of the paper.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2)}
    >>> objective = build({"name": "soft-triple", "classes": 2, "centres": 1, "scale": 1.0, "margin": 0.0}, dim=2)
    >>> objective.proxies.data = torch.eye(2)
    >>> round(objective(z, ObjectiveBatch.of(z, label=torch.tensor([0, 1]))).loss.item(), 4)
    0.3133
    """

    def __init__(
        self, *, classes: int | None = None, centres: int = 10, scale: float = 20.0, gamma: float = 0.1,
        margin: float = 0.01, merge: float = 0.2, dim: int | None = None,
    ) -> None:  # fmt: skip
        self.centres = whole("centres", centres, least=1)
        super().__init__(classes=classes, per_class=self.centres, dim=dim)
        self.scale, self.gamma = number("scale", scale, above=0), number("gamma", gamma, above=0)
        self.margin, self.merge = number("margin", margin, least=0), number("merge", merge, least=0)

    def _spread(self, proxies: Tensor) -> Tensor:
        """Mean distance of two centres of a class, halved; zero for one centre a class."""
        if self.centres == 1:
            return 0.0 * proxies.sum()
        centres = unit(proxies).unflatten(0, (self.classes, self.centres))  # (C, K, D)
        first, second = torch.triu_indices(self.centres, self.centres, 1, device=proxies.device)
        cosine = (centres[:, first] * centres[:, second]).sum(-1)
        distance = (2.0 + 1e-5 - 2.0 * cosine).clamp_min(1e-12).sqrt()
        return distance.sum() / (self.classes * self.centres * (self.centres - 1))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows, with the terms ``cross_entropy`` and ``merge``."""
        cosines, label = self.cosines(embeddings, batch)
        assert self.proxies is not None
        own, logits = self.margin * nn.functional.one_hot(label, self.classes).to(cosines[0].dtype), []
        for cosine in cosines:
            by_class = cosine.unflatten(1, (self.classes, self.centres))  # (B, C, K)
            score = ((by_class / self.gamma).softmax(dim=2) * by_class).sum(dim=2)
            logits.append(self.scale * (score - own))
        merge = self.merge * self._spread(self.proxies.to(cosines[0].dtype)) * batch.share
        return loss_of_rows({"cross_entropy": self.cross_entropy(logits, label, batch), "merge": merge})
