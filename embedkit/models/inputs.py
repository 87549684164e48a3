"""Prepared inputs of an encoder: ragged token ids without any padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import UserError


class Inputs:
    """N token sequences, one behind the other.

    Parameters
    ----------
    ids : LongTensor (T,)
        Token ids of all sequences, concatenated.
    offsets : int64 array (N + 1,)
        Sequence i is ``ids[offsets[i]:offsets[i + 1]]``. Always on the CPU, so that plans need no wait on a device.
    marks : int64 array (N,), optional
        For each sequence the place of its marked token, counted from its first token: the mask token of a template.
    """

    __slots__ = ("ids", "marks", "offsets")

    def __init__(self, ids: Tensor, offsets: np.ndarray, marks: np.ndarray | None = None) -> None:
        self.ids = ids
        self.offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        self.marks = None if marks is None else np.ascontiguousarray(marks, dtype=np.int64)

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], marks: Sequence[int] | None = None) -> Inputs:
        """Inputs of lists of token ids."""
        lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.fromiter((token for sequence in sequences for token in sequence), np.int64, int(offsets[-1]))
        return cls(torch.from_numpy(flat), offsets, None if marks is None else np.asarray(marks, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Inputs({len(self)} sequences, {self.tokens} tokens, {self.device})"

    @property
    def costs(self) -> np.ndarray:
        """Tokens of each sequence, int64 (N,)."""
        return np.diff(self.offsets)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences together."""
        return int(self.offsets[-1])

    @property
    def device(self) -> torch.device:
        """Where the token ids are."""
        return self.ids.device

    def rows(self) -> list[list[int]]:
        """The sequences as lists of token ids."""
        flat = self.ids.tolist()
        return [flat[start:stop] for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    def select(self, indices: Any) -> Inputs:
        """The sequences at `indices` (integers, repeats allowed, or a slice), in that order."""
        if isinstance(indices, slice):
            indices = np.arange(len(self))[indices]
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        lengths = self.costs[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # token k of the result stands at: start of its sequence + place within the sequence
        places = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(int(offsets[-1]))
        ids = self.ids[torch.from_numpy(places).to(self.device)]
        return Inputs(ids, offsets, None if self.marks is None else self.marks[index])

    @staticmethod
    def concat(parts: Sequence[Inputs]) -> Inputs:
        """All sequences of `parts`, in order.

        Raises
        ------
        UserError
            When `parts` is empty, or only some of them are marked.
        """
        if not parts:
            raise UserError("nothing to concatenate")
        if len({part.marks is None for part in parts if len(part)}) > 1:
            raise UserError("marked and unmarked inputs cannot be joined", remedy="prepare all with the same template")
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.costs for part in parts]))])
        marks = [part.marks for part in parts if part.marks is not None and len(part)]
        return Inputs(torch.cat([part.ids for part in parts]), offsets, np.concatenate(marks) if marks else None)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> Inputs:
        """The same inputs with the ids on `device`."""
        return Inputs(self.ids.to(device, non_blocking=non_blocking), self.offsets, self.marks)
