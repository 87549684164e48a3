"""Layers over the steps of ragged sequences: none of them ever sees padding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.data.vectors.sequences import places
from embedkit.models.execution.plan import Plan


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the sequences of a run lie among its steps.

    Attributes
    ----------
    lengths : int64 array (N,)
        Steps of each, at least one.
    device : torch.device
        Of the steps.

    Examples
    --------
    >>> layout = Layout(np.array([2, 1]), torch.device("cpu"))
    >>> layout.owner.tolist(), layout.mean(torch.tensor([[1.0], [3.0], [5.0]])).tolist()
    ([0, 0, 1], [[2.0], [5.0]])
    """

    lengths: np.ndarray
    device: torch.device

    @cached_property
    def starts(self) -> np.ndarray:
        """First step of each sequence, int64 (N,)."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def owner(self) -> Tensor:
        """The sequence of each step, int64 (S,)."""
        return torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths)).to(self.device)

    @cached_property
    def places(self) -> Tensor:
        """Place of each step in its sequence, int64 (S,)."""
        steps = np.arange(int(self.lengths.sum())) - np.repeat(self.starts, self.lengths)
        return torch.from_numpy(steps).to(self.device)

    def sums(self, x: Tensor) -> Tensor:
        """Sums (N, H) of the steps (S, H) of each sequence."""
        return x.new_zeros(len(self.lengths), x.shape[1]).index_add(0, self.owner, x)

    def mean(self, x: Tensor) -> Tensor:
        """Means (N, H) of the steps (S, H) of each sequence."""
        return self.sums(x) / torch.from_numpy(self.lengths).to(x)[:, None]

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax of scores (S,) within each sequence."""
        top = scores.detach().new_full((len(self.lengths),), -torch.inf)
        top = top.scatter_reduce(0, self.owner, scores.detach(), "amax")
        weights = (scores - top[self.owner]).exp()
        return weights / self.sums(weights[:, None])[self.owner, 0]

    def windows(self, size: int, stride: int = 1, dilation: int = 1, centred: bool = True) -> tuple[np.ndarray, Layout]:
        """Places of the steps in windows, int64 (S', size), S where a window reaches beyond its sequence.

        Parameters
        ----------
        size, stride, dilation : int
            Steps of a window, from window to window, and from step to step within one.
        centred : bool
            Whether windows lie around steps 0, stride ..., or begin there.
        """
        counts = -(-self.lengths // stride)
        place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        inside = place[:, None] * stride + (np.arange(size) - (size // 2 if centred else 0)) * dilation
        beyond = (inside < 0) | (inside >= np.repeat(self.lengths, counts)[:, None])
        index = np.where(beyond, int(self.lengths.sum()), inside + np.repeat(self.starts, counts)[:, None])
        return index, Layout(counts, self.device)


def windowed(x: Tensor, index: np.ndarray) -> Tensor:
    """The steps (S, W) of windows side by side, (S', size x W); 0 where a window reaches beyond its sequence.

    Examples
    --------
    >>> index, _ = Layout(np.array([3]), torch.device("cpu")).windows(3)
    >>> windowed(torch.tensor([[1.0], [2.0], [3.0]]), index).tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
    """
    with_zero = torch.cat([x, x.new_zeros(1, x.shape[1])])
    places = torch.from_numpy(index).to(x.device)
    return with_zero.index_select(0, places.flatten()).view(len(index), -1)


class Convolution(nn.Module):
    """A residual block: norm, GELU, and a convolution over `size` steps, `dilation` apart; zeros beyond the ends.

    Examples
    --------
    >>> layout = Layout(np.array([3, 1]), torch.device("cpu"))
    >>> Convolution(8, size=3, dilation=1, dropout=0.0)(torch.zeros(4, 8), layout).shape
    torch.Size([4, 8])
    """

    def __init__(self, width: int, size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.size, self.dilation = size, dilation
        self.norm, self.linear, self.dropout = nn.LayerNorm(width), nn.Linear(size * width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Steps (S, H) to steps (S, H)."""
        index, _ = layout.windows(self.size, dilation=self.dilation)
        return x + self.dropout(self.linear(windowed(nn.functional.gelu(self.norm(x)), index)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer block with its norms in front, attention within each sequence.

    Examples
    --------
    >>> layout = Layout(np.array([3, 1]), torch.device("cpu"))
    >>> Block(8, heads=2, dropout=0.0)(torch.zeros(4, 8), layout).shape
    torch.Size([4, 8])
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Steps (S, H) to steps (S, H)."""
        x = x + self.dropout(self.outputs(self._attend(self.first(x), layout)))
        return x + self.dropout(self.layers(self.second(x)))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        from embedkit.models.execution.attention import packed_attention

        plan = Plan.of(layout.lengths)
        order = places(layout.starts[plan.order], plan.lengths)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        together = self.inputs(x).index_select(0, torch.from_numpy(order).to(x.device))
        query, key, value = together.view(1, len(x), 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out, _ = packed_attention(self, query, key, value, None, dropout=self.rate * self.training, plan=plan)
        return out.reshape(len(x), -1).index_select(0, torch.from_numpy(back).to(x.device))  # type: ignore[no-any-return]


class Recurrence(nn.Module):
    """A GRU over the steps of each sequence; its state behind the last one.

    Examples
    --------
    >>> layout = Layout(np.array([3, 1]), torch.device("cpu"))
    >>> Recurrence(8, depth=1, dropout=0.0)(torch.zeros(4, 8), layout).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Steps (S, H) to states (N, H)."""
        lengths = torch.from_numpy(layout.lengths)
        rows = x.new_zeros(len(lengths), int(lengths.max()), x.shape[1])
        rows = rows.index_put((layout.owner, layout.places), x)
        pack = nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        return self.gru(pack)[1][-1]  # type: ignore[no-any-return]


def positions(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places (S,), float (S, width) (Vaswani et al. 2017, section 3.5).

    Examples
    --------
    >>> positions(torch.tensor([0, 1]), 4)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]])
    """
    half = -(-width // 2)
    rates = torch.exp(torch.arange(half, device=places.device) * (-math.log(10_000.0) / half))
    angles = places[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
