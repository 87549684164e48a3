"""Running an encoder on real tokens only.

Three ways, equal in their numbers:

``packed``
    All sequences, sorted by length, form one row of T tokens. Linear layers, norms and activations see that row;
    attention runs per group of equal lengths on mask-free views of it. Needs an architecture whose attention goes
    through transformers' attention interface.
``buckets``
    One plain forward per group of equal lengths, without a mask. Works with every architecture.
``padded``
    One forward over a padded batch with a mask; what transformers does by itself, kept to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.models.augment.embedding_augmentation import Edit, edited
from embedkit.models.execution.attention import ATTENTION
from embedkit.models.execution.kernels import swap_dropout
from embedkit.models.execution.plan import Plan
from embedkit.models.inputs.inputs import Inputs

# Architectures whose self-attention is a call of the attention interface and whose other token mixing (positions,
# relative bias, windows) is handled here. Others run in buckets.
PACKABLE = frozenset(
    {
        "albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "modernbert", "mt5",
        "roberta", "roberta-prelayernorm", "t5", "xlm-roberta", "xlm-roberta-xl",
    }
)  # fmt: skip


def is_packable(encoder: Any) -> bool:
    """Whether `encoder` can run packed.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1)
    >>> is_packable(BertModel(config)), is_packable(BertModel._from_config(config, attn_implementation=ATTENTION))
    (False, True)
    """
    return encoder.config.model_type in PACKABLE and encoder.config._attn_implementation == ATTENTION


def prepare_encoder(encoder: Any) -> None:
    """Fit a transformers encoder for packed runs: quick dropout, and in T5 and its kin a relative position bias that is
    computed for the longest sequence and not for the whole pack.

    Examples
    --------
    >>> encoder = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1))
    >>> prepare_encoder(encoder)
    >>> type(encoder[1]).__module__
    'embedkit.models.execution.kernels'
    """
    swap_dropout(encoder)
    for module in encoder.modules():
        if hasattr(module, "relative_attention_bias") and hasattr(module, "compute_bias"):
            module.register_forward_pre_hook(_short_bias, with_kwargs=True)


def _short_bias(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    plan = kwargs.get("plan")
    if plan is not None and kwargs.get("position_bias") is None:
        kwargs["position_bias"] = module.compute_bias(plan.longest, plan.longest)
    return args, kwargs


def position_offset(encoder: Any) -> int:
    """Position id of a first token: RoBERTa and its kin count from the padding id on.

    Examples
    --------
    >>> from transformers import RobertaConfig, RobertaModel
    >>> config = RobertaConfig(hidden_size=12, num_hidden_layers=1, pad_token_id=1)
    >>> position_offset(RobertaModel(config))
    2
    """
    table = position_table(encoder)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def position_table(encoder: Any) -> nn.Embedding | None:
    """The table of learned positions of an encoder built like BERT; None where there is none.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1)
    >>> position_table(BertModel(config))
    Embedding(512, 12)
    """
    layer = dict(encoder.named_children()).get("embeddings")
    table = None if layer is None else dict(layer.named_children()).get("position_embeddings")
    return table if isinstance(table, nn.Embedding) else None


@dataclass(frozen=True)
class Changes:
    """What a run changes or records besides; in `encode` nothing but a soft prompt.

    Attributes
    ----------
    edit : callable or None
        See `embedkit.models.augment.embedding_augmentation.Edit`.
    prefix : Tensor (layers, 2, N, heads, p, d) or None
        Keys and values of a soft prompt.
    record : dict or None
        Filled with attention probabilities, layer -> one tensor a group; packed runs only.

    Examples
    --------
    >>> Changes().any, Changes(prefix=torch.zeros(1, 2, 3, 2, 5, 4)).shift
    (False, 5)
    """

    edit: Edit | None = None
    prefix: Tensor | None = None
    record: dict[int, list[Tensor]] | None = None

    @property
    def any(self) -> bool:
        """Whether anything is changed or recorded."""
        return self.edit is not None or self.prefix is not None or self.record is not None

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords for the encoder, which hands them to its attention."""
        settings = {"prefix": self.prefix, "record": self.record}
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def shift(self) -> int:
        """Positions that a soft prompt takes."""
        return 0 if self.prefix is None else self.prefix.shape[4]


NO_CHANGES = Changes()
NO_POSITIONS = ("t5", "mt5", "umt5")


def run_packed(
    encoder: Any, inputs: Inputs, plan: Plan, layers: tuple[int, ...], changes: Changes = NO_CHANGES
) -> dict[int, Tensor]:
    """Hidden states (T, H) of the layers asked for, sequences in the order of `plan`.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1)
    >>> encoder = BertModel._from_config(config, attn_implementation=ATTENTION)
    >>> texts = Inputs.of([[2, 7, 8, 3], [2, 9, 3]])
    >>> run_packed(encoder, texts, Plan.of(texts.costs), layers=(-1,))[-1].shape
    torch.Size([7, 12])
    """
    ordered = inputs.select(plan.order)
    ids = ordered.ids[None]  # (1, T)
    settings: dict[str, Any] = {"plan": plan, **changes.settings}
    if encoder.config.model_type not in NO_POSITIONS:
        settings["position_ids"] = _positions(encoder, ordered, changes)[None].to(ids.device)
    # a mask of four axes is handed through by transformers as it is: nothing of size T x T is built
    mask = torch.zeros(1, 1, 1, 1, device=ids.device)
    with edited(encoder, changes.edit, ordered):
        output = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=_needs_all(layers), **settings)
    return {layer: _layer(output, layer)[0] for layer in layers}


def _positions(encoder: Any, ordered: Inputs, changes: Changes) -> Tensor:
    """Position ids (T,) of the tokens."""
    first = position_offset(encoder) + changes.shift
    return (torch.from_numpy(ordered.places) if ordered.positions is None else ordered.positions) + first


def run_buckets(
    encoder: Any, inputs: Inputs, plan: Plan, layers: tuple[int, ...], changes: Changes = NO_CHANGES
) -> dict[int, Tensor]:
    """Hidden states as from `run_packed`, by one plain forward pass per group of equal lengths, without any changes.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1)
    >>> texts = Inputs.of([[2, 7, 8, 3], [2, 9, 3]])
    >>> run_buckets(BertModel(config), texts, Plan.of(texts.costs), layers=(-1,))[-1].shape
    torch.Size([7, 12])
    """
    parts = inputs.select(plan.order).ids.split([group.tokens for group in plan.groups])
    outputs = []
    for group, ids in zip(plan.groups, parts, strict=True):
        ids = ids.view(group.count, group.length)
        mask = torch.ones_like(ids)
        outputs.append(encoder(input_ids=ids, attention_mask=mask, output_hidden_states=_needs_all(layers)))
    return {layer: torch.cat([_layer(output, layer).flatten(0, 1) for output in outputs]) for layer in layers}


def run_padded(
    encoder: Any, inputs: Inputs, plan: Plan, layers: tuple[int, ...], changes: Changes = NO_CHANGES
) -> dict[int, Tensor]:
    """Hidden states as from `run_packed`, by one forward pass over a padded batch.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=12, num_hidden_layers=1)
    >>> texts = Inputs.of([[2, 7, 8, 3], [2, 9, 3]])
    >>> hidden = run_padded(BertModel(config), texts, Plan.of(texts.costs), layers=(0, -1))
    >>> hidden[0].shape, hidden[-1].shape
    (torch.Size([7, 12]), torch.Size([7, 12]))
    """
    ordered = inputs.select(plan.order)
    real = torch.from_numpy(np.arange(plan.longest)[None, :] < plan.lengths[:, None]).to(inputs.device)  # (N, L)
    ids = torch.full(real.shape, encoder.config.pad_token_id or 0, dtype=torch.int64, device=inputs.device)
    ids[real] = ordered.ids
    settings: dict[str, Any] = changes.settings
    if ordered.positions is not None or changes.shift:
        settings["position_ids"] = torch.zeros_like(ids)
        settings["position_ids"][real] = _positions(encoder, ordered, changes).to(ids.device)
    with edited(encoder, changes.edit, ordered, real):
        output = encoder(input_ids=ids, attention_mask=real.long(), output_hidden_states=_needs_all(layers), **settings)
    return {layer: _layer(output, layer)[real] for layer in layers}


def _needs_all(layers: tuple[int, ...]) -> bool:
    return any(layer != -1 for layer in layers)


def _layer(output: Any, layer: int) -> Tensor:
    return output.last_hidden_state if layer == -1 else output.hidden_states[layer]
