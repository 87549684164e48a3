"""The base of models that are made of models."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.models.base import Model


class CombinedModel(Model):
    """A model whose members are models, each written into a folder of its own.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.combined.concatenation import EncoderConcatenation
    >>> model = EncoderConcatenation([StaticEncoder(tokenizer(), dim=4), StaticEncoder(tokenizer(), dim=2)])
    >>> [name for name in model.tensors()], [member.dim for member in model.models]
    (['0.embedding.weight', '1.embedding.weight'], [4, 2])
    """

    members: nn.ModuleList

    @property
    def models(self) -> list[Model]:
        """The members in their order."""
        return [member for member in self.members if isinstance(member, Model)]

    @property
    def names(self) -> list[str]:
        """A name for each member, which its weights have in front of their own."""
        return [str(number) for number in range(len(self.models))]

    @property
    def mixes_inputs(self) -> bool:
        """See `Model.mixes_inputs`."""
        return any(member.mixes_inputs for member in self.models)

    @property
    def device(self) -> torch.device:
        """The device of the first member."""
        return self.models[0].device

    def own_spec(self) -> dict[str, Any]:
        """The settings that are not those of members."""
        raise TypeError(f"{type(self).__name__} does not define own_spec")

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {"members": [{"kind": member.kind, **member.spec()} for member in self.models], **self.own_spec()}

    def tokenizer_json(self) -> str:
        """The hash of each member's tokenizer."""
        texts = [member.tokenizer_json() for member in self.models]
        return json.dumps([hashlib.sha256(text.encode()).hexdigest() for text in texts])

    def tensors(self) -> dict[str, Tensor]:
        """The members' weights as they are saved, by the member's name and their own."""
        return {
            f"{prefix}.{name}": tensor
            for prefix, member in zip(self.names, self.models, strict=True)
            for name, tensor in member.tensors().items()
        }
