"""Modules that several methods put beside the model. Import this file inside functions: it needs torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.formats.transformers.masked_head import frozen_masked_model, masked_head
from embedkit.models.modules.masked import MaskedModel
from embedkit.models.modules.text import TextEncoder


class BatchNormProjector(nn.Module):
    """Linear(d, 2d) - BatchNorm - ReLU - Linear(2d, d) - BatchNorm without scale and shift, no biases.

    SimSiam's form (Chen and He 2021, section 3), as DiffCSE uses it (Chuang et al. 2022, section 4.1). In training its
    statistics are those of the rows given, so call it once with all rows that belong together.

    Examples
    --------
    >>> BatchNormProjector(8)(torch.ones(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, 2 * size, bias=False), nn.BatchNorm1d(2 * size), nn.ReLU(),
            nn.Linear(2 * size, size, bias=False), nn.BatchNorm1d(size, affine=False),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """(N, d) -> (N, d)."""
        return self.layers(z)


def tanh_head(model: Any) -> nn.Sequential:
    """SimCSE's head on the model's vectors: Linear(d, d) - Tanh, with the start that BERT's layers have.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> tanh_head(SimpleNamespace(training_dim=4))(torch.ones(2, 4)).shape
    torch.Size([2, 4])
    """
    layer = nn.Linear(model.training_dim, model.training_dim)
    config = model.encoder.config if isinstance(model, TextEncoder) else None
    nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.Tanh())


class Frozen(nn.Module):
    """A module that moves with the others to a device or type, but is in no state dict and has no parameters.

    What is loaded from files or copied before the first step is there again after a resume; it needs no checkpoint.

    Parameters
    ----------
    module : nn.Module
        What is held.
    dropout : bool
        Whether it follows `train`; without, it stays in evaluation mode.

    Examples
    --------
    >>> teacher = Frozen(nn.Linear(2, 2))
    >>> list(teacher.parameters()), teacher.state_dict(), teacher.module
    ([], OrderedDict(), Linear(in_features=2, out_features=2, bias=True))
    """

    def __init__(self, module: nn.Module, dropout: bool = False) -> None:
        super().__init__()
        self._box = [module.requires_grad_(False)]  # in a list: not registered
        self.dropout = dropout
        module.train(dropout)

    @property
    def module(self) -> Any:
        """What is held."""
        return self._box[0]

    def train(self, mode: bool = True) -> Frozen:
        """As torch's; the held module follows with `dropout` only."""
        super().train(mode)
        self.module.train(mode and self.dropout)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[return-value]


def generator(name: str | None, model: Any, dropout: bool) -> Frozen:
    """A frozen masked language model with the same vocabulary as `model`.

    Parameters
    ----------
    name : str or None
        Folder or hub id; None is a copy of the model itself as it is before training.
    dropout : bool
        Whether its dropout is on while the model trains.

    Raises
    ------
    ModelError
        When the vocabularies differ.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = build(ModelConfig(config=config, tokenizer="builtin"), 0)
    >>> type(generator(None, model, dropout=True).module).__name__
    'MaskedModel'
    """
    if name is None:
        encoder = copy.deepcopy(model)
        return Frozen(MaskedModel(encoder, masked_head(model)), dropout)
    masked_model = frozen_masked_model(name)
    if masked_model.model.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise ModelError(
            "the generator has another vocabulary than the model", where=name,
            remedy="use a masked language model with the same tokenizer",
        )  # fmt: skip
    return Frozen(masked_model, dropout)


def need_text(model: Any) -> TextEncoder:
    """`model`, which must be a transformers text encoder.

    Raises
    ------
    ModelError
        When it is another kind of model.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> need_text(build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0))
    Traceback (most recent call last):
    embedkit.errors.ModelError: model: a static model has no layers of tokens; use a transformers text encoder
    """
    if not isinstance(model, TextEncoder):
        raise ModelError(
            f"a {model.kind} model has no layers of tokens", where="model", remedy="use a transformers text encoder"
        )
    return model


def own_rows(owner: Tensor, rows: slice) -> Tensor:
    """Which entries (N,) belong to the rows of this process, bool.

    Examples
    --------
    >>> own_rows(torch.tensor([0, 0, 1, 2]), slice(0, 1))
    tensor([ True,  True, False, False])
    """
    return (owner >= rows.start) & (owner < rows.stop)


def a_row_each(batch: Any, count: int) -> None:
    """Make a row of its own of each of the `count` anchors that every row of a batch has, in order.

    Anchors of one row are then negatives of each other, as those of other rows are. For rows without labels.

    Examples
    --------
    >>> from embedkit.objectives.base import ObjectiveBatch
    >>> batch = ObjectiveBatch.of({"anchor": torch.eye(4)}, size=2, rows=slice(1, 2), ids=torch.tensor([5, 6]))
    >>> a_row_each(batch, 2)
    >>> batch.size, batch.rows, batch.owner["anchor"].tolist(), batch.ids.tolist()
    (4, slice(2, 4, None), [0, 1, 2, 3], [10, 11, 12, 13])
    """
    batch.size *= count
    batch.rows = slice(batch.rows.start * count, batch.rows.stop * count)
    place = torch.arange(batch.size, device=batch.ids.device)
    batch.ids = batch.ids[place // count] * count + place % count
    batch.owner = dict.fromkeys(("anchor", "positive"), place)
    batch.keys = {name: place + batch.size * i for i, name in enumerate(batch.owner)}


def replace_first(hidden: Tensor, inputs: Any) -> Tensor:
    """The edit that puts ``inputs.data["first"]`` (N, H) in the place of each text's first token.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> hidden = torch.zeros(3, 2)  # a text of two tokens, and one of one
    >>> inputs = SimpleNamespace(offsets=np.array([0, 2, 3]), data={"first": torch.ones(2, 2)})
    >>> replace_first(hidden, inputs)
    tensor([[1., 1.],
            [0., 0.],
            [1., 1.]])
    """
    starts = torch.from_numpy(inputs.offsets[:-1]).to(hidden.device)
    return hidden.index_copy(0, starts, inputs.data["first"].to(hidden.dtype))
