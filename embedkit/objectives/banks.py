"""Slot `bank`: candidates that are kept between steps."""

from __future__ import annotations

from torch import nn

from embedkit.objectives.slots import part


@part("bank", "none")
class NoBank(nn.Module):
    """Only the batch."""
