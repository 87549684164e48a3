"""The learnable scale and bias of an objective start from the model's and are written back into it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from embedkit.objectives.parts.scales import Learnable


def _learnable(objective: nn.Module) -> Iterator[Learnable]:
    from embedkit.objectives.parts.scales import Learnable

    return (part for part in objective.modules() if isinstance(part, Learnable))


@torch.no_grad()
def start_scale(objective: nn.Module, model: Any, own_settings: Collection[str] = ()) -> None:
    """Set every learnable scale of `objective` to that of a trained dual encoder.

    `own_settings` are those that the recipe names itself: its temperature and bias stay. A model without a scale (a
    text model, or one that was not trained yet) changes nothing.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.objectives import build
    >>> objective = build({"name": "clip", "temperature": 0.07})
    >>> start_scale(objective, SimpleNamespace(scale=20.0, bias=None))
    >>> [round(part.log_scale.exp().item(), 3) for part in _learnable(objective)]
    [20.0]
    """
    scale, bias = model.scale, model.bias
    for part in _learnable(objective):
        if scale is not None and "temperature" not in own_settings:
            part.log_scale.fill_(math.log(scale))
        if bias is not None and part.bias is not None and "bias" not in own_settings:
            part.bias.fill_(bias)
        part.after_step()  # within its bounds


def keep_scale(objective: nn.Module, model: Any) -> None:
    """Write the first learnable scale of `objective`, and its bias, into a dual encoder before it is saved.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.objectives import build
    >>> model = SimpleNamespace(has_scale=True, scale=1.0, bias=None)
    >>> keep_scale(build({"name": "clip", "temperature": 0.1}), model)
    >>> round(model.scale, 3)
    10.0
    """
    part = next(_learnable(objective), None)
    if part is None or not model.has_scale:
        return
    model.scale = math.exp(part.log_scale.detach().item())
    model.bias = None if part.bias is None else part.bias.detach().item()
