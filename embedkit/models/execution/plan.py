"""How sequences of different lengths lie in one row of tokens, shortest first, in groups of equal length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Neighbouring sequences of one length: `count` sequences of `length` tokens from token `start` on.

    Examples
    --------
    >>> Group(start=4, count=3, length=2).tokens
    6
    """

    start: int
    count: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of the group."""
        return self.count * self.length


@dataclass(frozen=True, eq=False)
class Plan:
    """How N sequences lie in one row of T tokens, shortest first.

    Attributes
    ----------
    order : int64 (N,)
        ``order[k]`` is the input that stands at place k.
    lengths, starts : int64 (N,)
        Tokens and first token of the sequence at place k.
    groups : tuple of Group
        Runs of equal length.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.models.execution.plan import Plan
    >>> plan = Plan.of(np.array([3, 1, 3]))
    >>> plan.order.tolist(), [group.length for group in plan.groups]
    ([1, 0, 2], [1, 3])
    """

    order: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, lengths: np.ndarray) -> Plan:
        """The plan for sequences of these lengths (at least one token each)."""
        order = np.argsort(lengths, kind="stable")
        ordered = lengths[order]
        starts = np.cumsum(ordered) - ordered
        first = np.flatnonzero(np.diff(ordered, prepend=-1))
        counts = np.diff(np.append(first, len(ordered)))
        groups = tuple(
            Group(int(starts[at]), int(count), int(ordered[at])) for at, count in zip(first, counts, strict=True)
        )
        return cls(order, ordered, starts, groups)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self.lengths.sum())

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths[-1])

    def places(self) -> np.ndarray:
        """Place of each token within its sequence, int64 (T,)."""
        return np.arange(self.tokens) - np.repeat(self.starts, self.lengths)

    def inverse(self) -> np.ndarray:
        """``inverse()[i]`` is the place of input i."""
        inverse = np.empty_like(self.order)
        inverse[self.order] = np.arange(len(self.order))
        return inverse

    def rows(self, heads: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows of vectors (T * heads, d), token by token, in group order, where a head's tokens of a sequence stand
        together; and the way back, int64 (T * heads,) each, made once.

        Examples
        --------
        >>> import torch
        >>> Plan.of(np.array([1, 2])).rows(2, torch.device("cpu"))[0]
        tensor([0, 1, 2, 4, 3, 5])
        """
        memo: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = self.__dict__.setdefault("_rows", {})
        if (heads, device) not in memo:
            order = np.concatenate([
                (np.arange(group.start * heads, (group.start + group.tokens) * heads)
                 .reshape(group.count, group.length, heads).transpose(0, 2, 1).ravel())
                for group in self.groups
            ])  # fmt: skip
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            memo[heads, device] = torch.from_numpy(order).to(device), torch.from_numpy(back).to(device)
        return memo[heads, device]
