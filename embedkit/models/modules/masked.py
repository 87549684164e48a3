"""Masked language models: which tokens are hidden, the head that guesses them, and frozen ones that fill them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.augment.counter_rng import uniforms
from embedkit.models.inputs.inputs import Inputs

# Our parameter -> its name in the files of an architecture. Old BERT files say gamma and beta for weight and bias.
_NAMES = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}
_LIKE = {"xlm-roberta": "roberta", "camembert": "roberta"}


def names_in(model_type: str) -> tuple[str, str, str] | None:
    """Names of the head's dense layer, layer norm and bias in the files of an architecture; None where not known.

    Examples
    --------
    >>> names_in("roberta")
    ('lm_head.dense', 'lm_head.layer_norm', 'lm_head.bias')
    >>> names_in("t5") is None
    True
    """
    return _NAMES.get(_LIKE.get(model_type, model_type))


@dataclass(frozen=True)
class Hidden:
    """Token ids of which some are hidden.

    Attributes
    ----------
    inputs : Inputs
        What the model reads.
    targets : bool array (T,)
        The tokens to be guessed.

    Examples
    --------
    >>> import numpy as np
    >>> hidden = Hidden(Inputs.of([[2, 4, 3]]), targets=np.array([False, True, False]))
    >>> hidden.inputs.rows(), hidden.targets.tolist()
    ([[2, 4, 3]], [False, True, False])
    """

    inputs: Inputs
    targets: np.ndarray


def hide_tokens(inputs: Inputs, tokenizer: Any, rate: float = 0.15, stream: str = "mlm") -> Hidden:
    """The inputs with some tokens hidden, and which ones: each but special ones with probability `rate` (Devlin et al.
    2019, section 3.1).

    Of these 80 % become the mask token, 10 % a random token, 10 % stay. Draws come from the inputs' seeds.

    Raises
    ------
    ModelError
        When the tokenizer has no mask token.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> texts = Inputs.of([[2, 20, 21, 22, 23, 3]]).replace(seeds=np.array([1], dtype=np.uint64))
    >>> hidden = hide_tokens(texts, tokenizer(), rate=0.5)
    >>> hidden.inputs.rows(), hidden.targets.tolist()
    ([[2, 20, 103, 22, 4, 3]], [False, False, True, False, True, False])
    """
    if tokenizer.mask_token_id is None:
        raise ModelError("the tokenizer has no mask token", remedy="use an encoder trained as a masked language model")
    ids = inputs.ids.cpu().numpy()
    special = np.isin(ids, tokenizer.all_special_ids)
    targets = (uniforms(inputs, f"{stream}-chosen") < rate) & ~special
    kind = uniforms(inputs, f"{stream}-kind")
    other = (uniforms(inputs, f"{stream}-other") * len(tokenizer)).astype(np.int64)
    new = np.where(targets & (kind < 0.8), tokenizer.mask_token_id, ids)
    new = np.where(targets & (kind >= 0.8) & (kind < 0.9), other, new)
    return Hidden(inputs.replace(ids=torch.from_numpy(new).to(inputs.device)), targets)


class MaskedHead(nn.Module):
    """The head of a masked language model: dense layer, gelu, layer norm, and the word vectors as output layer.

    Parameters
    ----------
    size, words : int
        Size of a token vector; entries of the vocabulary.

    Examples
    --------
    >>> MaskedHead(size=8, words=20)(torch.zeros(5, 8), torch.zeros(20, 8)).shape
    torch.Size([5, 20])
    """

    def __init__(self, size: int, words: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        """Token vectors (T, H) as the output layer reads them, from those of the encoder (T, H)."""
        return self.norm(F.gelu(self.dense(hidden)))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Logits (T, V) from token vectors (T, H) and word vectors (V, H)."""
        return F.linear(self.transform(hidden), words, self.bias[: len(words)])

    def named_as(self, model_type: str) -> dict[str, Tensor]:
        """The tensors under the names of an architecture; empty for one whose names are not known."""
        names = names_in(model_type)
        if names is None:
            return {}
        dense, norm, bias = names
        layers = ((dense, self.dense), (norm, self.norm))
        tensors = {f"{name}.{key}": value for name, layer in layers for key, value in layer.state_dict().items()}
        return {**tensors, bias: self.bias.detach()}


class MaskedModel(nn.Module):
    """A text encoder with the head of a masked language model: what it guesses at every token.

    Parameters
    ----------
    model : TextEncoder
        The encoder.
    head : MaskedHead
        Its head.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import TextEncoder
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(vocab_size=471, hidden_size=12, num_hidden_layers=1)
    >>> model = TextEncoder(BertModel(config), tokenizer())
    >>> MaskedModel(model, MaskedHead(size=12, words=471)).guesses(model.prepare(["a dog", "two cats"])).shape
    torch.Size([11])
    """

    def __init__(self, model: Any, head: MaskedHead) -> None:
        super().__init__()
        self.model, self.head = model, head

    @torch.no_grad()
    def guesses(self, inputs: Inputs, sample: bool = False) -> Tensor:
        """A token id at every place, int64 (T,), tokens in the order of `inputs`: the most probable one, or with
        `sample` one drawn from the probabilities, by the inputs' seeds."""
        states = in_input_order(self.model.token_states(inputs), inputs)
        words = self.model.encoder.get_input_embeddings().weight
        if not sample:
            return torch.cat([self.head(part, words).argmax(dim=1) for part in states.split(1024)])
        draws = torch.from_numpy(uniforms(inputs, "guesses")).to(states.device).split(1024)
        picks = []
        for part, draw in zip(states.split(1024), draws, strict=True):
            up_to = self.head(part, words).double().softmax(dim=1).cumsum(dim=1)  # (t, V), the last column is 1
            picks.append((up_to < draw[:, None] * up_to[:, -1:]).sum(dim=1))
        return torch.cat(picks)


def in_input_order(states: Any, inputs: Inputs) -> Tensor:
    """Token vectors of the last layer (T, H) in the order of `inputs`, from the order of a plan.

    Examples
    --------
    >>> from embedkit.models.execution.plan import Plan
    >>> from embedkit.models.modules.poolers import TokenStates
    >>> texts = Inputs.of([[7, 8], [9]])
    >>> states = TokenStates({-1: torch.tensor([[9.0], [7.0], [8.0]])}, Plan.of(texts.costs))
    >>> in_input_order(states, texts).flatten().tolist()
    [7.0, 8.0, 9.0]
    """
    plan = states.plan
    place = plan.starts[plan.inverse()][inputs.owner] + inputs.places  # of each token of the inputs within the plan
    return states.last.index_select(0, torch.from_numpy(place).to(states.last.device))
