"""Prepared inputs of an encoder: ragged token ids without any padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import UserError


class Seeded:
    """Inputs of an encoder with further values of each, `data`: a seed, in training.

    Examples
    --------
    >>> Inputs.of([[2, 7, 3]]).seeds
    Traceback (most recent call last):
    embedkit.errors.UserError: random changes need a seed for each input; give Inputs the data 'seeds'
    """

    __slots__ = ("data",)
    data: dict[str, Any]

    @property
    def seeds(self) -> np.ndarray:
        """The seed of each input, uint64 (N,).

        Raises
        ------
        UserError
            When there are none: they exist in training only.
        """
        if "seeds" not in self.data:
            what = f"give {type(self).__name__} the data 'seeds'"
            raise UserError("random changes need a seed for each input", remedy=what)
        return self.data["seeds"]  # type: ignore[no-any-return]


class Inputs(Seeded):
    """N token sequences, one behind the other.

    Parameters
    ----------
    ids : LongTensor (T,)
        Token ids of all sequences, concatenated.
    offsets : int64 array (N + 1,)
        Sequence i is ``ids[offsets[i]:offsets[i + 1]]``. Always on the CPU, so that plans need no wait on a device.
    marks : int64 array (N,), optional
        For each sequence the place of its marked token, counted from its first token: the mask token of a template.
    positions : LongTensor (T,), optional
        Place of every token within its sequence where it is not 0, 1, 2, ...; the encoder adds its own first position.
    data : mapping of str to array or Tensor, optional
        Further values of each sequence, first axis N; they go where the sequence goes. ``gaps`` (N, 2): first token of
        the text in a template, and the token behind it. ``seeds`` (N,) uint64: what random edits of the sequence are
        drawn from (see `embedkit.models.augment.counter_rng`).

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3], [2, 9, 3]])
    >>> texts, texts.ids.tolist(), texts.offsets.tolist()
    (Inputs(2 sequences, 7 tokens, cpu), [2, 7, 8, 3, 2, 9, 3], [0, 4, 7])
    >>> texts.select([1]).rows()
    [[2, 9, 3]]
    """

    __slots__ = ("ids", "offsets", "positions")

    def __init__(
        self, ids: Tensor, offsets: np.ndarray, marks: np.ndarray | None = None, positions: Tensor | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.ids = ids
        self.offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        self.positions = positions
        self.data: dict[str, Any] = dict(data or {})
        if marks is not None:
            self.data["marks"] = np.ascontiguousarray(marks, dtype=np.int64)

    @classmethod
    def of(
        cls, sequences: Sequence[Sequence[int]], marks: Sequence[int] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Inputs:  # fmt: skip
        """Inputs of lists of token ids."""
        lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.fromiter((token for sequence in sequences for token in sequence), np.int64, int(offsets[-1]))
        marked = None if marks is None else np.asarray(marks, dtype=np.int64)
        return cls(torch.from_numpy(flat), offsets, marked, data=data)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Inputs({len(self)} sequences, {self.tokens} tokens, {self.device})"

    @property
    def marks(self) -> np.ndarray | None:
        """Place of the marked token of each sequence, int64 (N,)."""
        return self.data.get("marks")

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
        """The device of the token ids."""
        return self.ids.device

    @property
    def owner(self) -> np.ndarray:
        """The sequence of each token, int64 (T,)."""
        return np.repeat(np.arange(len(self)), self.costs)

    @property
    def places(self) -> np.ndarray:
        """Place of each token within its sequence, int64 (T,), whatever `positions` says."""
        return np.arange(self.tokens) - np.repeat(self.offsets[:-1], self.costs)

    def rows(self) -> list[list[int]]:
        """The sequences as lists of token ids."""
        flat = self.ids.tolist()
        return [flat[start:stop] for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    def replace(self, ids: Tensor | None = None, positions: Tensor | None = None, **data: Any) -> Inputs:
        """The same sequences with other ids or positions (T,), or with further data (first axis N)."""
        return Inputs(
            self.ids if ids is None else ids, self.offsets, None,
            self.positions if positions is None else positions, {**self.data, **data},
        )  # fmt: skip

    def keep(self, mask: np.ndarray) -> Inputs:
        """The tokens where `mask` (T,) is true, at the positions they had; every sequence must keep one at least."""
        index = torch.from_numpy(np.flatnonzero(mask)).to(self.device)
        positions = torch.from_numpy(self.places).to(self.device) if self.positions is None else self.positions
        lengths = np.add.reduceat(mask.astype(np.int64), self.offsets[:-1]) if len(self) else self.costs
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Inputs(self.ids[index], offsets, None, positions[index], self.data)

    def select(self, indices: Any) -> Inputs:
        """The sequences at `indices` (integers, repeats allowed, or a slice), in that order."""
        if isinstance(indices, slice):
            indices = np.arange(len(self))[indices]
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        lengths = self.costs[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # token k of the result stands at: start of its sequence + place within the sequence
        places = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(int(offsets[-1]))
        where = torch.from_numpy(places).to(self.device)
        positions = None if self.positions is None else self.positions[where]
        data = {name: values[_like(index, values)] for name, values in self.data.items()}
        return Inputs(self.ids[where], offsets, None, positions, data)

    def padded(self, length: int, filler: int, left: bool = False) -> Inputs:
        """Every sequence brought to `length` tokens by `filler` behind it, or in front of it with `left`."""
        rows = torch.full((len(self), length), filler, dtype=torch.int64)
        places = np.arange(length)[None, :]
        costs = self.costs[:, None]
        rows[torch.from_numpy(places >= length - costs if left else places < costs)] = self.ids
        return Inputs(rows.flatten(), np.arange(len(self) + 1) * length)

    @staticmethod
    def concat(parts: Sequence[Inputs]) -> Inputs:
        """All sequences of `parts`, in order.

        Raises
        ------
        UserError
            When `parts` is empty, or only some of them have marks, positions or other data.
        """
        if not parts:
            raise UserError("nothing to concatenate")
        filled = [part for part in parts if len(part)]
        for name in sorted({name for part in filled for name in part.data}):
            if any(name not in part.data for part in filled):
                kinds = "marked and unmarked inputs" if name == "marks" else f"inputs with and without {name}"
                raise UserError(f"{kinds} cannot be joined", remedy="prepare all with the same template")
        if len({part.positions is None for part in filled}) > 1:
            raise UserError("inputs with and without positions cannot be joined", remedy="give positions to all")
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.costs for part in parts]))])
        data = {name: _joined([part.data[name] for part in filled]) for name in (filled[0].data if filled else {})}
        positions = [part.positions for part in filled if part.positions is not None]
        ids = torch.cat([part.ids for part in parts])
        return Inputs(ids, offsets, None, torch.cat(positions) if positions else None, data)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> Inputs:
        """The same inputs with ids, positions and tensors of `data` on `device`; arrays stay on the CPU."""

        def moved(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

        data = {name: moved(values) for name, values in self.data.items()}
        return Inputs(moved(self.ids), self.offsets, None, moved(self.positions), data)


def _like(index: np.ndarray, values: Any) -> Any:
    return torch.from_numpy(index).to(values.device) if isinstance(values, Tensor) else index


def _joined(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else np.concatenate(values)
