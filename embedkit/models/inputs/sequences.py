"""Prepared sequences of vectors: what an encoder of sequences reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.data.vectors.sequences import Sequences, places
from embedkit.errors import UserError
from embedkit.models.inputs.inputs import Seeded


class SequenceInputs(Seeded):
    """N sequences of vectors of one size, without padding.

    Parameters
    ----------
    values : Tensor (S, W)
        The steps of all sequences, one after the other.
    costs : int64 array (N,)
        Steps of each.
    data : mapping of str to array (N, ...), optional
        Further values of each; they go where the sequence goes. ``seeds`` (N,) uint64: what is drawn at random for it.

    Examples
    --------
    >>> inputs = SequenceInputs(torch.arange(6.0)[:, None], np.array([2, 4]))
    >>> inputs, inputs.select([1]).values[:, 0].tolist(), inputs.owner.tolist()
    (SequenceInputs(2 of 6 steps, cpu), [2.0, 3.0, 4.0, 5.0], [0, 0, 1, 1, 1, 1])
    """

    __slots__ = ("costs", "values")

    def __init__(self, values: Tensor, costs: np.ndarray, data: Mapping[str, np.ndarray] | None = None) -> None:
        self.values, self.costs = values, np.asarray(costs, np.int64)
        self.data: dict[str, np.ndarray] = dict(data or {})

    @staticmethod
    def of(sequences: Sequences) -> SequenceInputs:
        """The inputs of a block of sequences."""
        array = sequences.array
        return SequenceInputs(torch.from_numpy(array if array.flags.writeable else array.copy()), sequences.lengths)

    def __len__(self) -> int:
        return len(self.costs)

    def __repr__(self) -> str:
        return f"SequenceInputs({len(self)} of {self.tokens} steps, {self.device})"

    @property
    def tokens(self) -> int:
        """Steps of all sequences."""
        return len(self.values)

    @property
    def starts(self) -> np.ndarray:
        """First step of each sequence, int64 (N,)."""
        return np.cumsum(self.costs) - self.costs

    @property
    def owner(self) -> np.ndarray:
        """The sequence of each step, int64 (S,)."""
        return np.repeat(np.arange(len(self)), self.costs)

    @property
    def places(self) -> np.ndarray:
        """Place of each step in its sequence, int64 (S,)."""
        return np.arange(self.tokens) - np.repeat(self.starts, self.costs)

    @property
    def device(self) -> torch.device:
        """The device of the steps."""
        return self.values.device

    def select(self, indices: Any) -> SequenceInputs:
        """The sequences at `indices` (integers, repeats allowed, or a slice), in that order."""
        index = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, np.int64)
        index = index.reshape(-1)
        steps = torch.from_numpy(places(self.starts[index], self.costs[index])).to(self.device)
        data = {name: value[index] for name, value in self.data.items()}
        return SequenceInputs(self.values.index_select(0, steps), self.costs[index], data)

    def replace(self, **data: Any) -> SequenceInputs:
        """The same sequences with these further values of each."""
        return SequenceInputs(self.values, self.costs, {**self.data, **data})

    @staticmethod
    def concat(parts: Sequence[SequenceInputs]) -> SequenceInputs:
        """All sequences of `parts`, in order.

        Raises
        ------
        UserError
            When `parts` is empty.
        """
        if not parts:
            raise UserError("nothing to concatenate")
        shared = set.intersection(*(set(part.data) for part in parts))
        data = {name: np.concatenate([part.data[name] for part in parts]) for name in sorted(shared)}
        values = torch.cat([part.values for part in parts])
        return SequenceInputs(values, np.concatenate([part.costs for part in parts]), data)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> SequenceInputs:
        """The same sequences on `device`."""
        return SequenceInputs(self.values.to(device, non_blocking=non_blocking), self.costs, self.data)
