"""One forward pass of masked texts that gives both their vectors and the losses of their hidden words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embedkit.models.modules.masked import hide_tokens, in_input_order
from embedkit.models.modules.poolers import pooler_of


def word_losses(states: Tensor, targets: np.ndarray, inputs: Any, head: Any, words: Any) -> Tensor:
    """For each text the sum of its losses and the number of its chosen tokens: (n, 2).

    Parameters
    ----------
    states : Tensor (T, H)
        Token vectors in the order of `inputs`.
    targets : bool array (T,)
        Chosen tokens.
    inputs : Inputs
        The texts as they are.
    head, words : MaskedHead, Embedding
        What guesses.

    Examples
    --------
    >>> from embedkit.models.inputs.inputs import Inputs
    >>> from embedkit.models.modules.masked import MaskedHead
    >>> texts, words = Inputs.of([[2, 1], [3]]), torch.nn.Embedding(4, 8)
    >>> words.weight.data.zero_()[:0]
    tensor([], size=(0, 8))
    >>> word_losses(torch.zeros(3, 8), np.array([True, False, False]), texts, MaskedHead(8, 4), words)
    tensor([[1.3863, 1.0000],
            [0.0000, 0.0000]], grad_fn=<StackBackward0>)
    """
    place = np.flatnonzero(targets)
    index = torch.from_numpy(place).to(inputs.device)
    owner = torch.from_numpy(inputs.owner[place]).to(inputs.device)
    logits = head(states[index], words.weight)  # (M, V)
    losses = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, inputs.ids[index],
                             reduction="none")  # fmt: skip
    zeros = losses.new_zeros(len(inputs))
    return torch.stack([zeros.index_add(0, owner, losses), zeros.index_add(0, owner, losses * 0 + 1)], dim=1)


def vectors_and_losses(model: Any, inputs: Any, rate: float, **settings: Any) -> Tensor:
    """Vectors of masked texts beside the sum and number of their masked-word losses, (n, D + 2).

    Parameters
    ----------
    model : TextEncoder
        With a ``mask_head``.
    inputs : Inputs
        The texts, with seeds.
    rate : float
        Share of tokens to hide.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import TextEncoder
    >>> from embedkit.models.modules.masked import MaskedHead
    >>> from transformers import BertConfig, BertModel
    >>> model = TextEncoder(BertModel(BertConfig(vocab_size=471, hidden_size=12, num_hidden_layers=1)), tokenizer())
    >>> model.mask_head = MaskedHead(12, 471)
    >>> texts = model.prepare(["a dog", "two cats"]).replace(seeds=np.array([1, 2], np.uint64))
    >>> vectors_and_losses(model, texts, 0.5).shape
    torch.Size([2, 14])
    """
    hidden = hide_tokens(inputs, model.tokenizer, rate)
    pooler = pooler_of(model.pooling)
    states = model.token_states(hidden.inputs, tuple({*pooler.layers, -1}), **settings)
    back = torch.from_numpy(states.plan.inverse()).to(inputs.device)
    vectors = model.project(pooler.pool(states).index_select(0, back))
    words = model.encoder.get_input_embeddings()
    losses = word_losses(in_input_order(states, inputs), hidden.targets, inputs, model.mask_head, words)
    return torch.cat([vectors, losses], dim=1)
