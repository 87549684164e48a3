"""Linear layers in 8-bit integers, for `encode` on CPUs with VNNI or AMX instructions.

Weights have one scale an output channel, activations one a token (ZeroQuant, Yao et al. 2022): a text's vector does
not depend on the other texts of its batch. Channels of large activations are divided by a factor that the weights
take over (SmoothQuant, Xiao et al. 2023, equation 4 with alpha 0.5). Products are summed in 32-bit integers, exactly.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_SMALLEST = 64
"""Layers with fewer inputs or outputs stay as they are: there is nothing to win."""


def linear_layers(root: nn.Module) -> list[nn.Linear]:
    """The linear layers of a model that are large enough to gain by 8-bit products.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import linear_layers
    >>> linear_layers(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)))
    [Linear(in_features=64, out_features=64, bias=True)]
    """
    return [
        module
        for module in root.modules()
        if isinstance(module, nn.Linear)
        and type(module) is nn.Linear
        and min(module.in_features, module.out_features) >= _SMALLEST
    ]


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each token in 8 bits: uint8 (T, K) with 128 for zero, and the scales, float32 (T, 1).

    ``(q - 128) * scale`` gives `x` (T, K) to half a scale; the largest number of a token becomes 127 or -127.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import quantize_tokens
    >>> q, scale = quantize_tokens(torch.tensor([[0.5, -1.0, 0.0], [20.0, 0.0, 10.0]]))
    >>> (q.int() - 128).tolist(), [round(s, 4) for s in scale.flatten().tolist()]
    ([[64, -127, 0], [127, 0, 64]], [0.0079, 0.1575])
    """
    scale = x.abs().amax(-1, keepdim=True).float().mul_(1 / 127).clamp_(min=1e-30)
    q = (x * scale.reciprocal()).round_().to(torch.int8)  # torch vectorises the conversion to int8, not that to uint8
    return q.view(torch.uint8).bitwise_xor_(128), scale


def smoothing(weight: Tensor, peaks: Tensor) -> Tensor:
    """Divisor (K,) of each input channel: the root of its largest activation over its largest weight.

    `weight` is (N, K), `peaks` (K,) the largest absolute activation of each channel.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import smoothing
    >>> smoothing(torch.tensor([[0.5, 1.0], [-1.0, 0.25]]), torch.tensor([4.0, 0.25]))
    tensor([2.0000, 0.5000])
    """
    return (peaks.float().clamp(min=1e-5) / weight.abs().amax(0).clamp(min=1e-5)).sqrt()


class Int8Linear(nn.Module):
    """`torch.nn.Linear` by 8-bit products; input and output are float, (..., K) -> (..., N).

    Parameters
    ----------
    linear : nn.Linear
        The layer, float32. Its parameters are shared, so that what asks for their dtype finds it.
    peaks : Tensor (K,), optional
        The largest absolute activation of each input channel, for `smoothing`.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import Int8Linear
    >>> from embedkit.system.cpu import cpu_has_int8
    >>> linear = torch.nn.Linear(64, 128)
    >>> quick = Int8Linear(linear) if cpu_has_int8() else linear
    >>> x = torch.randn(3, 64)
    >>> bool((quick(x) - linear(x)).abs().max() < 0.05)
    True
    """

    def __init__(self, linear: nn.Linear, peaks: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        weight = linear.weight.detach().float()
        self._factors = None
        if peaks is not None:
            divisors = smoothing(weight, peaks)
            weight, self._factors = weight * divisors, divisors.reciprocal()
        self._scales = weight.abs().amax(1).div_(127).clamp_(min=1e-30)
        q = (weight / self._scales[:, None]).round_().to(torch.int8)
        self._blocks = torch.ops.onednn.qlinear_prepack(q, None)
        self._zeros = torch.zeros(len(q), dtype=torch.int32)

    def forward(self, input: Tensor) -> Tensor:
        """Same leading axes, same dtype."""
        flat = input.reshape(-1, self.in_features)
        q, scale = quantize_tokens(flat if self._factors is None else flat * self._factors)
        # uint8 with 128 for zero: for int8 inputs oneDNN has nothing but a reference loop, a thousand times slower
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 128, self._blocks, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        output.mul_(scale)
        if self.bias is not None:
            output.add_(self.bias)
        return output.view(*input.shape[:-1], self.out_features).to(input.dtype)


class Int8Layers:
    """The 8-bit forms of linear layers, each made once for its weights and kept as long as the layer lives.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import Int8Layers
    >>> Int8Layers().get(torch.nn.Linear(64, 64)) is None
    True
    """

    def __init__(self) -> None:
        self._layers: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Int8Linear]] = WeakKeyDictionary()

    def get(self, module: nn.Module) -> Int8Linear | None:
        """The form of a layer with the weights that it has now, None where none was made."""
        version, layer = self._layers.get(module, (None, None))
        return layer if isinstance(module, nn.Linear) and version == self._version(module) else None

    def add(self, module: nn.Linear, peaks: Tensor | None) -> None:
        """Make the form of a layer."""
        self._layers[module] = self._version(module), Int8Linear(module, peaks)

    @staticmethod
    def _version(module: nn.Linear) -> tuple[int, int]:
        return module.weight.data_ptr(), module.weight._version
