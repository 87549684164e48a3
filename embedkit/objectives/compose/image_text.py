"""Objectives on several views of images and of texts: an objective over their pairs, and swapped assignments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.compose.wrappers import Config, Wrapper, renamed
from embedkit.objectives.family import Family, loss_of_rows, take
from embedkit.objectives.losses.prototypes.assignment import sinkhorn
from embedkit.objectives.parts.scales import Learnable
from embedkit.objectives.registry import build, objective
from embedkit.objectives.tools import number, require, unit, whole


def _names(setting: str, value: Any, least: int) -> list[str]:
    """A list of different names of embeddings."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(n, str) for n in value)
    fits = is_list and len(set(value)) == len(value) >= least
    require(fits, setting, value, f"a list of {least} or more different names of embeddings")
    return list(value)


@objective(
    "view-pairs", paper="Fini et al. 2023, TMLR, Improved baselines for vision-language pre-training: its local loss",
    family="wrapper", splits=True, slots="any objective, on every pair of two lists of views",
    cost="that of the objective, for each pair",
)  # fmt: skip
class ViewPairs(Wrapper):
    """The mean of one objective over all pairs of an anchor view and a positive view.

    The objective is one: its scale, predictor or prototypes are shared by the pairs. Negatives come from the two views
    of a pair only, not from the other views.

    Parameters
    ----------
    objective : mapping or str
        Any objective of "anchor" and "positive".
    anchors, positives : list of str
        Names of embeddings that take these places.
    dim, num_rows : int or None
        Size of the embeddings and of the training data.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0), "view3": torch.eye(2)}
    >>> config = {"name": "view-pairs", "objective": "infonce", "positives": ["positive", "view3"]}
    >>> loss = build(config)(z, ObjectiveBatch.of(z)).loss  # the mean of 20 and almost 0
    >>> round(loss.item(), 4)
    10.0
    """

    def __init__(
        self, *, objective: Config, anchors: Sequence[str] = ("anchor",), positives: Sequence[str] = ("positive",),
        dim: int | None = None, num_rows: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.anchors, self.positives = _names("anchors", anchors, 1), _names("positives", positives, 1)
        shared = sorted(set(self.anchors) & set(self.positives))
        require(not shared, "positives", positives, "names that are not among the anchors")
        self._adopt([build(objective, dim=dim, num_rows=num_rows)])
        places = {"anchor", "positive"}
        self.requires = (self.requires - places) | {*self.anchors, *self.positives}
        self.accepts -= places

    def _pairs(
        self, embeddings: dict[str, Tensor], batch: ObjectiveBatch
    ) -> Iterator[tuple[dict[str, Tensor], ObjectiveBatch]]:
        views = [*self.anchors, *self.positives]
        take(embeddings, *views)  # all there, and finite
        for anchor in self.anchors:
            for positive in self.positives:
                others = {name: z for name, z in embeddings.items() if name not in views or name in (anchor, positive)}
                yield renamed({"anchor": anchor, "positive": positive}, others, batch)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The mean over the pairs; terms and metrics of the objective are means too."""
        outputs = [self.inner[0](z, own) for z, own in self._pairs(embeddings, batch)]

        def mean(kind: str) -> dict[str, Tensor]:
            by_name: Mapping[str, Tensor] = getattr(outputs[0], kind)
            return {name: torch.stack([getattr(out, kind)[name] for out in outputs]).mean(dim=0) for name in by_name}

        return LossOutput(torch.stack([out.loss for out in outputs]).mean(), mean("terms"), mean("metrics"))

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of the objective, pair by pair."""
        for z, own in self._pairs(embeddings, batch):
            self.inner[0].after_step(z, own)  # type: ignore[operator]


@objective(
    "swalip", paper="Fini et al. 2023, TMLR, Improved baselines for vision-language pre-training: SwALIP",
    family="prototypes", splits=True, cost="A B² D for A pairs",
    slots="scale: learnable, targets: Sinkhorn of the similarity matrix of the other views, both directions",
)  # fmt: skip
class SwALIP(Family):
    """Swapped assignments without prototypes: the other rows of the batch stand for them.

    The similarities S of an image view and a text view say which image belongs to which text. Their balanced
    assignment Q = sinkhorn(S / epsilon), without gradient, is the target of the opposite pair of views: that of image
    view i and text view j teaches image view A - 1 - i and text view T - 1 - j. The loss of a pair is the mean of
    ``-sum_k Q_bk log softmax(scale S)_bk`` over rows, images to texts and texts to images (with the assignment of the
    transposed matrix), and the mean of the two; the whole is the mean over pairs. Weight in the paper's code: 0.2,
    beside a contrastive loss without label smoothing.

    Parameters
    ----------
    images, texts : list of str
        Names of embeddings; four or more pairs in the paper, two at least.
    temperature : float
        Start of the learned scale, at most 100.
    epsilon, iterations : float, int
        Regularisation and rounds of the assignment.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "view3": torch.eye(2).flip(0)}
    >>> loss = build("swalip")(z, ObjectiveBatch.of(z)).loss  # the image views disagree on who is who
    >>> round(loss.item(), 4)
    10.0
    """

    repels = True

    def __init__(
        self, *, images: Sequence[str] = ("anchor", "view3"), texts: Sequence[str] = ("positive",),
        temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.images, self.texts = _names("images", images, 1), _names("texts", texts, 1)
        require(len(self.images) * len(self.texts) > 1, "images", images, "two pairs of an image and a text at least")
        self.requires = frozenset({*self.images, *self.texts})
        self.scale = Learnable(temperature=temperature)
        self.epsilon = number("epsilon", epsilon, above=0)
        self.iterations = whole("iterations", iterations, least=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows; every process computes the assignments of the whole batch."""
        images = [unit(z) for z in take(embeddings, *self.images)]
        texts = [unit(z) for z in take(embeddings, *self.texts)]
        scores = [[image @ text.T for text in texts] for image in images]  # A x T times (B, B)
        scale = self.scale.log_scale.to(images[0].dtype).exp()
        total = images[0].new_zeros(())
        for at, row in enumerate(scores):
            for place, score in enumerate(row):
                other = scores[-1 - at][-1 - place].detach()
                for own, teacher in ((score, other), (score.T, other.T)):
                    target = sinkhorn(teacher, self.epsilon, self.iterations)[batch.rows]
                    total = total - (target * (scale * own[batch.rows]).log_softmax(dim=1)).sum()
        pairs = len(images) * len(texts)
        out = loss_of_rows({"swapped": total / (2 * pairs * batch.size)})
        out.metrics = self.scale.metrics()
        return out

    @torch.no_grad()
    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Keep the scale in its bounds."""
        self.scale.after_step()
