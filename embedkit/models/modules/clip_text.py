"""Text towers of CLIP and SigLIP: their cleaning, padding and pooling, on transformers' text models."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError, need
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.text_normalization import cleaner
from embedkit.models.inputs.tokens import SLOT, check_texts, resolve_prompt
from embedkit.models.modules.causal import ATTENTION, run_causal
from embedkit.models.modules.text import TextEncoder

CAUSAL, PADDED = "clip_text_model", "siglip_text_model"
_CAUSALS, _PADDEDS = (CAUSAL, "metaclip_2_text_model"), (PADDED, "siglip2_text_model")
START, END = "<start_of_text>", "<end_of_text>"
CLIP_LENGTH = 77


class ClipTextEncoder(TextEncoder):
    """A text tower of CLIP (causal, read at the end token) or of SigLIP (padded, read at the last place); or any other
    encoder whose captions are cleaned.

    A caption is put into its prompt, cleaned as `embedkit.models.inputs.text_normalization` says, and tokenised
    as a whole; what is too long is cut with the end token kept. CLIP sees no padding, which its attention could
    not see either. SigLIP has no mask: it is padded to its full length, as in its training.

    Parameters
    ----------
    encoder : CLIPTextModel, SiglipTextModel, or another PreTrainedModel
        A SigLIP head is applied to the pooled vector.
    cleaning : str
        A key of `embedkit.models.inputs.text_normalization.CLEANINGS`.
    highest_token : bool
        Read CLIP at the token with the highest id in place of the end token, which transformers does where a
        configuration says ``eos_token_id: 2``; the same place where the end token has the highest id.
    settings
        As in `TextEncoder`; the pooling of CLIP and SigLIP is "last-token".

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from transformers import CLIPTextConfig, CLIPTextModel
    >>> config = CLIPTextConfig(hidden_size=8, num_hidden_layers=1)
    >>> ClipTextEncoder(CLIPTextModel(config), tokenizer()).encode(["a dog", "two cats"]).shape
    (2, 8)
    """

    kind = "clip-text"
    _clean: Callable[[str], str]
    _cleaning: str

    def __init__(self, encoder: Any, tokenizer: Any, *, cleaning: str = "none", highest_token: bool = False,
                 **settings: Any) -> None:  # fmt: skip
        kind = encoder.config.model_type
        default = {"pooling": "last-token"} if kind in (*_CAUSALS, *_PADDEDS) else {}
        super().__init__(encoder, tokenizer, **{**default, **settings})
        self._cleaning = cleaning
        self.cleaning = cleaning
        self.highest_token = highest_token
        self.fixed_length, self.causal = kind in _PADDEDS, kind in _CAUSALS
        if (self.causal or self.fixed_length) and self.max_length > tokenizer.model_max_length:
            tokenizer.model_max_length = self.max_length  # the position table counts, not what the words were made for
        if self.causal:
            encoder.set_attn_implementation(ATTENTION)

    @property  # type: ignore[override]
    def cleaning(self) -> str:
        """The cleaning of captions, a key of `embedkit.models.inputs.text_normalization.CLEANINGS`."""
        return self._cleaning

    @cleaning.setter
    def cleaning(self, name: str) -> None:
        cleaner(name)  # known, and its library at hand
        self._cleaning = name

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """`Inputs` of captions, tokenised on the CPU; safe to call from several threads."""
        template = resolve_prompt(prompt, self.prompts, self.default_prompt) or SLOT
        template = template if SLOT in template else template + SLOT
        clean = cleaner(self.cleaning)
        tokens = self._tokens([clean(template.replace(SLOT, text)) for text in check_texts(inputs)])
        if self.fixed_length:
            return self._padded(tokens)
        return self._ended(tokens) if self.causal else tokens

    def _ended(self, inputs: Inputs) -> Inputs:
        """Sequences cut behind their first end token: a caption that spells it out ends there, as in open_clip."""
        if self.highest_token:  # causal: what stands behind has no part in the state there
            return Inputs.of([row[: row.index(max(row)) + 1] for row in inputs.rows()])
        end = special_ids(self.tokenizer)["eos_token_id"]
        ids = inputs.ids.numpy()
        places = np.flatnonzero(ids == end) if end is not None else np.zeros(0, dtype=np.int64)
        if len(places) <= len(inputs):
            return inputs
        rows = [row[: row.index(end) + 1] if end in row else row for row in inputs.rows()]
        return Inputs.of(rows)

    def _padded(self, inputs: Inputs) -> Inputs:
        """Every sequence padded to the full length, on the side that the tokenizer names."""
        return inputs.padded(self.max_length, self.tokenizer.pad_token_id or 0, self._pads_left)

    def pooled(self, inputs: Inputs, packing: str | None = None, pooling: str | None = None, **settings: Any) -> Tensor:
        """Pooled vectors (N, H) in input order; CLIP's text model runs packed unless something is changed in it."""
        plain = (pooling or self.pooling) == "last-token" and not settings
        if not self.causal or not plain or (packing or self.packing) not in ("auto", "packed") or len(inputs) == 0:
            return super().pooled(inputs, packing, pooling, **settings)
        return run_causal(self.encoder, inputs)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the vectors."""
        return int(self.encoder.config.projection_size) if self.fixed_length else super().dim

    @property
    def training_dim(self) -> int:
        """Size of the vectors in training mode."""
        return self.dim if self.fixed_length else super().training_dim

    def project(self, pooled: Tensor) -> Tensor:
        """Vectors (N, D) of pooled ones (N, H), by SigLIP's head and the dense layers."""
        return super().project(self.encoder.head(pooled) if self.fixed_length else pooled)

    @property
    def _pads_left(self) -> bool:
        return self.fixed_length and self.tokenizer.padding_side == "left"

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        highest = {"highest_token": True} if self.highest_token else {}
        return {**super().spec(), "cleaning": self.cleaning, **highest}

    def tokenizer_json(self) -> str:
        """The tokenizer as text; a side of padding that the model sees is part of it."""
        return super().tokenizer_json() + ("\npadding on the left" if self._pads_left else "")


def stretched(table: Tensor, length: int, keep: int = 20) -> Tensor:
    """A table of positions (L, H) for `length` of them, (length, H): the first `keep` rows as they are, the others
    spread over the rest of the places and interpolated linearly between.

    With a whole factor every old row is there again, at ``keep + factor * i``. Behind the last old row the line through
    the last two goes on. CLIP's 77 positions for 248 with 20 kept are Long-CLIP's (Zhang et al. 2024, ECCV, 3.1).

    Examples
    --------
    >>> stretched(torch.tensor([[0.0], [10.0], [20.0], [40.0]]), 7, keep=1).flatten().tolist()
    [0.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0]
    """
    old = len(table)
    wide = table if table.dtype == torch.float64 else table.float()
    factor = (length - keep) / (old - keep)
    place = keep + torch.arange(length - keep, dtype=torch.float64) / factor
    left = place.floor().long().clamp(max=old - 2)
    share = (place - left)[:, None].to(wide.dtype)
    rest = (1 - share) * wide[left] + share * wide[left + 1]
    return torch.cat([wide[:keep], rest]).to(table.dtype)


def stretch_positions(text: Any, length: int, keep: int) -> str:
    """Let a CLIP or SigLIP text tower take `length` tokens, see `stretched`; a line that says what was done.

    Raises
    ------
    ModelError
        The tower has no table of positions that embedkit can stretch, it is long enough already, or fewer rows than
        `keep` and two are there.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> text = build(load_recipe("clip-small").model).text
    >>> stretch_positions(text, 248, keep=20)
    '77 positions are stretched to 248: the first 20 stay, the others are 4 times as far apart'
    >>> text.max_length
    248
    """
    where = "model.towers.text.keep_positions"
    encoder = text.encoder if isinstance(text, TextEncoder) else None
    table = getattr(getattr(encoder, "embeddings", None), "position_embedding", None)
    if not isinstance(table, nn.Embedding):
        raise ModelError(f"a {text.kind} text tower has no positions to stretch", where=where, remedy="leave it out")
    old, width = table.weight.shape
    if length <= old:
        raise ModelError(f"the tower has {old} positions already", where=where, remedy=f"leave it out, or set "
                         f"max_length above {old}")  # fmt: skip
    if keep > old - 2:
        raise ModelError(f"of {old} positions at most {old - 2} can be kept", where=where, remedy="lower it")
    longer = nn.Embedding(length, width, dtype=table.weight.dtype, device=table.weight.device)
    longer.weight = nn.Parameter(stretched(table.weight.detach(), length, keep), table.weight.requires_grad)
    inner = text.encoder.embeddings
    inner.position_embedding = longer
    inner.register_buffer("position_ids", torch.arange(length)[None].to(table.weight.device), persistent=False)
    text.encoder.config.max_position_embeddings = length
    text.tokenizer.model_max_length = max(length, text.tokenizer.model_max_length)
    text.max_length = length
    factor = (length - keep) / (old - keep)
    apart = f"the others are {factor:.3g} times as far apart"
    return f"{old} positions are stretched to {length}: the first {keep} stay, {apart}"


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """The tokens that a text begins, ends and is padded with; BERT's where there are no others.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> special_ids(tokenizer())
    {'bos_token_id': 2, 'eos_token_id': 3, 'pad_token_id': 0}
    """

    def first(*names: str) -> int | None:
        return next((number for name in names if (number := getattr(tokenizer, name, None)) is not None), None)

    return {
        "bos_token_id": first("bos_token_id", "cls_token_id"), "eos_token_id": first("eos_token_id", "sep_token_id"),
        "pad_token_id": first("pad_token_id"),
    }  # fmt: skip


def clip_tokenizer() -> Any:
    """CLIP's byte-level BPE (49,408 tokens) from the merges that open_clip carries, with open_clip's special tokens.

    Examples
    --------
    >>> clip_tokenizer()("a photo of a dog")["input_ids"]
    [49406, 320, 1125, 539, 320, 1929, 49407]
    """
    need("open_clip", "clip", "CLIP's tokenizer")
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges), START, END]
    return clip_bpe({piece: place for place, piece in enumerate(pieces)}, merges, START, END, END)


def clip_bpe(vocabulary: dict[str, int], merges: list[Any], start: str, end: str, pad: str) -> Any:
    """A tokenizer with CLIP's rules over a vocabulary.

    Examples
    --------
    >>> vocabulary = {"a": 0, "a</w>": 1, "<start>": 2, "<end>": 3}
    >>> clip_bpe(vocabulary, [], "<start>", "<end>", "<end>")("AA a")["input_ids"]
    [2, 0, 1, 1, 3]
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    # found after normalisation, so that their case does not matter
    core.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in (start, end)])
    core.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        unk_token=end,
        model_max_length=CLIP_LENGTH,
    )
