"""The dropout rates inside a module: whether there are any, another rate for a while, another rate for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

ATTRIBUTES = ("attention_dropout", "dropout", "dropout_prob", "out_drop_p")
"""Attributes under which layers of transformers keep a rate that they hand to a function."""


@dataclass(frozen=True)
class Rate:
    """One dropout rate inside a module: `owner`'s attribute `name`.

    Examples
    --------
    >>> layer = nn.Dropout(0.1)
    >>> Rate(layer, "p").set(0.3)
    >>> layer
    Dropout(p=0.3, inplace=False)
    """

    owner: Any
    name: str

    @property
    def value(self) -> float:
        """The rate."""
        return float(self.owner.__dict__[self.name])

    def set(self, value: float) -> None:
        """Give the owner another rate."""
        setattr(self.owner, self.name, value)


def rates(module: nn.Module) -> list[Rate]:
    """Every dropout rate inside `module`, those that are 0 too.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.augment.dropout import rates
    >>> [rate.value for rate in rates(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))]
    [0.1]
    """
    layers = [Rate(part, "p") for part in module.modules() if isinstance(part, nn.Dropout)]
    plain = [
        Rate(part, name) for part in module.modules() for name in ATTRIBUTES if _is_number(part.__dict__.get(name))
    ]
    return layers + plain


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_dropout(module: nn.Module) -> bool:
    """Whether any rate inside `module` is above 0, so that two forward passes in training mode differ.

    Examples
    --------
    >>> has_dropout(nn.Dropout(0.1)), has_dropout(nn.Dropout(0.0)), has_dropout(nn.Linear(2, 2))
    (True, False, False)
    """
    return any(rate.value > 0.0 for rate in rates(module))


def set_dropout(module: nn.Module, value: float) -> int:
    """The number of rates inside `module` that were set to `value`; 0 where it has no dropout at all.

    Examples
    --------
    >>> layer = nn.Dropout(0.1)
    >>> set_dropout(layer, 0.2), layer
    (1, Dropout(p=0.2, inplace=False))
    """
    places = rates(module)
    for rate in places:
        rate.set(value)
    return len(places)


@contextlib.contextmanager
def dropout_rate(module: nn.Module, value: float | None) -> Iterator[None]:
    """All dropout inside `module` at this rate while inside; None leaves it.

    Examples
    --------
    >>> layer = nn.Dropout(0.1)
    >>> with dropout_rate(layer, 0.5):
    ...     layer
    Dropout(p=0.5, inplace=False)
    >>> layer
    Dropout(p=0.1, inplace=False)
    """
    if value is None:
        yield
        return
    before = [(rate, rate.value) for rate in rates(module)]
    try:
        set_dropout(module, value)
        yield
    finally:
        for rate, old in before:
            rate.set(old)
