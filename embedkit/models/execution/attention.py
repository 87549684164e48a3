"""Attention within each sequence of a pack, behind transformers' attention interface.

On a CPU: batched products per group of equal lengths (see `embedkit.models.execution.kernels`). On a GPU, where many
small kernels cost more: one launch of torch's flash or memory-efficient kernel for ragged sequences, with dropout too.
What these kernels do not take (a bias, a window, a prefix, float64, odd sizes of heads) is one call over queries, keys
and values that are padded for this call only; linear layers never see padding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from embedkit.models.execution.kernels import Dropout, GroupedAttention, grouped_attention, score_bias

if TYPE_CHECKING:
    from embedkit.models.execution.plan import Plan

ATTENTION = "embedkit_packed"


@torch.compiler.disable
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    plan: Plan | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    prefix: Tensor | None = None,
    record: dict[int, list[Tensor]] | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed run, (1, T, heads, d), from query, key and value (1, heads, T, d); transformers calls it.

    Without a `plan` this is transformers' own attention. `position_bias` (1, heads, L, L) is added to the scores and
    cut to each sequence (it depends on distances only); a token sees those nearer than `sliding_window`. `prefix`
    (layers, 2, N, heads, p, d) are keys and values that every token of a sequence sees besides; `record` is filled
    with the probabilities of each layer, one (n, heads, l, l) a group.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.models.execution.plan import Plan
    >>> plan = Plan.of(np.array([2, 3]))
    >>> x = torch.ones(1, 2, 5, 4)  # heads and tokens of two texts
    >>> packed_attention(nn.Module(), x, x, x, None, plan=plan)[0].shape
    torch.Size([1, 5, 2, 4])
    """
    if plan is None:
        if prefix is not None:
            key, value, attention_mask = _with_prefix(key, value, attention_mask, prefix[module.layer_idx])  # type: ignore[index]
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            position_bias=position_bias, sliding_window=sliding_window, **settings,
        )  # fmt: skip
    flat = tuple(x[0].transpose(0, 1) for x in (query, key, value))  # each (T, heads, d)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and plan.longest > sliding_window else None
    if prefix is not None:
        own = prefix[module.layer_idx]  # type: ignore[index]
        return padded_attention(flat, plan, scale, dropout, position_bias, window, own).unsqueeze(0), None
    if record is not None:
        output, probabilities = _recorded_attention(flat, plan, scale, dropout, position_bias, window)
        record[int(module.layer_idx)] = probabilities  # type: ignore[arg-type]
        return output.unsqueeze(0), None
    if query.device.type != "cpu":
        if position_bias is None and window is None and _is_ragged(query):
            ragged = _varlen_attention if _has_varlen(query, dropout, scale) else jagged_attention
            return ragged(flat, plan, scale, dropout).unsqueeze(0), None
        return padded_attention(flat, plan, scale, dropout, position_bias, window).unsqueeze(0), None
    return grouped_attention(flat, plan, scale, dropout, position_bias, window).unsqueeze(0), None


def padded_attention(
    flat: tuple[Tensor, ...], plan: Plan, scale: float, dropout: float, bias: Tensor | None, window: int | None,
    prefix: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention within each sequence, (T, heads, d), by one call over sequences that are padded for this call only.

    `prefix` (2, N, heads, p, d) are further keys and values of each sequence.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.models.execution.plan import Plan
    >>> plan = Plan.of(np.array([2, 3]))
    >>> x = torch.ones(5, 2, 4)
    >>> padded_attention((x, x, x), plan, 0.5, dropout=0.0, bias=None, window=None).shape
    torch.Size([5, 2, 4])
    """
    places, real = _padding(plan, flat[0].device)
    count, longest = real.shape
    rows = [x.new_zeros(count * longest, *x.shape[1:]).index_copy(0, places, x) for x in flat]
    q, k, v = (x.unflatten(0, (count, longest)).transpose(1, 2) for x in rows)
    mask = real[:, None, None, :]  # (N, 1, 1, L)
    added = score_bias(longest, bias, window, q)
    if added is not None:
        mask = added.masked_fill(~mask, -torch.inf)
        # a padded query may see nothing within its window; its row must not be empty, for softmax gives NaN there
        mask = mask.masked_fill(~real[:, None, :, None], 0.0)
    if prefix is not None:
        k, v, visible = _with_prefix(k, v, mask, prefix)
        assert visible is not None
        mask = visible
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, places)


def causal_bias(length: int, like: Tensor) -> Tensor:
    """What is added to scores, (1, 1, L, L): minus infinity for tokens that come later.

    Examples
    --------
    >>> causal_bias(2, torch.zeros(()))
    tensor([[[[0., -inf],
              [0., 0.]]]])
    """
    later = torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill_(later, -torch.inf)[None, None]


def _with_prefix(
    key: Tensor, value: Tensor, mask: Tensor | None, prefix: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values (N, heads, L, d) with those of `prefix` (2, N, heads, p, d) in front, visible to everybody."""
    own, owned = prefix[0].to(key.dtype), prefix[1].to(value.dtype)
    if mask is not None:
        visible = mask.new_ones(()) if mask.dtype == torch.bool else mask.new_zeros(())
        mask = torch.cat([visible.expand(*mask.shape[:-1], prefix.shape[3]), mask], dim=-1)
    return torch.cat([own, key], dim=2), torch.cat([owned, value], dim=2), mask


def _recorded_attention(
    flat: tuple[Tensor, ...], plan: Plan, scale: float, dropout: float, bias: Tensor | None, window: int | None
) -> tuple[Tensor, list[Tensor]]:
    """Attention (T, heads, d), and its probabilities, (n, heads, l, l) for each group.

    The probabilities are those after dropout, as transformers returns them, and carry gradients.
    """
    if flat[0].device.type == "cpu":
        output, whole = GroupedAttention.apply(*flat, bias, plan, scale, dropout, window, True)
        shapes = [(group.count, flat[0].shape[1], group.length, group.length) for group in plan.groups]
        pieces = whole.split([math.prod(shape) for shape in shapes])
        return output, [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    drop = Dropout(dropout).train()
    outputs, per_group = [], []
    for group in plan.groups:
        part = slice(group.start, group.start + group.tokens)
        q, k, v = (x[part].unflatten(0, (group.count, group.length)).transpose(1, 2) for x in flat)
        scores = (q @ k.transpose(-1, -2)) * scale  # (n, heads, l, l)
        added = score_bias(group.length, bias, window, q)
        probabilities = drop(torch.softmax(scores if added is None else scores + added, dim=-1))
        outputs.append((probabilities @ v).transpose(1, 2).flatten(0, 1))
        per_group.append(probabilities)
    return torch.cat(outputs), per_group


@lru_cache(maxsize=8)
def _padding(plan: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Place of each token in a padded batch (T,), and which places there are real (N, L)."""
    lengths = torch.from_numpy(plan.lengths).to(device)
    real = torch.arange(plan.longest, device=device)[None, :] < lengths[:, None]
    places = torch.arange(len(plan.lengths), device=device).repeat_interleave(lengths, output_size=plan.tokens)
    return places * plan.longest + torch.from_numpy(plan.places()).to(device), real


def jagged_attention(flat: tuple[Tensor, ...], plan: Plan, scale: float, dropout: float) -> Tensor:
    """Attention within each sequence, (T, heads, d), by one call over nested tensors, without padding.

    On a GPU that is one launch of the flash kernel (half precision) or the memory-efficient one (float32), dropout
    included; elsewhere torch computes it by its own products.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.models.execution.plan import Plan
    >>> plan = Plan.of(np.array([2, 3]))
    >>> x = torch.ones(5, 2, 4)
    >>> jagged_attention((x, x, x), plan, 0.5, dropout=0.0).shape
    torch.Size([5, 2, 4])
    """
    limits = _limits(plan, flat[0].device)
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(
            x, limits, min_seqlen=int(plan.lengths.min()), max_seqlen=plan.longest
        ).transpose(1, 2)
        for x in flat
    )
    output = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scale)
    joint: Tensor = output.transpose(1, 2).values()  # type: ignore[no-untyped-call]
    return joint


@lru_cache(maxsize=8)
def _limits(plan: Plan, device: torch.device) -> Tensor:
    """Where each sequence starts, and the end of the last, int64 (N + 1,); one tensor for all layers."""
    return F.pad(torch.from_numpy(plan.lengths).cumsum(0), (1, 0)).to(device)


def _is_ragged(query: Tensor) -> bool:
    """Whether torch has kernels for ragged sequences of such queries."""
    return query.device.type == "cuda" and query.dtype != torch.float64 and query.shape[-1] % 8 == 0


def _has_varlen(query: Tensor, dropout: float, scale: float) -> bool:
    """Whether torch's function for ragged sequences is there, which has the least to do before the launch."""
    if query.dtype not in (torch.float16, torch.bfloat16) or dropout > 0.0:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:  # before torch 2.10
        return False
    size = query.shape[-1]
    return size <= 256 and abs(scale * size**0.5 - 1.0) < 1e-6


def _varlen_attention(flat: tuple[Tensor, ...], plan: Plan, scale: float, dropout: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    limits = _limits(plan, flat[0].device).to(torch.int32)
    query, key, value = flat
    output = varlen_attn(query, key, value, limits, limits, plan.longest, plan.longest)
    assert isinstance(output, Tensor)  # a pair only where the log-sum-exp is asked for
    return output


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
