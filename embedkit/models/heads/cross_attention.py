"""Layers in which tokens of a text look at tokens of an image: a fusion encoder and a caption decoder are made of them.

Both are trained beside two towers and then dropped. A layer is CoCa's (Yu et al. 2022, section 3.2): a block of
self-attention, then one of attention to the image, each with a feed-forward part and its norms in front. Names of
weights are those of open_clip's multimodal decoder. Texts are padded: captions of one chunk are about equally long.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.text import TextEncoder


def token_width(tower: Any) -> int:
    """Size of a token's vector in a text tower.

    Raises
    ------
    ModelError
        The tower has no vectors of tokens.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> token_width(build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0))
    Traceback (most recent call last):
    embedkit.errors.ModelError: model.towers.text: a static text tower has no vectors of tokens; use ...
    """
    if not isinstance(tower, TextEncoder) and not hasattr(tower, "padded_states"):
        raise ModelError(
            f"a {tower.kind} text tower has no vectors of tokens", where="model.towers.text",
            remedy="use a transformers text encoder, or CLIP's",
        )  # fmt: skip
    return int(tower.hidden_size)


def padded_ids(inputs: Inputs) -> Tensor:
    """Token ids of texts, int64 (n, L), with 0 behind shorter ones.

    Examples
    --------
    >>> padded_ids(Inputs.of([[2, 7, 3], [2, 3]])).tolist()
    [[2, 7, 3], [2, 3, 0]]
    """
    there = _there(inputs)
    return torch.zeros(there.shape, dtype=inputs.ids.dtype, device=inputs.device).masked_scatter(there, inputs.ids)


def real_tokens(tower: Any, inputs: Inputs) -> Tensor:
    """Which tokens of texts are there, bool (n, L): neither behind a shorter text nor the filler of a fixed length.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> real_tokens(SimpleNamespace(filler=0), Inputs.of([[2, 7, 3], [2, 3, 0]])).tolist()
    [[True, True, True], [True, True, False]]
    """
    there, filler = _there(inputs), getattr(tower, "filler", None)
    return there if filler is None else there & (padded_ids(inputs) != filler)


def token_vectors(tower: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """What a text tower makes of each token: states (n, L, H) in input order, and `real_tokens` (n, L).

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> tower = build(ModelConfig(config=config, tokenizer="builtin"), 0)
    >>> states, real = token_vectors(tower, Inputs.of([[2, 7, 3], [2, 3]]))
    >>> states.shape, real.tolist()
    (torch.Size([2, 3, 8]), [[True, True, True], [True, True, False]])
    """
    real = real_tokens(tower, inputs)
    if not isinstance(tower, TextEncoder):
        return tower.padded_states(inputs), real
    output = tower.token_states(inputs)
    flat = output.layers[-1]  # (T, H) in the order of the plan
    ordered = _there(inputs.select(output.plan.order))[:, :, None]
    table = flat.new_zeros(*real.shape, flat.shape[1]).masked_scatter(ordered, flat)
    return table[torch.from_numpy(output.plan.inverse()).to(flat.device)], real


def _there(inputs: Inputs) -> Tensor:
    costs = torch.from_numpy(inputs.costs)
    return (torch.arange(int(costs.max()))[None] < costs[:, None]).to(inputs.device)


class Attention(nn.Module):
    """Attention with several heads, of torch's layout of weights; (n, L, W) to (n, M, W).

    Parameters
    ----------
    width, heads : int
        Of the vectors; heads divide the width.

    Examples
    --------
    >>> attention = Attention(8, 2)
    >>> seen = []
    >>> attention(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8), record=seen).shape, seen[0].shape
    (torch.Size([1, 3, 8]), torch.Size([1, 2, 3, 5]))
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"{heads} heads do not divide a width of {width}", remedy="set another number of heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:  # fmt: skip
        """Of `x` (n, L, W) to `memory` (n, M, W); `mask` (n or 1, 1, L or 1, M), bool, says what may be looked at.

        With `record` the probabilities (n, heads, L, M) are added to it, as part of the graph.
        """
        query, rest = self.in_proj_weight.split([x.shape[2], 2 * x.shape[2]])
        query_bias, rest_bias = self.in_proj_bias.split([x.shape[2], 2 * x.shape[2]])
        q = F.linear(x, query, query_bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = F.linear(memory, rest, rest_bias).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if record is None:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
            record.append((scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1))
            mixed = record[-1] @ v
        attended: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Attention and a feed-forward part, norms in front of both; with `memory` the attention is to other tokens.

    Examples
    --------
    >>> Block(8, 2, inner=16, memory=True)(torch.zeros(1, 3, 8), torch.ones(1, 5, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, inner: int, memory: bool = False) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if memory:
            self.ln_1_kv = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, inner), "c_proj": nn.Linear(inner, width)})

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:  # fmt: skip
        """Vectors (n, L, W) from those before, with a memory (n, M, W) where it was made for one."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed if memory is None else self.ln_1_kv(memory), mask, record)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Layers of two blocks each, one within the text and one to the image, and a norm behind the last.

    Parameters
    ----------
    width, layers, heads : int
        Of the vectors of both; the feed-forward parts are four times as wide.
    causal : bool
        Whether a token sees those before it only.

    Examples
    --------
    >>> layers = CrossAttention(8, layers=1, heads=2, causal=True)
    >>> layers(torch.zeros(2, 3, 8), torch.ones(2, 5, 8)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, width: int, layers: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.resblocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.cross_attn = nn.ModuleList(Block(width, heads, 4 * width, memory=True) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        for block in (*self.resblocks, *self.cross_attn):
            for out in (block.attn.out_proj, block.mlp["c_proj"]):  # type: ignore[union-attr,operator,index]
                nn.init.normal_(out.weight, std=(2 * layers * width) ** -0.5)
                nn.init.zeros_(out.bias)

    def forward(
        self, x: Tensor, memory: Tensor, real: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:  # fmt: skip
        """Vectors (n, L, W) of texts that look at images (n, M, W).

        Parameters
        ----------
        x, memory : Tensor
            Tokens of texts and of their images.
        real : Tensor (n, L) of bool, optional
            Which tokens there are; the others are not looked at.
        record : list, optional
            Gets the probabilities of attention to the image, one (n, heads, L, M) a layer.
        """
        mask = None if real is None else real[:, None, None]
        if self.causal:
            earlier = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()[None, None]
            mask = earlier if mask is None else earlier & mask
        for block, cross in zip(self.resblocks, self.cross_attn, strict=True):
            x = cross(block(x, mask=mask), memory, record=record)
        normed: Tensor = self.ln_final(x)
        return normed


class TokenPool(nn.Module):
    """Vectors of patches for a memory: pooled by learned queries (CoCa, section 3.2), or each by itself.

    Parameters
    ----------
    inputs, width : int
        Size of a patch's vector and of what is given.
    queries : int
        How many vectors of an image there will be; 0 for one of each patch.
    heads : int
        Of the pooling attention.

    Examples
    --------
    >>> TokenPool(6, 8, queries=2, heads=2)(torch.zeros(3, 5, 6)).shape, TokenPool(6, 8)(torch.zeros(3, 5, 6)).shape
    (torch.Size([3, 2, 8]), torch.Size([3, 5, 8]))
    """

    def __init__(self, inputs: int, width: int, queries: int = 0, heads: int = 1) -> None:
        super().__init__()
        self.norm, self.inputs = nn.LayerNorm(inputs), nn.Linear(inputs, width)
        self.queries = nn.Parameter(torch.randn(queries, width)) if queries else None
        if queries:
            self.query_norm, self.attn, self.outputs = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, P, inputs) -> (n, queries or P, width)."""
        patches: Tensor = self.inputs(self.norm(tokens))
        if self.queries is None:
            return patches
        queries = self.query_norm(self.queries).expand(len(patches), -1, -1)
        pooled: Tensor = self.outputs(self.attn(queries, patches))
        return pooled
