"""Linear layers in 8-bit integers, for `encode` on CPUs with VNNI or AMX instructions.

Weights have one scale an output channel, activations one a token (ZeroQuant, Yao et al. 2022): a text's vector does
not depend on the other texts of its batch. Channels of large activations are divided by a factor that the weights
take over (SmoothQuant, Xiao et al. 2023, equation 4 with alpha 0.5). Products are summed in 32-bit integers, exactly.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_SMALLEST = 64
"""Layers with fewer inputs or outputs stay as they are: there is nothing to win."""
_ROUND = 1.5 * 2**23
"""A float32 from here on has no fraction: what is added is rounded to an integer, whose low byte is that of the sum."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x, "gelu": torch.ops.aten.gelu_, "relu": torch.relu_,
}  # fmt: skip
"""What a product may end with, in place."""
_LOWEST = {"gelu": -0.17, "relu": 0.0}
"""Below what an activation never comes."""


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


def quantize_tokens_(x: Tensor, lowest: float | None = None) -> tuple[Tensor, Tensor]:
    """Each token in 8 bits: uint8 (T, K) with 128 for zero, and the scales, float32 (T, 1).

    ``(q - 128) * scale`` gives `x`, float32 (T, K), to half a scale; the largest number of a token becomes 127 or -127.
    `x` is overwritten. Where none of its numbers is below `lowest` (negative or 0), as behind an activation, the
    minimum is not looked for.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import quantize_tokens_
    >>> q, scale = quantize_tokens_(torch.tensor([[0.5, -1.0, 0.0], [20.0, 0.0, 10.0]]))
    >>> (q.int() - 128).tolist(), [round(s, 4) for s in scale.flatten().tolist()]
    ([[64, -127, 0], [127, 0, 64]], [0.0079, 0.1575])
    """
    peak = x.amax(-1, keepdim=True)
    peak = torch.maximum(peak, x.amin(-1, keepdim=True).neg_()) if lowest is None else peak.clamp_(min=-lowest)
    scale = peak.mul_(1 / 127).clamp_(min=1e-30)
    shifted = x.mul_(scale.reciprocal()).add_(_ROUND + 128)
    return shifted.view(torch.int32).to(torch.uint8), scale


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
    return (peaks.float().clamp(min=1e-5) / torch.maximum(weight.amax(0), weight.amin(0).neg_()).clamp(min=1e-5)).sqrt()


class Int8Product:
    """The product of tokens with the weights of one or several linear layers that see the same input, such as query,
    key and value: tokens are quantised once, and the weights lie in one matrix.

    Parameters
    ----------
    layers : sequence of nn.Linear
        The layers, float32, each (N, K).
    peaks : Tensor (K,), optional
        The largest absolute activation of each input channel, for `smoothing`.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import Int8Product
    >>> from embedkit.system.cpu import cpu_has_int8
    >>> layers = [torch.nn.Linear(64, 64), torch.nn.Linear(64, 96)]
    >>> x = torch.randn(3, 64)
    >>> Int8Product(layers)(x).shape if cpu_has_int8() else torch.Size([3, 160])
    torch.Size([3, 160])
    """

    def __init__(self, layers: Sequence[nn.Linear], peaks: Tensor | None = None) -> None:
        weight = torch.cat([layer.weight.detach().float() for layer in layers])  # a copy
        self._factors = None
        if peaks is not None:
            divisors = smoothing(weight, peaks)
            self._factors = divisors.reciprocal()
            weight.mul_(divisors)
        self._scales = torch.maximum(weight.amax(1), weight.amin(1).neg_()).div_(127).clamp_(min=1e-30)
        q = weight.div_(self._scales[:, None]).round_().to(torch.int8)
        self._blocks = torch.ops.onednn.qlinear_prepack(q, None)
        self._zeros = torch.zeros(len(q), dtype=torch.int32)
        biases = [
            torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float() for layer in layers
        ]
        self._bias = None if all(layer.bias is None for layer in layers) else torch.cat(biases)
        self._readers = len(layers)
        self._memo: tuple[weakref.ref[Tensor], Tensor] | None = None  # replaced whole: threads may share a model
        self._remaining = 0

    def __call__(self, input: Tensor) -> Tensor:
        """The outputs of all layers side by side, float32 (..., sum of N), bias included; the first layer to ask has
        them computed, the others of the same input take them."""
        memo = self._memo
        if memo is None or memo[0]() is not input:
            memo = self._memo = weakref.ref(input), self._product(input)
            self._remaining = self._readers
        self._remaining -= 1
        if self._remaining <= 0:
            self._memo = None
        return memo[1]

    def _product(self, input: Tensor) -> Tensor:
        flat = input.reshape(-1, input.shape[-1])
        return self.product(flat).view(*input.shape[:-1], -1)

    def product(
        self, x: Tensor, activation: str = "none", residual: Tensor | None = None, before: str | None = None
    ) -> Tensor:
        """The outputs of all layers side by side, (T, K) -> (T, sum of N), float32: the activation "gelu" or "relu" of
        them, or their sum with a residual (T, sum of N).

        `before` names the activation that `x` comes from ("none" where it comes from something else); where it is
        given, `x` is overwritten.
        """
        lowest = None if before is None or self._factors is not None else _LOWEST.get(before)
        if before is None:
            x = x.clone() if self._factors is None else x * self._factors
        elif self._factors is not None:
            x.mul_(self._factors)
        q, scale = quantize_tokens_(x, lowest)
        # uint8 with 128 for zero: for int8 inputs oneDNN has nothing but a reference loop, a thousand times slower
        output: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 128, self._blocks, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        output.mul_(scale)
        if self._bias is not None:
            output.add_(self._bias)
        if residual is not None:
            output.add_(residual)
        return ACTIVATIONS[activation](output)


class Int8Linear(nn.Module):
    """`torch.nn.Linear` by 8-bit products; input and output are float, (..., K) -> (..., N).

    Parameters
    ----------
    linear : nn.Linear
        The layer, float32. Its parameters are shared, so that what asks for their dtype finds it.
    product : Int8Product
        Of this layer, or of several with the same input.
    start : int
        The first column of this layer in the product.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import Int8Linear, Int8Product
    >>> from embedkit.system.cpu import cpu_has_int8
    >>> linear = torch.nn.Linear(64, 128)
    >>> quick = Int8Linear(linear, Int8Product([linear])) if cpu_has_int8() else linear
    >>> x = torch.randn(3, 64)
    >>> bool((quick(x) - linear(x)).abs().max() < 0.05)
    True
    """

    def __init__(self, linear: nn.Linear, product: Int8Product, start: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.product, self.start = product, start

    def forward(self, input: Tensor) -> Tensor:
        """Same leading axes, same dtype."""
        return self.product(input)[..., self.start : self.start + self.out_features].to(input.dtype)


class Int8Layers:
    """The 8-bit forms of linear layers, made once for their weights and kept as long as the layers live.

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

    def add(self, layers: Sequence[nn.Linear], peaks: Tensor | None) -> None:
        """Make the forms of layers that always see the same input."""
        product, start = Int8Product(layers, peaks), 0
        for layer in layers:
            self._layers[layer] = self._version(layer), Int8Linear(layer, product, start)
            start += layer.out_features

    @staticmethod
    def _version(module: nn.Linear) -> tuple[int, int]:
        return module.weight.data_ptr(), module.weight._version


class InputRecord:
    """What linear layers see in a few forward passes: the peaks of their inputs, and which see one input together.

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.int8 import InputRecord
    >>> q, k, o = (torch.nn.Linear(64, 64) for _ in range(3))
    >>> x = torch.ones(2, 64)
    >>> with InputRecord([q, k, o]) as record:
    ...     y = o(q(x) + k(x))
    >>> [len(group) for group in record.groups()], record.peaks[q].max().item()
    ([2, 1], 1.0)
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.peaks: dict[nn.Linear, Tensor] = {}
        self._layers = list(layers)
        self._groups: dict[nn.Linear, set[tuple[nn.Linear, ...]]] = {layer: set() for layer in layers}
        self._current: list[nn.Linear] = []
        self._input: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> InputRecord:
        self._hooks = [layer.register_forward_pre_hook(partial(self._note, layer)) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._input = None
        for hook in self._hooks:
            hook.remove()

    def _note(self, layer: nn.Linear, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note the inputs of a layer, or of a copy of it that runs in its place."""
        if inputs[0] is not self._input or layer in self._current:
            self._close()
            self._input = inputs[0]
        self._current.append(layer)
        largest = inputs[0].detach().reshape(-1, layer.in_features).abs().amax(0)
        self.peaks[layer] = torch.maximum(self.peaks[layer], largest) if layer in self.peaks else largest

    def _close(self) -> None:
        for layer in self._current:
            self._groups[layer].add(tuple(self._current))
        self._current = []

    def groups(self) -> list[tuple[nn.Linear, ...]]:
        """The layers in groups of those that saw one input each time; a layer whose company changed stands alone."""
        groups = {
            layer: next(iter(companies)) if len(companies) == 1 else (layer,)
            for layer, companies in self._groups.items()
        }
        whole = {group for group in groups.values() if all(groups[layer] == group for layer in group)}
        alone = [(layer,) for layer, group in groups.items() if group not in whole]
        return [*dict.fromkeys(group for group in groups.values() if group in whole), *alone]
