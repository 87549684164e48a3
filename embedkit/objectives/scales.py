"""Slots `score`, `scale` and `margin`: from vectors to logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.sides import Side
from embedkit.objectives.slots import part
from embedkit.objectives.stats import Part, Pointwise
from embedkit.objectives.tools import number, unit


class Score(nn.Module):
    """Base of scores: features for each side, whose dot products go through a function."""

    lowest: float | None = -1.0
    """The smallest score there is; None when there is no bound."""
    function: Pointwise = Pointwise()

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """Features (N, F) of a side; `role` is "left" or "right"."""
        return unit(side.z)

    def parts(self, left: Side, right: Side, batch: ObjectiveBatch) -> list[Part]:
        """The summands of the score."""
        return [Part(self.features(left, "left", batch), self.features(right, "right", batch), self.function)]


@part("score", "cosine")
class Cosine(Score):
    """s = cos(a, c)."""


@part("score", "dot")
class Dot(Score):
    """s = a · c; vectors longer than `cap` are shortened to it."""

    lowest = None

    def __init__(self, cap: float | None = None) -> None:
        super().__init__()
        self.cap = None if cap is None else number("cap", cap, above=0)

    def features(self, side: Side, role: str, batch: ObjectiveBatch) -> Tensor:
        """The vectors themselves, capped."""
        if self.cap is None:
            return side.z
        length = (side.z * side.z).sum(-1, keepdim=True)
        return torch.where(length > self.cap**2, unit(side.z) * self.cap, side.z)


class Scale(nn.Module):
    """Base of scale policies: logits are ``scale · score + bias``; the loss is multiplied by `factor`."""

    needs_positives = False
    """Whether `forward` reads the scores of all positive pairs of the batch."""
    per_row = False
    """Whether the scale differs between anchors."""

    def forward(self, left: Side, positives: Tensor | None, batch: ObjectiveBatch) -> tuple[Tensor, Tensor | None]:
        """Scale () or (N, 1), and bias () or None, in the type of the scores."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def factor(self, scale: Tensor) -> Tensor | float:
        """What the loss of each anchor is multiplied by."""
        return 1.0

    def after_step(self) -> None:
        """Bring parameters back into their bounds."""

    def metrics(self) -> dict[str, Tensor]:
        """Figures to log."""
        return {}


@part("scale", "fixed")
class Fixed(Scale):
    """l = s / temperature (+ bias). With `base_temperature` the loss is multiplied by temperature / base_temperature.

    SupCon (Khosla et al. 2020) uses 0.07; 1 gives the ``× temperature`` of global contrastive losses and 0.5 the
    ``× 2 temperature`` of MoCo v3.
    """

    def __init__(self, temperature: float = 0.05, bias: float = 0.0, base_temperature: float | None = None) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.bias = number("bias", bias)
        self.base = None if base_temperature is None else number("base_temperature", base_temperature, above=0)

    def forward(self, left: Side, positives: Tensor | None, batch: ObjectiveBatch) -> tuple[Tensor, Tensor | None]:
        """The constant 1 / temperature."""
        bias = left.z.new_tensor(self.bias) if self.bias else None
        return left.z.new_tensor(1.0 / self.temperature), bias

    def factor(self, scale: Tensor) -> Tensor | float:
        """temperature / base_temperature."""
        return 1.0 if self.base is None else self.temperature / self.base


@part("scale", "learnable")
class Learnable(Scale):
    """l = exp(log_scale) · s (+ bias), both learnt, as in CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023).

    `log_scale` starts at -log(temperature). It is the parameter, not its use, that is kept at or below `max_scale`,
    after each step, so that its gradient never vanishes. Neither parameter should be decayed: `no_weight_decay`.
    """

    undecayed = ("log_scale", "bias")

    def __init__(self, temperature: float = 0.07, max_scale: float | None = 100.0, min_scale: float = 0.01,
                 bias: float | None = None) -> None:  # fmt: skip
        super().__init__()
        number("temperature", temperature, above=0)
        self.max_scale = None if max_scale is None else number("max_scale", max_scale, above=0)
        self.min_scale = number("min_scale", min_scale, above=0, most=self.max_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(number("bias", bias)))
        self.after_step()

    def forward(self, left: Side, positives: Tensor | None, batch: ObjectiveBatch) -> tuple[Tensor, Tensor | None]:
        """exp(log_scale) and the bias."""
        return self.log_scale.to(left.z.dtype).exp(), None if self.bias is None else self.bias.to(left.z.dtype)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the parameter."""
        top = math.inf if self.max_scale is None else math.log(self.max_scale)
        self.log_scale.clamp_(math.log(self.min_scale), top)

    def metrics(self) -> dict[str, Tensor]:
        """The scale, and the bias when there is one."""
        found = {"scale": self.log_scale.detach().exp()}
        return found if self.bias is None else {**found, "bias": self.bias.detach()}


class Margin(nn.Module):
    """Base of margins, which change the scores of positive pairs; the base changes nothing."""

    cosine_only = False

    def forward(self, scores: Tensor, scale: Tensor, batch: ObjectiveBatch) -> Tensor:
        """Scores (P,) of positive pairs after the margin."""
        return scores


@part("margin", "none")
class NoMargin(Margin):
    """Positive scores as they are."""
