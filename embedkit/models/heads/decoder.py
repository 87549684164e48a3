"""Decoders that restore the tokens of a text from its vector; they are trained beside the encoder and then dropped.

A decoder attends to a memory of length one, the text's vector: the softmax over one key is 1, so this attention is a
linear map of the vector that every token gets, and has neither queries nor keys. All run on real tokens only, packed
as `embedkit.models.execution.packing` does it; texts stand in the order of a plan.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.execution.attention import causal_bias, packed_attention
from embedkit.models.execution.kernels import Dropout
from embedkit.models.execution.packing import is_packable, position_offset
from embedkit.models.execution.plan import Plan
from embedkit.models.inputs.inputs import Inputs

LIKE_BERT = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})
"""Encoders whose layers are an attention block and a feed-forward block, each with its norm behind the residual."""


def need_like_bert(encoder: Any) -> None:
    """Refuse an encoder whose layers a decoder cannot use.

    Raises
    ------
    ModelError
        Naming those that can be used.

    Examples
    --------
    >>> from transformers import T5Config, T5EncoderModel
    >>> need_like_bert(T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1)))
    Traceback (most recent call last):
    embedkit.errors.ModelError: model: a decoder cannot be made of t5; use an encoder of bert, camembert, roberta, ...
    """
    kind = encoder.config.model_type
    if kind not in LIKE_BERT or not is_packable(encoder):
        raise ModelError(
            f"a decoder cannot be made of {kind}", where="model",
            remedy=f"use an encoder of {', '.join(sorted(LIKE_BERT))}",
        )  # fmt: skip


class FromVector(nn.Module):
    """Attention of tokens to a memory of one vector, with residual and norm behind it.

    Parameters
    ----------
    memory, size : int
        Size of the memory's vector and of a token vector.
    heads : int
        Dropout of attention weights drops a head of a token as a whole.
    dropout, attention_dropout : float
        Rates.
    eps : float
        Of the layer norm.

    Examples
    --------
    >>> block = FromVector(memory=4, size=6, heads=2)
    >>> block(torch.zeros(3, 6), torch.ones(2, 4), torch.tensor([0, 0, 1])).shape
    torch.Size([3, 6])
    """

    def __init__(
        self, memory: int, size: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.value, self.output = nn.Linear(memory, size), nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, eps=eps)
        self.heads = heads
        self.dropout, self.attention_dropout = Dropout(dropout), Dropout(attention_dropout)

    def forward(self, states: Tensor, memory: Tensor, owner: Tensor) -> Tensor:
        """Token vectors (T, H) from those before, the memory (N, M), and the text of each token, int64 (T,)."""
        value = self.value(memory)  # (N, H)
        if self.training and self.attention_dropout.p > 0:
            weights = self.attention_dropout(value.new_ones(len(owner), self.heads, 1))
            value = value.index_select(0, owner).unflatten(1, (self.heads, -1))
            share = self.output((weights * value).flatten(1))
        else:
            share = self.output(value).index_select(0, owner)
        return self.norm(states + self.dropout(share))


def owners(plan: Plan, device: torch.device) -> Tensor:
    """The place in the plan of the text of each token, int64 (T,).

    Examples
    --------
    >>> import numpy as np
    >>> owners(Plan.of(np.array([2, 1])), torch.device("cpu"))
    tensor([0, 1, 1])
    """
    lengths = torch.from_numpy(plan.lengths).to(device)
    return torch.arange(len(lengths), device=device).repeat_interleave(lengths, output_size=plan.tokens)


class CausalDecoder(nn.Module):
    """What makes a decoder of an encoder built like BERT: attention to the text's vector in each of its layers.

    The layers themselves are those of the encoder that `forward` is given; each token sees those before it.

    Parameters
    ----------
    encoder : PreTrainedModel
        A transformers encoder of `LIKE_BERT`, prepared for packed runs.
    memory : int
        Size of the text's vector.

    Raises
    ------
    ModelError
        An encoder of another architecture.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> from embedkit.models.execution.attention import ATTENTION
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1)
    >>> encoder = BertModel._from_config(config, attn_implementation=ATTENTION)
    >>> texts = Inputs.of([[2, 7, 8], [2, 9]])
    >>> CausalDecoder(encoder, memory=12)(encoder, texts, torch.zeros(2, 12), Plan.of(texts.costs)).shape
    torch.Size([5, 12])
    """

    def __init__(self, encoder: Any, memory: int) -> None:
        super().__init__()
        need_like_bert(encoder)
        config = encoder.config
        self.cross = nn.ModuleList(
            FromVector(
                memory, config.hidden_size, config.num_attention_heads, config.hidden_dropout_prob,
                config.attention_probs_dropout_prob, config.layer_norm_eps,
            )
            for _ in range(config.num_hidden_layers)
        )  # fmt: skip
        for layer in (layer for block in self.cross for layer in (block.value, block.output)):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=config.initializer_range)
            nn.init.zeros_(layer.bias)

    def forward(self, encoder: Any, ordered: Inputs, memory: Tensor, plan: Plan) -> Tensor:
        """Token vectors (T, H) of texts in the order of the plan, from their vectors (N, M) in the same order."""
        states = embedded(encoder, ordered)  # (T, H)
        owner, bias = owners(plan, states.device), causal_bias(plan.longest, states)
        mask = torch.zeros(1, 1, 1, 1, device=states.device)
        for layer, cross in zip(encoder.encoder.layer, self.cross, strict=True):
            states = layer.attention(states[None], mask, plan=plan, position_bias=bias)[0][0]
            states = cross(states, memory, owner)
            states = layer.feed_forward_chunk(states[None])[0]
        return states


def embedded(encoder: Any, inputs: Inputs) -> Tensor:
    """What the embedding layer of an encoder built like BERT makes of the tokens, (T, H).

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> embedded(BertModel(BertConfig(hidden_size=12, num_hidden_layers=1)), Inputs.of([[2, 7], [2]])).shape
    torch.Size([3, 12])
    """
    places = torch.from_numpy(inputs.places + position_offset(encoder)).to(inputs.device)
    states: Tensor = encoder.embeddings(input_ids=inputs.ids[None], position_ids=places[None])[0]
    return states


class DecoderLayer(nn.Module):
    """A decoder layer over packed texts: self-attention, `FromVector`, feed-forward, norms behind the residuals.

    It is the layer of Vaswani et al. (2017, section 3.1) as torch has it, with a memory of length one.

    Parameters
    ----------
    memory, size, inner : int
        Size of the text's vector, of a token vector, and of the feed-forward block.
    heads : int
        Heads of the self-attention.
    dropout : float
        Rate everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> plan = Plan.of(np.array([1, 2]))
    >>> layer = DecoderLayer(memory=4, size=6, heads=1, inner=8, dropout=0.0)
    >>> layer(torch.zeros(3, 6), torch.ones(2, 4), plan).shape
    torch.Size([3, 6])
    """

    def __init__(self, memory: int, size: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.projection, self.output = nn.Linear(size, 3 * size), nn.Linear(size, size)
        nn.init.xavier_uniform_(self.projection.weight)
        for bias in (self.projection.bias, self.output.bias):
            nn.init.zeros_(bias)
        self.cross = FromVector(memory, size, heads, dropout, dropout)
        self.inner, self.outer = nn.Linear(size, inner), nn.Linear(inner, size)
        self.attention_norm, self.norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout, self.heads = Dropout(dropout), heads

    def forward(self, states: Tensor, memory: Tensor, plan: Plan) -> Tensor:
        """Token vectors (T, H) from those before and the texts' vectors (N, M), both in the order of the plan."""
        heads = self.projection(states).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # (3, heads, T, d)
        rate = self.dropout.p if self.training else 0.0
        query, key, value = (x[None] for x in heads)
        mixed, _ = packed_attention(self, query, key, value, None, dropout=rate, plan=plan)
        states = self.attention_norm(states + self.dropout(self.output(mixed[0].flatten(1))))
        states = self.cross(states, memory, owners(plan, states.device))
        return self.norm(states + self.dropout(self.outer(self.dropout(F.relu(self.inner(states))))))


def token_loss(head: Any, words: Tensor, states: Tensor, targets: Tensor) -> Tensor:
    """Sum over tokens of the cross-entropy of a masked-word head, from token vectors (T, H) and token ids (T,).

    Examples
    --------
    >>> from embedkit.models.modules.masked import MaskedHead
    >>> loss = token_loss(MaskedHead(size=4, words=8), torch.zeros(8, 4), torch.ones(3, 4), torch.tensor([1, 2, 3]))
    >>> round(loss.item(), 4)  # 3 log 8
    6.2383
    """
    logits = head(states, words)  # (T, V)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="sum")
