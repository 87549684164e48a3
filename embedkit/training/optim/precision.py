"""Which arithmetic a run uses, chosen safely for its device, and fp16 loss scaling."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from embedkit.errors import RecipeError
from embedkit.models.execution.int8 import linear_layers
from embedkit.models.execution.products import QuickProducts
from embedkit.system.cpu import cpu_has_bf16

Precision = Literal["fp32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(setting: str, device: torch.device) -> Precision:
    """The precision of a run: "auto" is bf16 on a GPU that has it and fp32 elsewhere.

    Raises
    ------
    RecipeError
        When the wanted arithmetic would be emulated or is not there: it is never taken silently. And within a block of
        `torch.autocast`, which gives every forward pass the weights of the first one until the block ends.

    Examples
    --------
    >>> choose_precision("auto", torch.device("cpu"))
    'fp32'
    >>> choose_precision("fp16", torch.device("cpu"))
    Traceback (most recent call last):
    embedkit.errors.RecipeError: train.precision: fp16 training needs a GPU; use fp32 or auto
    """
    if torch.is_autocast_enabled(device.type):
        raise RecipeError(
            "training is within a block of torch.autocast, where a model keeps the weights of its first forward pass",
            where="train.precision", remedy="leave the block, and set bf16 or fp16 here",
        )  # fmt: skip
    if setting == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if setting == "fp16" and device.type == "cpu":
        raise RecipeError("fp16 training needs a GPU", where="train.precision", remedy="use fp32 or auto")
    if setting == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        raise RecipeError(
            "this CPU has no bf16 instructions and would emulate them, hundreds of times slower",
            where="train.precision", remedy="use fp32 or auto",
        )  # fmt: skip
    if setting == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("this GPU has no bf16", where="train.precision", remedy="use fp16, fp32 or auto")
    return setting  # type: ignore[return-value]


def bf16_hint(precision: Precision, device: torch.device, model: nn.Module) -> Iterator[str]:
    """A line where bf16 would train a model faster on this CPU, with the factor of a matrix product measured here.

    Small models, whose products are no large part of a step, have none.

    Examples
    --------
    >>> list(bf16_hint("fp32", torch.device("cpu"), torch.nn.Linear(8, 8)))
    []
    """
    weights = sum(layer.weight.numel() for layer in linear_layers(model))
    if precision != "fp32" or device.type != "cpu" or weights < 1_000_000 or not cpu_has_bf16():
        return
    factor = _product_seconds(torch.float32) / _product_seconds(torch.bfloat16)
    if factor >= 1.3:
        yield (
            f"this CPU multiplies bf16 matrices {factor:.1f} x as fast as float32 ones (measured now): "
            "train.precision=bf16 trains faster, with weights still in float32"
        )


def _product_seconds(dtype: torch.dtype) -> float:
    """Seconds of a linear layer of the size of a small encoder's, as training runs it, the best of a few."""
    layer, rows = nn.Sequential(nn.Linear(384, 1_536, dtype=dtype)), torch.randn(2_048, 384).to(dtype)
    seconds = []
    with torch.no_grad(), QuickProducts(layer).context():
        for _ in range(5):
            start = time.perf_counter()
            layer(rows)
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of the context in which the encoder's forward pass runs.

    Examples
    --------
    >>> with autocast("bf16", torch.device("cpu"))():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=_TYPES[precision])


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018, section 3.2); the factor is 1 for other precisions.

    The factor is halved when a gradient overflows, that step is skipped, and doubled after 2,000 good steps. At a
    factor of 1 an overflow is no matter of the scale any more.

    Examples
    --------
    >>> scale = LossScale("fp16")
    >>> scale.update(overflowed=True)
    >>> scale.figures()
    {'loss_scale': 32768.0, 'skipped_steps': 1.0}
    >>> LossScale("bf16").figures()
    {}
    """

    def __init__(self, precision: Precision) -> None:
        self.active = precision == "fp16"
        self.factor = 65_536.0 if self.active else 1.0
        self.good_steps, self.skips = 0, 0

    @property
    def can_shrink(self) -> bool:
        """Whether a gradient that is not finite may become finite with a smaller factor."""
        return self.active and self.factor > 1.0

    def figures(self) -> dict[str, float]:
        """For the log: the factor, and the steps that this part of the run has skipped; nothing but for fp16."""
        return {"loss_scale": self.factor, "skipped_steps": float(self.skips)} if self.active else {}

    def update(self, overflowed: Tensor | bool) -> None:
        """Adapt the factor after a step."""
        if not self.active:
            return
        if bool(overflowed):
            self.factor, self.good_steps, self.skips = max(1.0, self.factor / 2), 0, self.skips + 1
        else:
            self.good_steps += 1
            if self.good_steps == 2_000:
                self.factor, self.good_steps = self.factor * 2, 0

    def state(self) -> dict[str, float]:
        """Factor and good steps, for a checkpoint."""
        return {"factor": self.factor, "good_steps": self.good_steps}

    def load(self, state: dict[str, float]) -> None:
        """Restore what `state` gave."""
        self.factor, self.good_steps = float(state["factor"]), int(state["good_steps"])
