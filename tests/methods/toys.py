"""Tiny encoders, inputs with seeds, and a plain restatement of BERT for the tests of methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from embedkit.models.inputs.inputs import Inputs
from embedkit.objectives.base import ObjectiveBatch
from tests.helpers import tiny

TEXTS = ["a man is playing guitar", "the dog", "two children are running in the green park with a dog", "who sings"]

REQUIRED: dict[str, dict[str, Any]] = {"graph-supcon": {"associations": "builtin:inference-train"}}
"""Method -> the settings that it has no default for."""


def encoder(family: str = "bert", **settings: Any) -> Any:
    """A random text encoder in float64 and training mode, without dropout."""
    return tiny.text_encoder(family, dropout=0.0, **settings).double().train()


def seeded(inputs: Inputs, salt: int = 0) -> Inputs:
    """The inputs with seeds 1, 2, 3 ..."""
    return inputs.replace(seeds=np.arange(1, len(inputs) + 1, dtype=np.uint64) + np.uint64(salt * 1000))


def batch(outputs: dict[str, torch.Tensor], size: int, rows: slice | None = None, **known: Any) -> ObjectiveBatch:
    """A batch with one input a row under every name."""
    every = torch.arange(size)
    return ObjectiveBatch(
        size=size, rows=rows or slice(0, size), owner=dict.fromkeys(outputs, every),
        keys={name: every + 100 * i for i, name in enumerate(outputs)}, ids=every, **known,
    )  # fmt: skip


def bert(model: Any, ids: list[int], positions: list[int], first: Any = None, prefix: Any = None) -> torch.Tensor:
    """Last hidden states (l, H) of one sequence by the formulas of BERT.

    `first` replaces the embedding layer's first row; `prefix` (layers, 2, heads, p, d) are keys and values in front.
    """
    core = model.encoder
    e = core.embeddings
    x = e.word_embeddings.weight[ids] + e.position_embeddings.weight[positions] + e.token_type_embeddings.weight[0]
    x = e.LayerNorm(x)
    if first is not None:
        x = torch.cat([first[None], x[1:]])
    heads = core.config.num_attention_heads
    for number, layer in enumerate(core.encoder.layer):
        own = layer.attention.self
        q, k, v = (f(x).unflatten(1, (heads, -1)).transpose(0, 1) for f in (own.query, own.key, own.value))
        if prefix is not None:
            k, v = torch.cat([prefix[number, 0], k], 1), torch.cat([prefix[number, 1], v], 1)
        p = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, -1)
        mixed = (p @ v).transpose(0, 1).flatten(1)
        x = layer.attention.output.LayerNorm(x + layer.attention.output.dense(mixed))
        x = layer.output.LayerNorm(x + layer.output.dense(F.gelu(layer.intermediate.dense(x))))
    return x
