"""Deep soft prompts: trained keys and values in front of every layer's attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.execution.kernels import Dropout

# Encoders whose attention layers know their number and whose token mixing is attention alone.
FITTING = frozenset({"bert", "camembert", "data2vec-text", "electra", "ernie", "roberta", "xlm-roberta"})


class SoftPrompt(nn.Module):
    """Keys and values of `length` virtual tokens for each layer (P-tuning v2, Liu et al. 2022; PromCSE, Jiang et al.
    2022, section 3.1).

    Parameters
    ----------
    encoder_config : PretrainedConfig
        Of the encoder that reads them.
    length : int
        Virtual tokens.
    dropout : float
        Rate on keys and values, drawn for each sequence apart.

    Raises
    ------
    ModelError
        When the architecture cannot take them.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> SoftPrompt(config, length=3)(count=5).shape
    torch.Size([2, 2, 5, 2, 3, 4])
    """

    def __init__(self, encoder_config: Any, length: int, dropout: float = 0.1) -> None:
        super().__init__()
        if encoder_config.model_type not in FITTING:
            raise ModelError(
                f"{encoder_config.model_type} takes no soft prompt", remedy=f"it goes with {', '.join(sorted(FITTING))}"
            )
        self.length, self.rate = length, dropout
        self.layers, self.heads = encoder_config.num_hidden_layers, encoder_config.num_attention_heads
        size = encoder_config.hidden_size
        self.weight = nn.Parameter(torch.empty(length, self.layers * 2 * size))
        nn.init.normal_(self.weight, std=getattr(encoder_config, "initializer_range", 0.02))
        self.dropout = Dropout(dropout)

    def forward(self, count: int) -> Tensor:
        """Keys and values for `count` sequences: (layers, 2, count, heads, length, d)."""
        split = self.weight.view(self.length, self.layers, 2, self.heads, -1)
        whole = split.permute(1, 2, 3, 0, 4)[:, :, None].expand(-1, -1, count, -1, -1, -1)
        return self.dropout(whole)

    def spec(self) -> dict[str, Any]:
        """The settings as `embedkit.json` has them."""
        return {"length": self.length, "dropout": self.rate}
