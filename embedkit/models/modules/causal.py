"""Causal text models (CLIP's) on real tokens only: one row of all tokens, each seeing those before it in its text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from embedkit.models.execution.attention import causal_bias, padded_attention
from embedkit.models.execution.kernels import grouped_attention
from embedkit.models.execution.plan import Plan
from embedkit.models.inputs.inputs import Inputs

ATTENTION = "embedkit_causal"


@torch.compiler.disable
def _causal_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, plan: Plan | None = None, **settings: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention of a packed run, (1, T, heads, d), from query, key and value (1, heads, T, d).

    Without a `plan` this is transformers' own attention.
    """
    if plan is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
        )
    flat = tuple(x[0].transpose(0, 1) for x in (query, key, value))  # each (T, heads, d)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = grouped_attention if query.device.type == "cpu" else padded_attention
    return attend(flat, plan, scale, dropout, causal_bias(plan.longest, query), None).unsqueeze(0), None


def run_causal(encoder: Any, inputs: Inputs) -> Tensor:
    """Vectors (N, H) of the last token of each text under CLIP's text model, in input order.

    Examples
    --------
    >>> from transformers import CLIPTextConfig, CLIPTextModel
    >>> config = CLIPTextConfig(hidden_size=8, num_hidden_layers=1)
    >>> encoder = CLIPTextModel._from_config(config, attn_implementation=ATTENTION)
    >>> run_causal(encoder, Inputs.of([[0, 5, 7, 1], [0, 1]])).shape
    torch.Size([2, 8])
    """
    plan = Plan.of(inputs.costs)
    ids = inputs.select(plan.order).ids  # (T,)
    places = torch.from_numpy(plan.places()).to(ids.device)
    tables = encoder.embeddings
    # the model's own forward refuses more tokens than positions, and a pack has more of them
    hidden = (tables.token_embedding(ids) + tables.position_embedding(places))[None]  # (1, T, H)
    output = encoder.encoder(inputs_embeds=hidden, attention_mask=None, is_causal=True, plan=plan)
    ends = torch.from_numpy((plan.starts + plan.lengths - 1)[plan.inverse()]).to(ids.device)
    return encoder.final_layer_norm(output.last_hidden_state[0].index_select(0, ends))


AttentionInterface.register(ATTENTION, _causal_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
