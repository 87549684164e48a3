"""Edits of how the encoder sees a text: its positions, the output of its embedding layer, its dropout rate.

Named edits are settings of a forward pass and so of a view: ``{"token_cutoff": 0.15}``. What they draw depends on the
seeds of the inputs only (`embedkit.models.augment.counter_rng`). A method may also pass a function as ``edit``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import UserError
from embedkit.models.augment.counter_rng import ranks, uniforms
from embedkit.models.inputs.inputs import Inputs
from embedkit.registry import Registry

Edit = Callable[[Tensor, Inputs], Tensor]
"""Output of the embedding layer (T, H) and its inputs, tokens in the same order -> (T, H)."""

edits: Registry[Callable[[float], Edit]] = Registry("edit")
"""Named edits of the embedding layer's output, each made from one number."""


def _share(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
        raise UserError(f"rate is {rate!r}", where="edit", remedy="give a number from 0 on and below 1")
    return rate


def _times(hidden: Tensor, mask: np.ndarray) -> Tensor:
    """`hidden` (T, H) with zeros where `mask` (T, H) or (T, 1) is false."""
    return hidden * torch.from_numpy(mask).to(hidden.device).to(hidden.dtype)


@edits.add("token_cutoff")
def token_cutoff(rate: float) -> Edit:
    """The edit that zeroes ``int(rate * n)`` of a text's n token vectors (Shen et al. 2020; Yan et al. 2021, 3.2).

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> token_cutoff(0.5)(torch.ones(4, 3), texts).tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    _share(rate)

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        cut = (rate * inputs.costs).astype(np.int64)[inputs.owner]  # (T,) how many go in the token's own text
        return _times(hidden, (ranks(inputs, uniforms(inputs, "token_cutoff")) >= cut)[:, None])

    return edit


@edits.add("feature_cutoff")
def feature_cutoff(rate: float) -> Edit:
    """The edit that zeroes the same ``int(rate * H)`` coordinates in all token vectors of a text (ConSERT, 3.2).

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> feature_cutoff(0.4)(torch.ones(4, 3), texts).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    _share(rate)

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        width = hidden.shape[1]
        order = np.argsort(uniforms(inputs, "feature_cutoff", width), axis=1, kind="stable")
        mask = np.ones((len(inputs), width), dtype=bool)
        np.put_along_axis(mask, order[:, : int(rate * width)], False, axis=1)
        return _times(hidden, mask[inputs.owner])

    return edit


@edits.add("element_cutoff")
def element_cutoff(rate: float) -> Edit:
    """The edit that zeroes ``int(rate * n * H)`` numbers of a text and rescales none (ConSERT's dropout view, 3.2).

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> element_cutoff(0.25)(torch.ones(4, 3), texts).tolist()
    [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    _share(rate)

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        values = uniforms(inputs, "element_cutoff", _longest(inputs) * hidden.shape[1])  # (N, L * H)
        sizes = inputs.costs * hidden.shape[1]
        place = np.arange(values.shape[1])[None, :]
        values[place >= sizes[:, None]] = 2.0  # no such token
        mask = np.empty(values.shape, dtype=bool)
        last = (rate * sizes).astype(np.int64)[:, None]
        np.put_along_axis(mask, np.argsort(values, axis=1, kind="stable"), place >= last, axis=1)
        return _times(hidden, _tokens(inputs, mask, hidden.shape[1]))

    return edit


@edits.add("noise")
def noise(deviation: float) -> Edit:
    """The edit that adds normal noise of this standard deviation to every number.

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> hidden = noise(0.1)(torch.zeros(4, 3), texts)
    >>> hidden.shape, torch.equal(hidden, noise(0.1)(torch.zeros(4, 3), texts))
    (torch.Size([4, 3]), True)
    """

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        return hidden + deviation * normal(hidden, inputs, "noise")

    return edit


def normal(like: Tensor, inputs: Inputs, stream: str) -> Tensor:
    """Standard normal numbers (T, H) from the seeds of the inputs (Box and Muller 1958).

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> normal(torch.zeros(4, 3), texts, "noise").shape
    torch.Size([4, 3])
    """
    size = _longest(inputs) * like.shape[1]
    radius, angle = (uniforms(inputs, f"{stream}-{part}", size) for part in ("radius", "angle"))
    values = np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle)
    return torch.from_numpy(_tokens(inputs, values, like.shape[1])).to(like.device).to(like.dtype)


def _longest(inputs: Inputs) -> int:
    return int(inputs.costs.max(initial=0))


def _tokens(inputs: Inputs, values: np.ndarray, width: int) -> np.ndarray:
    """The real tokens (T, width) of padded values (N, L * width)."""
    return values.reshape(-1, width)[inputs.owner * _longest(inputs) + inputs.places]


def shuffled(inputs: Inputs) -> Inputs:
    """The inputs with the positions of each text's tokens permuted, special tokens included (ConSERT, section 3.2).

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> shuffled(texts).positions.tolist()
    [1, 3, 0, 2]
    """
    places = ranks(inputs, uniforms(inputs, "shuffle"))
    return inputs.replace(positions=torch.from_numpy(places).to(inputs.device))


def chain(steps: Sequence[Edit]) -> Edit | None:
    """One edit that applies `steps` one after the other; None when there are none.

    Examples
    --------
    >>> texts = Inputs.of([[2, 7, 8, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> chain([token_cutoff(0.5), lambda hidden, inputs: hidden + 1])(torch.ones(4, 3), texts)[:, 0].tolist()
    [2.0, 1.0, 2.0, 1.0]
    >>> chain([]) is None
    True
    """
    if not steps:
        return None

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        for step in steps:
            hidden = step(hidden, inputs)
        return hidden

    return edit


@contextlib.contextmanager
def edited(encoder: nn.Module, edit: Edit | None, inputs: Inputs, real: Tensor | None = None) -> Iterator[None]:
    """Apply an edit to the output of the embedding layer of a transformers encoder while it runs inside.

    `real` (N, L) says which tokens of a padded batch are real; without it the run is packed, (1, T, H).

    Examples
    --------
    >>> encoder = nn.Module()
    >>> encoder.embeddings = nn.Embedding(10, 2)
    >>> texts = Inputs.of([[7, 8]])
    >>> with edited(encoder, lambda hidden, inputs: torch.ones_like(hidden), texts):
    ...     encoder.embeddings(texts.ids[None]).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """
    if edit is None:
        yield
        return

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if real is None:
            return edit(output[0], inputs)[None]
        result = output.clone()
        result[real] = edit(output[real], inputs)
        return result

    handle = _embedding_layer(encoder).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _embedding_layer(encoder: nn.Module) -> nn.Module:
    """The module that makes the first layer's input of ids: with positions and norm, or, in T5, word vectors alone."""
    layer = getattr(encoder, "embeddings", None)
    return layer if layer is not None else encoder.get_submodule("encoder.embed_tokens")
