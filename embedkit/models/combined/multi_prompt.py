"""One text under several prompts, each read at a learned token of its own: a text tower of parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.base import Model
from embedkit.models.combined.members import CombinedModel
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.tokens import SLOT, check_texts, resolve_prompt
from embedkit.models.inputs.vectors import VectorInputs
from embedkit.models.modules.clip_text import special_ids
from embedkit.models.modules.text import TextEncoder
from embedkit.models.vectors.feature import FeatureEncoder


class MultiPromptEncoder(CombinedModel):
    """Texts under K prompts, whose vectors stand one behind the other (arXiv 2508.02762, abstract).

    Prompt k ends in the token ``[prompt k]`` of the vocabulary, which only it has; the encoder is read there, and a
    linear map of its own makes numbers of what is read. No prompt sees another: the K sequences of a text are encoded
    beside each other, in one pass where the encoder runs packed. The encoder may be bidirectional or a decoder.

    Parameters
    ----------
    encoder : TextEncoder
        Its vocabulary has the K tokens (see `multi_prompt`); its own pooling has no effect.
    heads : sequence of FeatureEncoder
        K maps of its vectors.
    templates : sequence of str
        K prompts, each with ``{}`` for the text.
    normalize, similarity_fn_name
        See `Model`.

    Raises
    ------
    ModelError
        The encoder is none of these, or the prompts do not fit.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> text = build(load_recipe("multi-prompt", smoke=True).model, 0).text
    >>> text.dim, len(text.templates), text.prepare(["a red ring"]).costs.tolist()
    (16, 2, [27])
    """

    kind = "multi-prompt"

    def __init__(
        self, encoder: Model, heads: Sequence[Model], templates: Sequence[str], normalize: bool = True,
        similarity_fn_name: str = "cosine",
    ) -> None:  # fmt: skip
        super().__init__()
        check_encoder(encoder)
        self.templates = checked_templates(templates)
        if len(heads) != len(templates) or any(head.input_width != encoder.hidden_size for head in heads):
            raise ModelError(f"{len(heads)} maps do not fit {len(templates)} prompts", where="multi_prompt",
                             remedy="write the folder again")  # fmt: skip
        self.members = nn.ModuleList([encoder, *heads])
        self.normalize, self.similarity_fn_name = normalize, similarity_fn_name
        self.tokenizer, self.prompts, self.default_prompt = encoder.tokenizer, encoder.prompts, encoder.default_prompt
        self.marks = [int(self.tokenizer.convert_tokens_to_ids(name)) for name in token_names(len(templates))]
        pairs = zip(*(reversed(row) for row in encoder.prepare(["x", ""], "").rows()), strict=False)
        self.ends = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        """Special tokens behind a text: what the ends of two texts have in common."""

    @property
    def encoder(self) -> TextEncoder:
        """What reads a text under each of the prompts."""
        encoder = self.members[0]
        assert isinstance(encoder, TextEncoder)
        return encoder

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the vectors: the sum of the parts."""
        return sum(head.dim for head in self.models[1:])

    @property
    def hidden_size(self) -> int:
        """See `Model.hidden_size`."""
        return self.encoder.hidden_size

    @property
    def max_length(self) -> int:
        """Tokens of a text at most, those of all prompts together."""
        return (self.encoder.max_length + 1) * len(self.templates)

    @max_length.setter
    def max_length(self, value: int) -> None:
        self.encoder.max_length = value // len(self.templates) - 1

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """`Inputs` of texts, for each the tokens of all its prompts; `prompt` is put around the text first.

        A text that is too long is cut so that the token which is read is there.
        """
        around = resolve_prompt(prompt, self.prompts, self.default_prompt) or SLOT
        around = around if SLOT in around else around + SLOT
        texts = [around.replace(SLOT, text) for text in check_texts(inputs)]
        each = [self.encoder.prepare(texts, template).rows() for template in self.templates]
        rows = []
        for parts in zip(*each, strict=True):
            cuts = [len(part) - self.ends for part in parts]
            filled = zip(parts, cuts, self.marks, strict=True)
            rows.append([[*part[:cut], mark, *part[cut:]] for part, cut, mark in filled])
        lengths = np.array([[len(part) for part in parts] for parts in rows], dtype=np.int64)
        flat = [[token for part in parts for token in part] for parts in rows]
        return Inputs.of(flat, data={"lengths": lengths.reshape(-1, len(self.templates))})

    def forward(self, inputs: Inputs, **settings: Any) -> Tensor:
        """Vectors (N, D), not normalised; settings are those of the encoder's forward pass."""
        states = self.encoder(self._apart(inputs), pooling="mask", **settings)  # (N K, H)
        parts = states.unflatten(0, (len(inputs), len(self.templates))).unbind(dim=1)
        maps = zip(self.models[1:], parts, strict=True)
        return torch.cat([head(VectorInputs(part)) for head, part in maps], dim=1)

    def _apart(self, inputs: Inputs) -> Inputs:
        """The prompts of all texts as sequences of their own, each marked where it is read."""
        lengths = inputs.data["lengths"].reshape(-1)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        data = {"seeds": np.repeat(inputs.seeds, len(self.templates))} if "seeds" in inputs.data else {}
        return Inputs(inputs.ids, offsets, lengths - self.ends - 1, inputs.positions, data)

    def own_spec(self) -> dict[str, Any]:
        """See `CombinedModel.own_spec`."""
        return {"templates": self.templates, "normalize": self.normalize, **self._similarity_spec()}

    def gradient_checkpointing_enable(self) -> None:
        """See `Model`."""
        self.encoder.gradient_checkpointing_enable()

    def compile_layers(self) -> None:
        """See `Model`."""
        self.encoder.compile_layers()


def multi_prompt(encoder: Model, templates: Sequence[str], dim: int) -> MultiPromptEncoder:
    """A text encoder under several prompts: its vocabulary gets a token for each, its vectors new maps to `dim` / K.

    The tokens start with the vector of the token that ends a text, the maps as random rotations. One token of the
    encoder's length is kept for them.

    Raises
    ------
    ModelError
        It is no transformers encoder that is read at a token; the prompts do not divide `dim`, or have no slot.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> text = build(ModelConfig(config=config, tokenizer="builtin"), 0)
    >>> multi_prompt(text, ["the subject of {}", "the place of {}"], dim=6).encode(["a dog in a house"]).shape
    (1, 6)
    """
    where = "model.towers.text.multi_prompt"
    check_encoder(encoder)
    templates = checked_templates(templates)
    if dim % len(templates):
        raise ModelError(f"{len(templates)} prompts do not divide {dim} coordinates", where=where,
                         remedy="set another model.towers.dim, or give more or fewer prompts")  # fmt: skip
    assert isinstance(encoder, TextEncoder)
    encoder.max_length = encoder.max_length - 1
    names = token_names(len(templates))
    encoder.add_tokens(names, [special_ids(encoder.tokenizer)["eos_token_id"] or 0] * len(names))
    width, part = encoder.hidden_size, dim // len(templates)
    heads = [FeatureEncoder(width, part, start="orthogonal", normalize=False) for _ in names]
    return MultiPromptEncoder(encoder, heads, templates)


def token_names(count: int) -> list[str]:
    """The tokens at which prompts are read.

    Examples
    --------
    >>> token_names(2)
    ['[prompt0]', '[prompt1]']
    """
    return [f"[prompt{place}]" for place in range(count)]


def check_encoder(encoder: Model) -> None:
    """Refuse an encoder that cannot be read at a token in the text.

    Raises
    ------
    ModelError
        It has no tokens with vectors of their own, or is read at the end of its padding.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> check_encoder(StaticEncoder(tokenizer(), dim=4))
    Traceback (most recent call last):
    embedkit.errors.ModelError: model.towers.text.multi_prompt: a static text tower is not read at a token; use ...
    """
    if not isinstance(encoder, TextEncoder) or encoder.fixed_length or encoder.layers:
        kind = "padded" if encoder.fixed_length else encoder.kind
        raise ModelError(f"a {kind} text tower is not read at a token", where="model.towers.text.multi_prompt",
                         remedy="use CLIP's, or one of transformers without layers on it")  # fmt: skip


def checked_templates(templates: Sequence[str]) -> list[str]:
    """Prompts with a slot each, two or more.

    Raises
    ------
    ModelError
        There are fewer, or one has no slot or several.

    Examples
    --------
    >>> checked_templates(["a photo of {}"])
    Traceback (most recent call last):
    embedkit.errors.ModelError: model.towers.text.multi_prompt: there is 1 prompt; give two or more
    """
    where = "model.towers.text.multi_prompt"
    if len(templates) < 2:
        raise ModelError(f"there is {len(templates)} prompt", where=where, remedy="give two or more")
    for place, template in enumerate(templates):
        if template.count(SLOT) != 1:
            raise ModelError(f"{template!r} has {template.count(SLOT)} slots", where=f"{where}[{place}]",
                             remedy="put one {} where the text stands")  # fmt: skip
    return list(templates)
