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


def _times(hidden: Tensor, kept: np.ndarray) -> Tensor:
    """`hidden` (T, H) with zeros where `kept` (T, H) or (T, 1) is false."""
    return hidden * torch.from_numpy(kept).to(hidden.device).to(hidden.dtype)


@edits.add("token_cutoff")
def token_cutoff(rate: float) -> Edit:
    """Zero ``int(rate * n)`` of the n token vectors of each text (Shen et al. 2020; ConSERT, Yan et al. 2021, 3.2)."""
    _share(rate)

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        cut = (rate * inputs.costs).astype(np.int64)[inputs.owner]  # (T,) how many go in the token's own text
        return _times(hidden, (ranks(inputs, uniforms(inputs, "token_cutoff")) >= cut)[:, None])

    return edit


@edits.add("feature_cutoff")
def feature_cutoff(rate: float) -> Edit:
    """Zero the same ``int(rate * H)`` coordinates in all token vectors of a text (ConSERT, section 3.2)."""
    _share(rate)

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        width = hidden.shape[1]
        order = np.argsort(uniforms(inputs, "feature_cutoff", width), axis=1, kind="stable")
        kept = np.ones((len(inputs), width), dtype=bool)
        np.put_along_axis(kept, order[:, : int(rate * width)], False, axis=1)
        return _times(hidden, kept[inputs.owner])

    return edit


@edits.add("element_cutoff")
def element_cutoff(rate: float) -> Edit:
    """Zero ``int(rate * n * H)`` single numbers of each text and rescale none (ConSERT's dropout view, 3.2)."""
    _share(rate)

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        drawn = uniforms(inputs, "element_cutoff", _longest(inputs) * hidden.shape[1])  # (N, L * H)
        sizes = inputs.costs * hidden.shape[1]
        place = np.arange(drawn.shape[1])[None, :]
        drawn[place >= sizes[:, None]] = 2.0  # no such token
        kept = np.empty(drawn.shape, dtype=bool)
        last = (rate * sizes).astype(np.int64)[:, None]
        np.put_along_axis(kept, np.argsort(drawn, axis=1, kind="stable"), place >= last, axis=1)
        return _times(hidden, _tokens(inputs, kept, hidden.shape[1]))

    return edit


@edits.add("noise")
def noise(deviation: float) -> Edit:
    """Add normal noise of this standard deviation to every number."""

    def edit(hidden: Tensor, inputs: Inputs) -> Tensor:
        return hidden + deviation * normal(hidden, inputs, "noise")

    return edit


def normal(like: Tensor, inputs: Inputs, stream: str) -> Tensor:
    """Standard normal numbers (T, H) from the seeds of the inputs (Box and Muller 1958)."""
    size = _longest(inputs) * like.shape[1]
    radius, angle = (uniforms(inputs, f"{stream}-{part}", size) for part in ("radius", "angle"))
    drawn = np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle)
    return torch.from_numpy(_tokens(inputs, drawn, like.shape[1])).to(like.device).to(like.dtype)


def _longest(inputs: Inputs) -> int:
    return int(inputs.costs.max(initial=0))


def _tokens(inputs: Inputs, padded: np.ndarray, width: int) -> np.ndarray:
    """The real tokens (T, width) of padded values (N, L * width)."""
    return padded.reshape(-1, width)[inputs.owner * _longest(inputs) + inputs.places]


def shuffled(inputs: Inputs) -> Inputs:
    """The inputs with the positions of each text's tokens permuted, special tokens included (ConSERT, section 3.2)."""
    places = ranks(inputs, uniforms(inputs, "shuffle"))
    return inputs.replace(positions=torch.from_numpy(places).to(inputs.device))


def chain(steps: Sequence[Edit]) -> Edit | None:
    """The edits one after the other; None when there are none."""
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
    """
    if edit is None:
        yield
        return

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if real is None:
            return edit(output[0], inputs)[None]
        changed = output.clone()
        changed[real] = edit(output[real], inputs)
        return changed

    handle = _embedding_layer(encoder).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _embedding_layer(encoder: nn.Module) -> nn.Module:
    """What turns ids into the first layer's input: with positions and norm, or, as in T5, word vectors alone."""
    found = getattr(encoder, "embeddings", None)
    return found if found is not None else encoder.get_submodule("encoder.embed_tokens")
