"""Inputs that say which tower of a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embedkit.errors import UserError


@dataclass(frozen=True)
class Named:
    """One input of `MultiEncoder.encode`, with the name of the tower that reads it.

    Examples
    --------
    >>> Named("sound", [0.5, 1.0]).tower
    'sound'
    """

    tower: str
    value: Any


class TowerInputs:
    """Prepared inputs of one tower: those of its kind, and its name.

    Parameters
    ----------
    tower : str
        Its name.
    inner : Inputs, VectorInputs or ImageInputs
        What it reads.

    Examples
    --------
    >>> from embedkit.models.inputs.vectors import VectorInputs
    >>> inputs = TowerInputs("sound", VectorInputs(torch.eye(3)))
    >>> inputs, len(inputs.select([2, 0])), inputs.costs.tolist()
    (TowerInputs(sound: VectorInputs(3 of 3 numbers, cpu)), 2, [1, 1, 1])
    """

    __slots__ = ("inner", "tower")

    def __init__(self, tower: str, inner: Any) -> None:
        self.tower, self.inner = tower, inner

    def __len__(self) -> int:
        return len(self.inner)

    def __repr__(self) -> str:
        return f"TowerInputs({self.tower}: {self.inner})"

    @property
    def costs(self) -> np.ndarray:
        """Tokens of each input, int64 (N,)."""
        return np.asarray(self.inner.costs)

    @property
    def tokens(self) -> int:
        """Tokens of all inputs."""
        return int(self.inner.tokens)

    @property
    def data(self) -> dict[str, Any]:
        """Further values of each input."""
        return self.inner.data  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return self.inner.device  # type: ignore[no-any-return]

    def select(self, indices: Any) -> TowerInputs:
        """The inputs at `indices`, in that order."""
        return TowerInputs(self.tower, self.inner.select(indices))

    def replace(self, **data: Any) -> TowerInputs:
        """The same inputs with these further values of each."""
        return TowerInputs(self.tower, self.inner.replace(**data))

    @staticmethod
    def concat(parts: Sequence[TowerInputs]) -> TowerInputs:
        """All inputs of `parts`, which are of one tower, in order.

        Raises
        ------
        UserError
            They are of several towers, or there are none.
        """
        towers = {part.tower for part in parts}
        if len(towers) != 1:
            raise UserError(f"inputs of the towers {', '.join(sorted(towers)) or 'none'} in one batch")
        return TowerInputs(towers.pop(), type(parts[0].inner).concat([part.inner for part in parts]))

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> TowerInputs:
        """The same inputs on `device`."""
        return TowerInputs(self.tower, self.inner.to(device, non_blocking=non_blocking))
