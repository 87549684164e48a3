"""Projectors that methods train beside the encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projector(
    inputs: int, hidden: int, outputs: int, *, layers: int = 2, norm: bool = True, last_norm: bool = False,
    activation: str = "relu",
) -> nn.Sequential:  # fmt: skip
    """Linear layers with an activation between them, (N, inputs) -> (N, outputs).

    Parameters
    ----------
    layers : int
        How many linear layers; all but the last have `hidden` outputs.
    norm, last_norm : bool
        Batch normalisation before each activation, and, without scale and shift, behind the last layer. In training its
        statistics are those of the rows given.
    activation : str
        "relu" or "gelu".

    Examples
    --------
    >>> [type(module).__name__ for module in projector(4, 8, 2)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(inputs, hidden, bias=not norm), *([nn.BatchNorm1d(hidden)] if norm else [])]
        modules.append(nn.ReLU() if activation == "relu" else nn.GELU())
        inputs = hidden
    modules.append(nn.Linear(inputs, outputs, bias=not last_norm))
    if last_norm:
        modules.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*modules)


class Prototypes(nn.Module):
    """Cosines of vectors with K prototypes, (N, D) -> (N, K): the last layer of DINO's head (Caron et al. 2021).

    Both are scaled to length one; a temperature belongs to the objective.

    Examples
    --------
    >>> layer = Prototypes(4, 6)
    >>> logits = layer(torch.randn(3, 4))
    >>> logits.shape, bool((logits.abs() <= 1 + 1e-6).all())
    (torch.Size([3, 6]), True)
    """

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, inputs))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, z: Tensor, learns: bool = True) -> Tensor:
        """(N, D) -> (N, K); without `learns` the prototypes get no gradient."""
        weight = self.weight if learns else self.weight.detach()
        return F.normalize(z, dim=1) @ F.normalize(weight, dim=1).T


def together(layers: Callable[[Tensor], Tensor], vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the layers make of all vectors in one pass, by name.

    Examples
    --------
    >>> out = together(nn.Identity(), {"anchor": torch.ones(2, 3), "positive": torch.zeros(1, 3)})
    >>> {name: tuple(z.shape) for name, z in out.items()}
    {'anchor': (2, 3), 'positive': (1, 3)}
    """
    whole = layers(torch.cat(list(vectors.values())))
    return dict(zip(vectors, whole.split([len(z) for z in vectors.values()]), strict=True))
