"""Means of rows of a large table, whose gradient costs what the rows that a batch reads cost, not what the table does.

torch's own gradient is a new table of zeros at every step: for 30,522 rows of 512 numbers clearing it takes longer than
everything else that the encoder does. Here one table of zeros is kept, and only the rows that the last step filled are
cleared. The optimiser sees a whole gradient as before, so the update is the published one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class KeptGradient:
    """A table of zeros between two steps; a copy of it, as of a model, starts without one.

    It is handed out again only when nobody holds the gradient that it last was, and only its own rows were written.

    Examples
    --------
    >>> spare = KeptGradient()
    >>> spare.filled(torch.zeros(3, 2), torch.tensor([1]), torch.ones(1, 2))
    tensor([[0., 0.],
            [1., 1.],
            [0., 0.]])
    >>> spare.filled(torch.zeros(3, 2), torch.tensor([2]), torch.ones(1, 2))
    tensor([[0., 0.],
            [0., 0.],
            [1., 1.]])
    """

    def __init__(self) -> None:
        self._table: Tensor | None = None
        self._rows: Tensor | None = None
        self._alone = self._version = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptGradient:
        return KeptGradient()

    def filled(self, like: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        """A table as `like` (V, D) that holds `values` (U, D) in different `rows` (U,) and zeros elsewhere."""
        table, last = self._table, self._rows
        if table is None or last is None or not self._is_free(table, like):
            table = torch.zeros_like(like)
            self._table, self._alone = table, _owners(table)
        elif table._version != self._version:  # someone has changed it as a whole, in place: clipped it, or added to it
            table.zero_()
        else:
            table.index_fill_(0, last, 0.0)
        table.index_copy_(0, rows, values)
        self._rows, self._version = rows, table._version
        return table.detach()  # shares the memory: autograd copies a gradient that has another owner

    def _is_free(self, table: Tensor, like: Tensor) -> bool:
        same = table.shape == like.shape and table.dtype == like.dtype and table.device == like.device
        return same and _owners(table) == self._alone


def _owners(table: Tensor) -> int:
    return int(torch._C._storage_Use_Count(table.untyped_storage()._cdata))


class _TableMean(torch.autograd.Function):
    """Means of rows; the gradient of a row is a sum over the texts that it stands in."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, offsets: Tensor, weight: Tensor, spare: KeptGradient) -> Tensor:
        ctx.save_for_backward(ids, offsets, weight)
        ctx.spare = spare
        return F.embedding_bag(ids, weight, offsets, mode="mean")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        ids, offsets, weight = ctx.saved_tensors
        lengths = torch.diff(offsets, append=offsets.new_tensor([len(ids)]))
        order_ids, order = ids.sort(stable=True)
        rows, counts = order_ids.unique_consecutive(return_counts=True)
        text = torch.repeat_interleave(lengths)[order]  # of each token, in the order of the rows
        share = (1.0 / lengths.clamp_min(1).to(grad.dtype))[text]
        starts = counts.cumsum(0) - counts
        sums = F.embedding_bag(text, grad.contiguous(), starts, mode="sum", per_sample_weights=share)
        return None, None, ctx.spare.filled(weight, rows, sums), None


def table_mean(ids: Tensor, offsets: Tensor, weight: Tensor, spare: KeptGradient) -> Tensor:
    """Means (N, D) of the rows ``ids[offsets[i]:offsets[i + 1]]`` of `weight` (V, D); no row has the mean 0.

    Parameters
    ----------
    ids, offsets : LongTensor (T,) and (N,)
        Rows of all texts, and where each text starts.
    spare : KeptGradient
        Whose memory the gradient of `weight` takes.

    Examples
    --------
    >>> weight = torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)
    >>> means = table_mean(torch.tensor([0, 2, 2]), torch.tensor([0, 2]), weight, KeptGradient())
    >>> means.sum().backward()
    >>> means.flatten().tolist(), weight.grad.flatten().tolist()
    ([2.5, 4.0], [0.5, 0.0, 1.5])
    """
    return _TableMean.apply(ids, offsets, weight, spare)  # type: ignore[no-any-return]
