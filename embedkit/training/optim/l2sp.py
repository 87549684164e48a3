"""The weights a run starts from, as an anchor during training: fine-tuning that gains without forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class StartingPoint:
    """The trained weights of the model as they were before the first step.

    They are made of the recipe alone (a loaded model, or random weights by seed), so they are not in checkpoints.

    Parameters
    ----------
    module : nn.Module
        The bundle, whose parameters named ``model.*`` are held.
    pull : float
        Weight of half the squared distance to the start, added to the loss (L2-SP, Li et al. 2018, eq. 2).
    share : float or None
        Share of the tuned weights in the mean of start and tuned weights that is evaluated and saved (WiSE-FT,
        Wortsman et al. 2022, eq. 1); None for the tuned weights themselves.

    Examples
    --------
    >>> module = nn.ModuleDict({"model": nn.Linear(1, 1, bias=False)})
    >>> start = StartingPoint(module, pull=0.5, share=None)
    >>> _ = module["model"].weight.data.add_(2.0)
    >>> module["model"].weight.grad = torch.zeros(1, 1)
    >>> start.add_pull(module)
    >>> torch.allclose(module["model"].weight.grad, torch.ones(1, 1))  # half of the two that it has moved
    True
    """

    def __init__(self, module: nn.Module, pull: float, share: float | None) -> None:
        self.pull, self.share = pull, share
        self._start = {
            name: parameter.detach().clone()
            for name, parameter in module.named_parameters()
            if (pull or share is not None) and parameter.requires_grad and name.startswith("model.")
        }

    @torch.no_grad()
    def add_pull(self, module: nn.Module) -> None:
        """Add the pull to the gradients; after they are summed over processes and unscaled."""
        if not self.pull:
            return
        for name, now in self._pairs(module):
            if now.grad is not None:
                now.grad.add_(now.detach() - self._start[name], alpha=self.pull)

    def mixed(self, module: nn.Module) -> Iterator[None]:
        """Generator for a context in which the module holds the mean of start and tuned weights."""
        if self.share is None:
            yield
            return
        tuned = {name: now.detach().clone() for name, now in self._pairs(module)}
        with torch.no_grad():
            for name, now in self._pairs(module):
                now.copy_(torch.lerp(self._start[name], tuned[name], self.share))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, now in self._pairs(module):
                    now.copy_(tuned[name])

    def _pairs(self, module: nn.Module) -> list[tuple[str, Tensor | Any]]:
        return [(name, parameter) for name, parameter in module.named_parameters() if name in self._start]
