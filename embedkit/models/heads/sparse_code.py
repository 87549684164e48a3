"""A sparse code of a pooled vector: the encoder half of a TopK autoencoder, with its decoder for training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.models.heads.layers import Layer, layers

LIVE = 1e-5
"""What a latent must exceed to count as active."""


@layers.add("sparse-code")
class SparseCode(Layer):
    """The `k` largest of `outputs` latents, the rest zero; (N, I) -> (N, O), no number below 0 (Wen et al. 2025, CSR).

    ``z = ReLU(TopK(W (x - b_pre) + b, k))``, and back ``x' = W^T z + b_pre``. Parameters and buffer have the names of
    sentence-transformers' SparseAutoEncoder, whose folder this layer writes and reads.

    Parameters
    ----------
    inputs, outputs : int
        Sizes of the vector and of the code.
    k : int
        Numbers of a code that may differ from zero.
    train_only : bool
        See `Layer`.

    Examples
    --------
    >>> layer = SparseCode(4, 16, k=2)
    >>> code = layer(torch.ones(3, 4))
    >>> code.shape, int((code != 0).sum(dim=1).max()) <= 2, bool((code >= 0).all())
    (torch.Size([3, 16]), True, True)
    """

    stats_last_nonzero: Tensor

    def __init__(self, inputs: int, outputs: int, k: int = 8, train_only: bool = False) -> None:
        super().__init__()
        self.train_only, self.k = train_only, k
        self.pre_bias = nn.Parameter(torch.zeros(inputs))
        self.latent_bias = nn.Parameter(torch.zeros(outputs))
        self.decoder = nn.ModuleDict({"linear": nn.Linear(inputs, outputs, bias=False)})
        self.register_buffer("stats_last_nonzero", torch.zeros(outputs, dtype=torch.long))
        self._is_aside = False

    @property
    def weight(self) -> Tensor:
        """W, (O, I)."""
        return self.decoder["linear"].weight  # type: ignore[return-value]

    def size(self, inputs: int) -> int:
        """See `Layer.size`."""
        return len(self.latent_bias)

    def runs(self, training: bool) -> bool:
        """See `Layer.runs`; never inside `aside`."""
        return not self._is_aside and super().runs(training)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """A context in which the model gives the vectors that this layer would code."""
        self._is_aside = True
        try:
            yield
        finally:
            self._is_aside = False

    def latents(self, x: Tensor) -> Tensor:
        """All latents (N, O) of vectors (N, I), before the choice."""
        return self.decoder["linear"](x - self.pre_bias) + self.latent_bias  # type: ignore[no-any-return]

    def rebuild(self, code: Tensor) -> Tensor:
        """Vectors (N, I) from codes (N, O)."""
        return nn.functional.linear(code, self.weight.T) + self.pre_bias

    def count(self, codes: Tensor) -> None:
        """One more step for every latent, none for those that are active in a code (N, O) of the step."""
        self.stats_last_nonzero.add_(1).masked_fill_(codes.amax(dim=0) > LIVE, 0)

    def dead(self, steps: int) -> Tensor:
        """Mask (O,) of the latents that were in no code for more than `steps` steps."""
        return self.stats_last_nonzero > steps

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return largest(self.latents(x), self.k)

    def spec(self) -> dict[str, Any]:
        """See `Layer.spec`."""
        return {
            "kind": "sparse-code", "inputs": len(self.pre_bias), "outputs": len(self.latent_bias), "k": self.k,
            "train_only": self.train_only,
        }  # fmt: skip


def largest(values: Tensor, k: int) -> Tensor:
    """`values` (N, O) with all but the `k` largest of a row, and all below 0, set to 0.

    Examples
    --------
    >>> largest(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), 2)
    tensor([[3., 0., 2., 0.]])
    """
    top = values.topk(min(k, values.shape[1]), dim=1)
    return torch.zeros_like(values).scatter(1, top.indices, top.values.relu())


def relative_error(guesses: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error divided by the variance of the targets (N, D) over the batch; 0 where they are all equal.

    Examples
    --------
    >>> relative_error(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))
    tensor(5.)
    """
    spread = (targets - targets.mean(dim=0)).square().mean()
    usable = spread.detach() > 0
    return (guesses - targets).square().mean() / torch.where(usable, spread, 1.0) * usable


def vectors_before(layer: SparseCode, model: Any, inputs: Any, frozen: bool, **settings: Any) -> Tensor:
    """The vectors (N, I) of a model that its code `layer` reads; `frozen` without dropout and gradient, as in `encode`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> layer = SparseCode(model.dim, 4 * model.dim)
    >>> _ = model.dense.append(layer)
    >>> inputs = model.prepare(["a cat"])
    >>> vectors_before(layer, model, inputs, frozen=True).shape, model(inputs).shape
    (torch.Size([1, 64]), torch.Size([1, 256]))
    """
    if not frozen:
        with layer.aside():
            return model(inputs, **settings)  # type: ignore[no-any-return]
    was_training = model.training
    try:
        with layer.aside(), torch.no_grad():
            return model.eval()(inputs, **settings)  # type: ignore[no-any-return]
    finally:
        model.train(was_training)


def sparse_code_of(model: Any) -> SparseCode | None:
    """The sparse code at the end of a model; None for one that gives dense vectors.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> sparse_code_of(build(load_recipe("quickstart").model)) is None
    True
    """
    codes = [layer for layer in getattr(model, "layers", []) if isinstance(layer, SparseCode)]
    return codes[-1] if codes and not codes[-1].train_only else None
