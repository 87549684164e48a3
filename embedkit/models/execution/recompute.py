"""Outputs of norms and activations that are computed again on the way back instead of kept.

A linear layer keeps its input for its gradient. That input is often the output of an activation or a norm, whose own
input is kept too. Of the two only the latter is held here (selective recomputation, Korthikanti et al. 2023, "Reducing
activation recomputation in large transformer models"): the same operation on the same numbers gives the same bits, for
a hundredth of the time of the product behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

_NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.RMSNorm)
_ACTIVATIONS = ("GELU", "GELUActivation", "NewGELUActivation", "QuickGELU", "QuickGELUActivation", "FastGELUActivation")


@dataclass(frozen=True)
class _Output:
    """How an output came about, while its storage lives."""

    module: nn.Module
    input: Tensor
    storage: StorageWeakRef
    version: int


@dataclass(frozen=True)
class _Again:
    """What is kept in place of a tensor: its maker, and which view of the output it was."""

    maker: _Output
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any  # an int, or torch's symbolic one

    def tensor(self) -> Tensor:
        with torch.no_grad():
            return self.maker.module.forward(self.maker.input).as_strided(self.size, self.stride, self.offset)


class Recompute:
    """A maker of contexts in whose forward passes the outputs of norms and GELUs are not kept.

    Parameters
    ----------
    model : nn.Module
        Its norms and activations get a forward hook each, which does nothing outside of a context.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    >>> recompute, x = Recompute(layers), torch.ones(3, 4)
    >>> with recompute.context():
    ...     output = layers(x)
    >>> output.sum().backward()
    >>> again = [parameter.grad.clone() for parameter in layers.parameters()]
    >>> layers.zero_grad()
    >>> layers(x).sum().backward()
    >>> all(torch.equal(a, p.grad) for a, p in zip(again, layers.parameters()))
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self._makers: dict[int, _Output] | None = None  # by the address of the storage, which its weak reference holds
        self._storages: dict[int, Any] | None = None
        for module in model.modules():
            if isinstance(module, _NORMS) or type(module).__name__ in _ACTIVATIONS:
                module.register_forward_hook(self._note)

    @contextmanager
    def context(self, storages: dict[int, Any] | None = None) -> Iterator[None]:
        """A context for one forward pass; its backward pass may come after it.

        `storages` is filled with the storages that are held for the way back, by their address.
        """
        self._makers, self._storages = {}, storages
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._makers = self._storages = None

    def _note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._makers is None or not torch.is_grad_enabled() or len(args) != 1:
            return
        (source,) = args
        # another type, as under autocast: a pass outside of it could give other numbers
        if source.dtype == output.dtype and output.is_contiguous() and output.storage_offset() == 0:
            storage = output.untyped_storage()
            maker = _Output(module, source.detach(), StorageWeakRef(storage), output._version)
            self._makers[storage._cdata] = maker

    def _pack(self, tensor: Tensor) -> Tensor | _Again:
        maker = None if self._makers is None else self._makers.get(tensor.untyped_storage()._cdata)
        if maker is None or maker.storage.expired() or maker.version != tensor._version:
            if self._storages is not None:
                self._storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor
        return _Again(maker, tensor.size(), tensor.stride(), tensor.storage_offset())

    @staticmethod
    def _unpack(item: Tensor | _Again) -> Tensor:
        return item.tensor() if isinstance(item, _Again) else item
