"""A tree of modules beside another one, some of its modules replaced and everything else shared."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from embedkit.errors import ModelError

_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
          "_forward_pre_hooks_with_kwargs")  # fmt: skip


def shallow(module: nn.Module) -> Any:
    """A copy of a module that shares its parameters, buffers, children and hooks; what `copy.copy` gives, in a tenth of
    the time.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.execution.rebuild import shallow
    >>> linear = nn.Linear(2, 2)
    >>> other = shallow(linear)
    >>> other is linear, other.weight is linear.weight
    (False, True)
    """
    new = object.__new__(type(module))
    vars(new).update(vars(module))
    return new


def rebuilt(root: Any, change: Callable[[nn.Module], nn.Module | None]) -> Any:
    """A tree of modules beside that of `root`: each is what `change` gives for it, or a copy that shares everything but
    its children and its hooks.

    Hooks are copied, for transformers registers some on a model in use and notes on the model that it did: shared, they
    would be registered again for each new tree.

    Examples
    --------
    >>> from torch import nn
    >>> from embedkit.models.execution.rebuild import rebuilt
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> other = rebuilt(model, lambda module: nn.Tanh() if isinstance(module, nn.ReLU) else None)
    >>> other, other[0].weight is model[0].weight, model[1]
    (Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Tanh()
    ), True, ReLU())
    """
    memo: dict[int, nn.Module] = {}

    def rebuild(module: nn.Module) -> nn.Module:
        if id(module) not in memo:
            new = change(module)
            new = shallow(module) if new is None else new
            memo[id(module)] = new
            if new._modules is module._modules:
                new._modules = {k: None if v is None else rebuild(v) for k, v in module._modules.items()}
                for name in _HOOKS:
                    vars(new)[name] = OrderedDict(vars(module)[name])
        return memo[id(module)]

    return rebuild(root)


POST_NORM = frozenset(
    {
        "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "mpnet", "roberta", "xlm-roberta",
    }
)  # fmt: skip
"""Architectures whose encoder ends with a layer and no further norm: cut short it is an encoder again."""


def first_layers(encoder: Any, count: int) -> Any:
    """A transformers encoder that ends after its first `count` layers; the weights are shared.

    Raises
    ------
    ModelError
        It has fewer layers, or an architecture that cannot be cut.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> encoder = BertModel(BertConfig(hidden_size=12, num_hidden_layers=4, intermediate_size=8))
    >>> short = first_layers(encoder, 2)
    >>> len(short.encoder.layer), short.config.num_hidden_layers, encoder.config.num_hidden_layers
    (2, 2, 4)
    """
    config = encoder.config
    if config.model_type not in POST_NORM:
        raise ModelError(
            f"a {config.model_type} encoder cannot be cut to fewer layers", where="layers",
            remedy=f"use one of {', '.join(sorted(POST_NORM))}",
        )  # fmt: skip
    total = int(config.num_hidden_layers)
    if not 1 <= count <= total:
        raise ModelError(f"{count} layers of {total}", where="layers", remedy=f"give 1 to {total}")

    def change(module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.ModuleList) and len(module) == total:
            return nn.ModuleList(list(module)[:count])
        return None

    short = rebuilt(encoder, change)
    short.config = copy.deepcopy(config)
    short.config.num_hidden_layers = count
    return short
