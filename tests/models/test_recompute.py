"""Outputs that are computed again: the same gradients bit for bit, and less that is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from embedkit.models.execution.recompute import Recompute


def kept(layers: nn.Module, x: torch.Tensor, recompute: Recompute) -> tuple[int, list[torch.Tensor]]:
    """Bytes that the forward pass holds besides the parameters, and the gradients."""
    storages: dict[int, Any] = {}
    own = {parameter.untyped_storage()._cdata for parameter in layers.parameters()}
    layers.zero_grad()
    torch.manual_seed(3)
    with recompute.context(storages):
        output = layers(x)
    size = sum(storage.nbytes() for address, storage in storages.items() if address not in own)
    output.square().sum().backward()
    return size, [parameter.grad.clone() for parameter in layers.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.flatten(0, 1)[3:], lambda x: x.view(7, 5, 64)])
def test_less_is_kept_and_gradients_are_the_same_bits(change: Any) -> None:
    torch.manual_seed(0)

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.act = nn.LayerNorm(32), nn.GELU()
            self.a, self.b = nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return y.mean() + self.b(change(self.act(self.a(y))))

    layers, x = Layers(), torch.randn(5, 7, 32)
    plain, wanted = kept(layers, x, Recompute(nn.Module()))
    less, found = kept(layers, x, Recompute(layers))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert plain - less == 5 * 7 * (32 + 64) * 4


def test_an_output_that_was_changed_in_place_is_kept() -> None:
    layers = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Hardtanh(-0.1, 0.1, inplace=True), nn.Linear(8, 1))
    x = torch.randn(6, 8)
    _, wanted = kept(layers, x, Recompute(nn.Module()))
    _, found = kept(layers, x, Recompute(layers))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
