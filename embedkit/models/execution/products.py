"""Linear layers that are trained in float32 on a CPU: their three products by oneDNN.

torch multiplies float32 matrices by MKL, which runs AVX2 instructions on processors of other makers than its own;
oneDNN's kernels use AVX-512 wherever the processor has it. Both round in float32; sums are taken in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from embedkit.models.execution.int8 import linear_layers
from embedkit.system.cpu import cpu_has_avx512


class QuickProducts:
    """A maker of contexts in which the larger linear layers of a module multiply by oneDNN; outside they are as built.

    Parameters and what the layers compute stay. Without AVX-512 the contexts change nothing.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.execution.products import QuickProducts
    >>> from embedkit.system.cpu import cpu_has_avx512
    >>> layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    >>> with QuickProducts(layers).context():
    ...     inside = type(layers[0]).__name__
    >>> inside == ("TrainedLinear" if cpu_has_avx512() else "Linear"), type(layers[0]).__name__
    (True, 'Linear')
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root

    @contextmanager
    def context(self) -> Iterator[None]:
        """A context for forward passes; their backward passes may come after it."""
        layers = linear_layers(self._root) if cpu_has_avx512() else []
        for layer in layers:
            layer.__class__ = TrainedLinear
        try:
            yield
        finally:
            for layer in layers:
                layer.__class__ = nn.Linear


class TrainedLinear(nn.Linear):
    """`torch.nn.Linear` whose products run in oneDNN, for float32 outside of autocast; else it is that layer.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.products import TrainedLinear
    >>> TrainedLinear(64, 128)(torch.ones(1, 3, 64)).shape
    torch.Size([1, 3, 128])
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        plain = (
            input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or input.device.type != "cpu"
            or input.numel() == 0
            or torch.is_autocast_enabled("cpu")
            or torch.is_inference_mode_enabled()
        )
        if plain:
            return F.linear(input, self.weight, self.bias)
        rows: Tensor = LinearProduct.apply(input.reshape(-1, self.in_features), self.weight, self.bias)
        return rows.view(*input.shape[:-1], self.out_features)


class LinearProduct(torch.autograd.Function):
    """``x @ weight.T + bias`` of x (T, K), weight (N, K) and bias (N,) or None in float32, and its gradients.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.products import LinearProduct
    >>> from embedkit.system.cpu import cpu_has_avx512
    >>> x, weight = torch.ones(2, 3), torch.ones(4, 3)
    >>> (LinearProduct.apply(x, weight, None) if cpu_has_avx512() else x @ weight.T)[0, 0]
    tensor(3.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(T, K) -> (T, N)."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad = grad.contiguous()
        for_x = _product(grad, weight.t()) if wants_x else None
        for_weight = _across(grad, x) if wants_weight else None
        return for_x, for_weight, grad.sum(0) if wants_bias else None


def product(x: Tensor, y: Tensor) -> Tensor:
    """``x @ y.T`` of x (T, K) and y (N, K), without a graph: by oneDNN where that is the quicker one.

    Examples
    --------
    >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[11.,  2.]])
    """
    return _product(x, y) if _is_quick(x, y) else x @ y.T


def product_across(x: Tensor, y: Tensor) -> Tensor:
    """``x.T @ y`` of x (T, N) and y (T, K), as `product`.

    Examples
    --------
    >>> product_across(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    return _across(x, y) if _is_quick(x, y) else x.T @ y


def _is_quick(x: Tensor, y: Tensor) -> bool:
    single = x.dtype == y.dtype == torch.float32 and x.device.type == y.device.type == "cpu"
    return single and min(x.numel(), y.numel()) > 0 and cpu_has_avx512()


def _across(grad: Tensor, x: Tensor) -> Tensor:
    """``grad.T @ x`` of grad (T, N) and x (T, K); oneDNN copies its first factor: the smaller."""
    if grad.shape[1] > x.shape[1]:
        return _product(x.t(), grad.t()).t().contiguous()
    return _product(grad.t(), x.t())


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output
