"""Prepared vectors: what an encoder of vectors reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.models.inputs.inputs import Seeded


class VectorInputs(Seeded):
    """N vectors of one size.

    Parameters
    ----------
    values : Tensor (N, W)
        The vectors.
    data : mapping of str to array (N, ...), optional
        Further values of each; they go where the vector goes. ``seeds`` (N,) uint64: what is drawn at random for it.

    Examples
    --------
    >>> vectors = VectorInputs(torch.eye(3))
    >>> vectors, vectors.select([2]).values.tolist(), vectors.costs.tolist()
    (VectorInputs(3 of 3 numbers, cpu), [[0.0, 0.0, 1.0]], [1, 1, 1])
    """

    __slots__ = ("values",)

    def __init__(self, values: Tensor, data: Mapping[str, np.ndarray] | None = None) -> None:
        self.values = values
        self.data: dict[str, np.ndarray] = dict(data or {})

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"VectorInputs({len(self)} of {self.values.shape[1]} numbers, {self.device})"

    @property
    def costs(self) -> np.ndarray:
        """One for each vector, int64 (N,)."""
        return np.ones(len(self), dtype=np.int64)

    @property
    def tokens(self) -> int:
        """The number of vectors."""
        return len(self)

    @property
    def device(self) -> torch.device:
        """The device of the vectors."""
        return self.values.device

    def select(self, indices: Any) -> VectorInputs:
        """The vectors at `indices` (integers, repeats allowed, or a slice), in that order."""
        if isinstance(indices, slice):
            indices = np.arange(len(self))[indices]
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        values = self.values.index_select(0, torch.from_numpy(index).to(self.device))
        return VectorInputs(values, {name: value[index] for name, value in self.data.items()})

    def replace(self, **data: Any) -> VectorInputs:
        """The same vectors with these further values of each."""
        return VectorInputs(self.values, {**self.data, **data})

    @staticmethod
    def concat(parts: Sequence[VectorInputs]) -> VectorInputs:
        """All vectors of `parts`, in order.

        Raises
        ------
        UserError
            When `parts` is empty.
        """
        if not parts:
            raise UserError("nothing to concatenate")
        shared = set.intersection(*(set(part.data) for part in parts))
        data = {name: np.concatenate([part.data[name] for part in parts]) for name in sorted(shared)}
        return VectorInputs(torch.cat([part.values for part in parts]), data)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> VectorInputs:
        """The same vectors on `device`."""
        return VectorInputs(self.values.to(device, non_blocking=non_blocking), self.data)
