"""Layers on a pooled vector: what a model folder may list behind its pooler, each (N, I) -> (N, O)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import ModelError, nearest
from embedkit.registry import Registry


class Layer(nn.Module):
    """Base class of layers on a pooled vector.

    Attributes
    ----------
    train_only : bool
        Used in training mode only: a projection that is dropped at inference (SimCSE, Gao et al. 2021, section 6.3).
    use_only : bool
        Used outside of training mode only.

    Examples
    --------
    >>> layer = UnitLength(train_only=True)
    >>> layer.runs(training=True), layer.runs(training=False), layer.size(32)
    (True, False, 32)
    """

    train_only: bool = False
    use_only: bool = False

    def size(self, inputs: int) -> int:
        """Size of the layer's vectors for vectors of size `inputs`."""
        return inputs

    def runs(self, training: bool) -> bool:
        """Whether the layer is applied in this mode."""
        return not self.use_only if training else not self.train_only

    def always(self) -> Any:
        """The same layer, its weights shared, used outside of training too."""
        other = copy.copy(self)
        other.train_only = False
        return other

    def spec(self) -> dict[str, Any]:
        """The constructor's arguments and the layer's ``kind``, as plain JSON values."""
        raise TypeError(f"{type(self).__name__} does not define spec")


layers: Registry[type[Layer]] = Registry("layer", "embedkit.models.heads")


def new_layer(spec: dict[str, Any]) -> Layer:
    """A layer with fresh weights from what `Layer.spec` returned; without a ``kind`` a dense one.

    Examples
    --------
    >>> new_layer({"kind": "cut", "dim": 8}).size(32)
    8
    """
    settings = {key: value for key, value in spec.items() if key != "kind"}
    return layers[spec.get("kind", "dense")](**settings)


_ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh,
    nn.Tanhshrink,
)  # fmt: skip
ACTIVATIONS: dict[str, type[nn.Module]] = {"identity": nn.Identity, **{c.__name__.lower(): c for c in _ELEMENTWISE}}
"""torch's activations without parameters by their names in lower case."""


@layers.add("dense")
class Dense(Layer):
    """A linear layer and an activation on the pooled vector, (N, I) -> (N, O).

    Parameters
    ----------
    inputs, outputs : int
        Sizes.
    activation : str
        A key of `ACTIVATIONS`.
    bias : bool
        Whether the linear layer has one.
    train_only : bool
        See `Layer`.
    norm : float, optional
        A layer norm with this epsilon behind the activation.

    Examples
    --------
    >>> Dense(32, 8, "identity").size(32)
    8
    """

    def __init__(
        self, inputs: int, outputs: int, activation: str = "tanh", bias: bool = True, train_only: bool = False,
        norm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ModelError(f"unknown activation {activation!r}", remedy=nearest(activation, ACTIVATIONS))
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation = activation
        self.function = ACTIVATIONS[activation]()
        self.train_only = train_only
        self.norm = None if norm is None else nn.LayerNorm(outputs, eps=norm)

    def size(self, inputs: int) -> int:
        """See `Layer.size`."""
        return self.linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        x = self.function(self.linear(x))
        return x if self.norm is None else self.norm(x)

    def spec(self) -> dict[str, Any]:
        """See `Layer.spec`; a dense layer has no ``kind``."""
        linear = self.linear
        norm = {} if self.norm is None else {"norm": self.norm.eps}
        return {
            "inputs": linear.in_features, "outputs": linear.out_features, "activation": self.activation,
            "bias": linear.bias is not None, "train_only": self.train_only, **norm,
        }  # fmt: skip


@layers.add("unit-length")
class UnitLength(Layer):
    """Vectors divided by their Euclidean norm, in training too; (N, D) -> (N, D). Zero stays zero.

    Examples
    --------
    >>> import torch
    >>> UnitLength()(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    def __init__(self, train_only: bool = False) -> None:
        super().__init__()
        self.train_only = train_only

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        # The bound that keeps normalize from dividing by zero is itself zero in float16, and long norms are infinite.
        wide = x.float() if x.dtype == torch.float16 else x
        return nn.functional.normalize(wide, dim=-1).to(x.dtype)

    def spec(self) -> dict[str, Any]:
        """See `Layer.spec`."""
        return {"kind": "unit-length", "train_only": self.train_only}


@layers.add("layer-norm")
class LayerNorm(Layer):
    """Layer normalisation (Ba et al. 2016) with scale and shift, (N, D) -> (N, D).

    Examples
    --------
    >>> import torch
    >>> LayerNorm(4)(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).detach()
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """

    def __init__(self, dim: int, train_only: bool = False) -> None:
        super().__init__()
        self.train_only = train_only
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return self.norm(x)

    def spec(self) -> dict[str, Any]:
        """See `Layer.spec`."""
        return {"kind": "layer-norm", "dim": self.norm.normalized_shape[0], "train_only": self.train_only}


@layers.add("cut")
class Cut(Layer):
    """The first `dim` coordinates, outside of training: a folder's ``truncate_dim`` (Kusupati et al. 2022).

    Examples
    --------
    >>> import torch
    >>> Cut(2)(torch.tensor([[1.0, 2.0, 3.0]])), Cut(2).runs(training=True)
    (tensor([[1., 2.]]), False)
    """

    use_only = True

    def __init__(self, dim: int, train_only: bool = False) -> None:
        super().__init__()
        self.dim, self.train_only = dim, train_only

    def size(self, inputs: int) -> int:
        """See `Layer.size`."""
        return min(self.dim, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, D)."""
        return x[..., : self.dim]

    def spec(self) -> dict[str, Any]:
        """See `Layer.spec`."""
        return {"kind": "cut", "dim": self.dim, "train_only": self.train_only}
