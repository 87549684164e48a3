"""Encoding on a CPU in few operations: products by oneDNN, with bias, activation and residual in the same pass.

torch multiplies float32 by MKL, which runs AVX2 instructions on processors that are not Intel's; oneDNN's kernels use
AVX-512 where the processor has it. A transformer layer built like BERT's runs as four products, two norms and its
attention, without copies in between. Only `encode` uses this: there is no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

from embedkit.models.execution.int8 import Int8Linear, Int8Product, linear_layers
from embedkit.models.execution.kernels import grouped_attention
from embedkit.models.execution.rebuild import rebuilt, shallow
from embedkit.system.cpu import cpu_has_avx512, cpu_has_bf16

_LAYERS = frozenset(
    {
        "BertLayer", "CamembertLayer", "Data2VecTextLayer", "ElectraLayer", "ErnieLayer", "RobertaLayer",
        "XLMRobertaLayer",
    }
)  # fmt: skip
"""Layers of transformers that compute what `FusedLayer` does: norms behind the residuals."""
_OWN = ("transformers.", "embedkit.models.execution.packing", "embedkit.models.execution.recompute")
_FLOATS = (torch.float32, torch.bfloat16)


def for_encoding(model: Any) -> Any:
    """`model` for a few calls of `encode`: itself, or on a CPU a tree of modules beside it whose layers are fused.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.execution.fused import for_encoding
    >>> for_encoding(nn.Tanh())
    Tanh()
    """
    device = next((parameter.device.type for parameter in model.parameters()), "none")
    if device != "cpu" or not cpu_has_avx512() or torch.is_autocast_enabled("cpu"):
        return model
    quick = {id(layer) for layer in linear_layers(model) if layer.weight.dtype == torch.float32}

    def change(module: nn.Module) -> nn.Module | None:
        if type(module).__name__ in _LAYERS:
            return _fused(module)
        return QuickLinear.of(module) if id(module) in quick else None  # type: ignore[arg-type]

    return rebuilt(model, change)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at what goes into a module or comes out, transformers and embedkit aside.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.execution.fused import has_hooks
    >>> module = nn.Tanh()
    >>> _ = module.register_forward_hook(lambda *_: None)
    >>> has_hooks(module), has_hooks(nn.Tanh())
    (True, False)
    """
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(not getattr(hook, "__module__", "").startswith(_OWN) for hook in hooks)


def product(x: Tensor, linear: nn.Linear, activation: str = "none", residual: Tensor | None = None) -> Tensor:
    """The output of a linear layer, (..., K) -> (..., N) in float32 or bf16, without gradient: the activation "gelu" or
    "relu" of it, or its sum with a residual (..., N).

    Examples
    --------
    >>> import torch
    >>> from embedkit.models.execution.fused import product
    >>> linear, x = torch.nn.Linear(64, 64), torch.randn(3, 64)
    >>> with torch.inference_mode():
    ...     bool((product(x, linear, "relu", None) - linear(x).relu()).abs().max() < 1e-5)
    True
    """
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, linear.weight, linear.bias, "add")
    how = "none" if activation == "gelu" else ""  # GELU's exact form, not that by tanh
    return torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, activation, [], how)


class QuickLinear(nn.Linear):
    """`torch.nn.Linear` by oneDNN in inference mode; it shares the parameters of the layer that it is made from.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.execution.fused import QuickLinear
    >>> linear = nn.Linear(64, 128)
    >>> QuickLinear.of(linear).weight is linear.weight
    True
    """

    @classmethod
    def of(cls, linear: nn.Linear) -> QuickLinear:
        """The quick form of a layer."""
        new = shallow(linear)
        new.__class__ = cls
        return new  # type: ignore[return-value]

    def forward(self, input: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if not torch.is_inference_mode_enabled() or input.dtype != self.weight.dtype or input.numel() == 0:
            return F.linear(input, self.weight, self.bias)
        return product(input, self)


def _fused(layer: nn.Module) -> nn.Module | None:
    """A copy of a transformers layer that runs fused; None where something of it is not as transformers builds it."""
    parts: Any = layer
    own, gone = parts.attention.self, parts.attention.output
    linears = (own.query, own.key, own.value, gone.dense, parts.intermediate.dense, parts.output.dense)
    kinds = {type(linear) for linear in linears}
    plain = kinds == {nn.Linear} and all(x.weight.dtype in _FLOATS for x in linears)
    eight = kinds == {Int8Linear} and len({id(x.product) for x in linears[:3]}) == 1
    activation = _activation(parts.intermediate.intermediate_act_fn)
    is_as_built = (
        (plain or eight)
        and activation is not None
        and type(gone.LayerNorm) is type(parts.output.LayerNorm) is nn.LayerNorm
        and not getattr(parts, "is_decoder", False)
        and not any(has_hooks(module) for module in list(layer.modules())[1:])
    )
    if not is_as_built:
        return None
    new = shallow(layer)
    object.__setattr__(new, "forward", FusedLayer(new, activation or "none"))
    return new


def _activation(module: Any) -> str | None:
    """The name of an activation that a product can end with."""
    if isinstance(module, GELUActivation) and module.act is F.gelu:
        return "gelu"
    if type(module) is nn.GELU and module.approximate == "none":
        return "gelu"
    return "relu" if type(module) is nn.ReLU else None


class FusedLayer:
    """The forward pass of a transformer layer that is built like BERT's, on one row of tokens (packed runs).

    Parameters
    ----------
    layer : nn.Module
        The layer of transformers, with float or 8-bit linear layers.
    activation : str
        "gelu" or "relu", between its last two linear layers.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from transformers import BertConfig
    >>> from transformers.models.bert.modeling_bert import BertLayer
    >>> from embedkit.models.execution.fused import FusedLayer
    >>> from embedkit.models.execution.plan import Plan
    >>> layer = BertLayer(BertConfig(hidden_size=12, intermediate_size=24)).eval()
    >>> with torch.inference_mode():
    ...     FusedLayer(layer, "gelu")(torch.randn(1, 5, 12), plan=Plan.of(np.array([2, 3]))).shape
    torch.Size([1, 5, 12])
    """

    def __init__(self, layer: nn.Module, activation: str) -> None:
        parts: Any = layer
        self._layer = parts
        self._activation = activation
        self._is_int8 = isinstance(parts.output.dense, Int8Linear)
        self._half = torch.bfloat16 if self._is_int8 and cpu_has_bf16() else None

    def __call__(self, hidden_states: Tensor, *others: Any, **settings: Any) -> Any:
        """(1, T, H) -> (1, T, H); without a plan, or with a soft prompt or a record, as transformers does."""
        plan = settings.get("plan")
        if plan is None or not {"prefix", "record"}.isdisjoint(settings) or not torch.is_inference_mode_enabled():
            return type(self._layer).forward(self._layer, hidden_states, *others, **settings)
        layer, x = self._layer, hidden_states[0]
        own = layer.attention.self
        flat = tuple(part.unflatten(-1, (-1, own.attention_head_size)) for part in self._projections(x, own))
        context = grouped_attention(flat, plan, own.scaling).flatten(1).to(x.dtype)  # (T, H)
        x = self._step(layer.attention.output, context, x, "none")
        inner = self._product(layer.intermediate.dense, x, self._activation, None, None)
        return self._step(layer.output, inner, x, self._activation)[None]

    def _projections(self, x: Tensor, own: Any) -> tuple[Tensor, ...]:
        """Query, key and value, each (T, heads * d)."""
        if not self._is_int8:
            return product(x, own.query), product(x, own.key), product(x, own.value)
        together = own.query.product.product(x)
        together = together if self._half is None else together.to(self._half)
        parts = (own.query, own.key, own.value)
        return tuple(together[:, part.start : part.start + part.out_features] for part in parts)

    def _product(self, linear: Any, x: Tensor, activation: str, residual: Tensor | None, before: str | None) -> Tensor:
        if self._is_int8:
            own: Int8Product = linear.product
            return own.product(x, activation, residual, before)
        return product(x, linear, activation, residual)

    def _step(self, part: Any, x: Tensor, residual: Tensor, before: str) -> Tensor:
        """The norm of a linear layer's output and a residual."""
        return part.LayerNorm(self._product(part.dense, x, "none", residual, before))
