"""One head of the method `heads`: its settings, its module and its term of the loss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from embedkit.config.settings import NotNegative, TargetKind, Whole, check
from embedkit.data.schema.targets import TargetFacts, target_role
from embedkit.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.objectives.base import ObjectiveBatch

_LETTERS = re.compile(r"[A-Za-z0-9_-]+")
Names = Annotated[Sequence[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Classes = Annotated[
    Sequence[str], BeforeValidator(lambda value: [str(name) for name in value] if isinstance(value, list) else value)
]


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a head.

    Attributes
    ----------
    target : str
        Name of the target: that of the column, or what a source's ``columns`` map to it.
    kind : str
        "class": one of several, cross-entropy. "classes": any number of several, binary cross-entropies. "soft": a
        share for each class, cross-entropy. "degrees": a number of 0 to 1 for each class, binary cross-entropies.
        "number": a number or a list of them, squared error.
    views : str or list of str
        The views whose vectors it reads, each with the row's target.
    pair : list of str
        With two views: features u, v, |u-v|, u-v, u*v, max(u,v)^2 of their vectors side by side, read once.
    weight : float
        Of its loss.
    reduction : str
        "mean" or "sum" over outputs, for kinds with a loss of each.
    reverse : float
        Factor of the reversed gradient; 0 is an ordinary head.
    ramp : bool
        Let `reverse` grow from 0 over the run as in Ganin et al. 2016, section 5.2.2.
    classes : list of str
        Names and their order; those of the rows, sorted, when not given. A stream needs them.
    hidden : int
        Width of a hidden layer; 0 is none.
    activation : str
        Of the hidden layer.
    keep : bool
        Save it with the model, for `Model.classify`.
    mixup : float
        Above 0, it reads mixtures ``l x + (1 - l) x'`` of the vectors of two rows, l one number a step of
        Beta(mixup, mixup), and its loss is mixed as they are (Zhang et al. 2018, ICLR, mixup; between layers, Verma et
        al. 2019, ICML). Inputs are not mixed.

    Examples
    --------
    >>> HeadSettings("genre", views=["anchor", "positive"]).role
    'class:genre'
    """

    target: str = "label"
    kind: TargetKind = "class"
    views: Names = ("anchor",)
    pair: Sequence[Literal["u", "v", "|u-v|", "u-v", "u*v", "max(u,v)^2"]] = ()
    weight: NotNegative = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    reverse: NotNegative = 0.0
    ramp: bool = False
    classes: Classes = ()
    hidden: Whole = 0
    activation: str = "tanh"
    keep: bool = False
    mixup: NotNegative = 0.0

    @property
    def role(self) -> str:
        """The role of its column."""
        return target_role(self.kind, self.target)

    @property
    def named(self) -> bool:
        """Whether cells are names of classes."""
        return self.kind in ("class", "classes")

    def resolved(self, of_rows: TargetFacts | None) -> TargetFacts:
        """Classes and number of outputs, from the settings and what the rows say.

        Raises
        ------
        RecipeError, DataError
            Nothing says how many there are, or one class is no choice.

        Examples
        --------
        >>> HeadSettings("genre").resolved(TargetFacts(("a", "b")))
        TargetFacts(classes=('a', 'b'), width=2)
        """
        facts = of_rows or TargetFacts()
        classes = tuple(self.classes) or facts.classes
        width = facts.width or len(classes)
        if self.named:
            width = len(classes)
        if not width:
            what = "a stream does not say which classes it has" if self.named else "no row has a value"
            if of_rows is not None and self.named:
                raise DataError(f"target {self.target!r}: no row names a class", where="data.train",
                                remedy="map a column with names of classes to it")  # fmt: skip
            raise RecipeError(f"target {self.target!r}: {what}", where="heads.classes", remedy="give classes: [a, b]")
        if self.kind == "class" and width < 2:
            raise DataError(
                f"target {self.target!r} is {classes[0]!r} in every row that has one", where="data.train",
                remedy="give rows of two classes or more, or all names as 'classes' of the head",
            )  # fmt: skip
        if classes and width != len(classes):
            raise RecipeError(
                f"target {self.target!r} has {width} numbers and {len(classes)} names", where="heads.classes",
                remedy="name each of them, or none",
            )  # fmt: skip
        return TargetFacts(classes, width)

    def module(self, dim: int, facts: TargetFacts) -> nn.Module:
        """The head for vectors of size `dim`, with fresh weights."""
        from embedkit.models.heads.classifier import TargetHead

        inputs = dim * max(1, len(self.pair))
        return TargetHead(inputs, facts.width, self.kind, facts.classes, self.hidden, self.activation)

    def term(self, outputs: Mapping[str, Tensor], batch: ObjectiveBatch, head: Any) -> Tensor:
        """This process's share of its weighted loss: a mean over all vectors of the batch that have a target."""
        import torch

        from embedkit.methods.common import head_terms

        if self.pair:
            u, v = (outputs[name] for name in self.views)
            entries = [(head_terms.pair_features(u, v, self.pair), batch.owner[self.views[0]])]
        else:
            entries = [(outputs[name], batch.owner[name]) for name in self.views]
        if any(len(x) != len(owner) for x, owner in entries):
            raise RecipeError(f"a view of head {self.target!r} is cut into parts", where="heads.views",
                              remedy="read one whose texts are whole")  # fmt: skip
        x, owner = (torch.cat(both) for both in zip(*entries, strict=True))
        if x.shape[1] != head.inputs:
            raise RecipeError(
                f"the method gives {x.shape[1]} numbers for view {self.views[0]!r}, the vectors have {head.inputs}",
                where=f"head {self.target!r}", remedy=f"read another view: {', '.join(outputs)}",
            )  # fmt: skip
        target = batch.targets[self.target][owner]
        mine, number = head_terms.own_targets(target, owner, batch.rows)
        if self.reverse:
            ramped = head_terms.ramp(batch.step, batch.total_steps) if self.ramp else 1.0
            x = head_terms.reverse_gradient(x, self.reverse * ramped)
        partner, share = head_terms.mixed_rows(target, self.mixup, batch, self.target)
        if self.mixup:
            x = share * x + (1 - share) * x[partner]
        logits = head(x[mine])
        losses = head_terms.target_losses(self.kind, logits, target[mine], self.reduction)
        if self.mixup:
            others = head_terms.target_losses(self.kind, logits, target[partner][mine], self.reduction)
            losses = share * losses + (1 - share) * others
        return self.weight * losses.sum() / number


def head_settings(config: Any, where: str) -> HeadSettings:
    """The settings of a recipe, checked.

    Raises
    ------
    RecipeError
        An unknown key, a value that does not fit, or two that do not fit each other.

    Examples
    --------
    >>> head_settings({"target": "genre", "kind": "klass"}, "method.heads.0")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.heads.0.kind: ...
    """
    if not isinstance(config, Mapping):
        raise RecipeError(f"a head is {config!r}", where=where, remedy="write {target: COLUMN}")
    head = HeadSettings(**check(HeadSettings, config, where))
    if not _LETTERS.fullmatch(head.target):
        raise RecipeError(f"the name {head.target!r} has other signs than letters, digits, _ and -", where=where,
                          remedy="name it otherwise, and map the column to it with 'columns'")  # fmt: skip
    if len(set(head.classes)) < len(head.classes):
        raise RecipeError("a class stands twice", where=f"{where}.classes", remedy="keep one of them")
    _check_pair(head, where)
    unread = [key for key, reader in _NEEDED.items() if key in config and not reader(head)]
    if unread:
        raise RecipeError(f"nothing reads {unread[0]!r} here", where=f"{where}.{unread[0]}", remedy="leave it out")
    return head


_NEEDED = {
    "ramp": lambda head: head.reverse > 0,
    "activation": lambda head: head.hidden > 0,
    "reduction": lambda head: head.kind in ("classes", "degrees", "number"),
}
"""Setting -> whether something reads it."""


def _check_pair(head: HeadSettings, where: str) -> None:
    if head.pair and len(head.views) != 2:
        raise RecipeError("features of a pair need two views", where=f"{where}.views",
                          remedy="write views: [anchor, positive]")  # fmt: skip
    if not head.views or len(set(head.views)) < len(head.views):
        raise RecipeError("a head reads each view once", where=f"{where}.views", remedy="write views: [anchor]")
    if head.pair and head.keep:
        raise RecipeError("a head on pairs cannot be kept", where=f"{where}.keep", remedy="set keep: false")
