"""From texts to ragged token ids, with prompts and templates."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from embedkit.errors import DataError, UserError, nearest
from embedkit.models.inputs.cached_tokenizer import ChunkTokenizer, is_local
from embedkit.models.inputs.inputs import Inputs

SLOT = "{}"
SENTENCE_SLOT = "{.}"
"""A slot that ends its text with a full stop where it ends in none of ``. ? " '``."""
_NAME = re.compile(r"[\w.-]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def resolve_prompt(prompt: str | None, prompts: dict[str, str], default: str | None) -> str:
    """The text of a prompt given by name, as text, or not at all.

    None is the default prompt, ``""`` is no prompt. A string that is a key of `prompts` is a name; any other string
    that has a slot, a space or a colon is taken as the prompt itself.

    Raises
    ------
    UserError
        For a single word that is no known name (most likely a misspelt one).

    Examples
    --------
    >>> prompts = {"query": "query: "}
    >>> resolve_prompt("query", prompts, None), resolve_prompt(None, prompts, None)
    ('query: ', '')
    >>> resolve_prompt("Represent this: ", prompts, None)
    'Represent this: '
    """
    if prompt is None:
        if default is not None and default not in prompts:
            raise UserError(f"the default prompt {default!r} is no prompt", remedy=nearest(default, prompts))
        return "" if default is None else prompts[default]
    if prompt in prompts:
        return prompts[prompt]
    if prompt and SLOT not in prompt and _NAME.fullmatch(prompt):
        remedy = nearest(prompt, prompts) if prompts else "none are defined"
        raise UserError(f"unknown prompt {prompt!r}", remedy=remedy)
    return prompt


def check_texts(texts: Sequence[Any], start: int = 0) -> list[str]:
    """`texts` as a list of str.

    Raises
    ------
    DataError
        For a single string instead of a list, and for an item that is no str or has half a surrogate pair, with its
        index (plus `start`).

    Examples
    --------
    >>> check_texts(("a dog", "two cats"))
    ['a dog', 'two cats']
    """
    if isinstance(texts, str | bytes):
        raise DataError("one text was given where a list of texts is expected", remedy="pass [text]")
    checked = list(texts)
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            what, remedy = f"item is {type(text).__name__}, not str", "remove or convert it"
        elif not text.isascii() and _SURROGATE.search(text):
            what, remedy = "text has half a surrogate pair, which is no character", "fix the file"
        else:
            continue
        raise DataError(what, where=f"inputs[{start + index}]", remedy=remedy)
    return checked


def check_ids(inputs: Inputs, rows: int, texts: Sequence[str], remedy: str) -> Inputs:
    """`inputs`, when each token id has one of the `rows` of an embedding table.

    Raises
    ------
    DataError
        Naming the first token id without a row and its text, with `remedy`.

    Examples
    --------
    >>> check_ids(Inputs.of([[2, 7, 3]]), rows=8, texts=["a dog"], remedy="resize the table").tokens
    3
    >>> check_ids(Inputs.of([[2, 9, 3]]), rows=8, texts=["a dog"], remedy="resize the table")
    Traceback (most recent call last):
        ...
    embedkit.errors.DataError: text 'a dog': token id 9 has no vector, the embedding table has 8 rows; resize the table
    """
    ids = inputs.ids.numpy()
    if not len(ids) or ids.max() < rows:
        return inputs
    place = int(np.argmax(ids >= rows))
    text = texts[int(inputs.owner[place])]
    raise DataError(
        f"token id {ids[place]} has no vector, the embedding table has {rows} rows",
        where=f"text {text if len(text) <= 60 else text[:57] + '...'!r}", remedy=remedy,
    )  # fmt: skip


def ended(text: str) -> str:
    """The text with a full stop behind, unless it is empty or ends in one of ``. ? " '``.

    Examples
    --------
    >>> ended("a dog"), ended("Who?"), ended("")
    ('a dog.', 'Who?', '')
    """
    return text if not text or text[-1] in ".?\"'" else text + "."


class TextTokenizer:
    """Texts to `Inputs`; safe to call from several threads.

    A template ``prefix {} suffix`` is cut at its slot and the three parts are tokenised apart, so that truncation
    shortens only the text (PromptBERT, Jiang et al. 2022, does the same). White space before the slot goes to the
    text, because byte-level and SentencePiece vocabularies join it to the following word. A prompt without a slot, or
    with the slot at its end, is put in front of the text and both are tokenised together, as in sentence-transformers.
    The slot ``{.}`` ends its text with a full stop where it has no such end (see `ended`).

    Parameters
    ----------
    source : PreTrainedTokenizerBase
        A transformers tokenizer; fast ones are used through their Rust core, others through their call.
    max_length : int
        Tokens of a sequence at most, special tokens and template included.
    special : bool
        Add the tokenizer's special tokens.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> tokenize = TextTokenizer(tokenizer(), max_length=5)
    >>> tokenize(["a dog", "two big dogs run"]).rows()
    [[2, 5, 187, 3], [2, 443, 128, 187, 3]]
    """

    def __init__(self, source: Any, max_length: int, special: bool = True) -> None:
        self.source, self.special, self._max_length = source, special, max_length
        backend = getattr(source, "backend_tokenizer", None)
        self._full: Tokenizer | None = None
        self._bare: Tokenizer | None = None
        self._quick: ChunkTokenizer | None = None
        if backend is not None:
            # private copies: the shared one changes its truncation state at every call of the transformers tokenizer
            self._bare = Tokenizer.from_str(backend.to_str())
            self._bare.no_padding()
            self._bare.no_truncation()
        self._cut()

    @property
    def max_length(self) -> int:
        """Tokens of a sequence at most."""
        return self._max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._max_length = value
        self._cut()

    def _cut(self) -> None:
        self._quick = None
        if self._bare is None:
            return
        side = getattr(self.source, "truncation_side", "right")
        rules = self._bare.to_str()
        self._full = Tokenizer.from_str(rules)
        self._full.enable_truncation(self._max_length, direction=side)
        ends = self._specials()
        if ends is not None and is_local(rules):
            self._quick = ChunkTokenizer(self._bare, *ends, self._max_length, cut_left=side == "left")

    def _specials(self) -> tuple[list[int], list[int]] | None:
        """The special tokens before and after every text; None where they cannot be told from the text."""
        if not self.special:
            return [], []
        whole, core = self._ids(["x"], whole=True)[0], self._ids(["x"], whole=False)[0]
        at = next((i for i in range(len(whole)) if core and whole[i : i + len(core)] == core), None)
        return None if at is None else (whole[:at], whole[at + len(core) :])

    def json(self, cut: bool = False) -> str:
        """Vocabulary and rules as text; with `cut` the length limit is part of it."""
        if self._bare is not None and self._full is not None:
            return (self._full if cut else self._bare).to_str()
        return json.dumps(self.source.get_vocab(), sort_keys=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextTokenizer:
        return TextTokenizer(self.source, self._max_length, self.special)

    def _ids(self, texts: list[str], whole: bool) -> list[list[int]]:
        """Token ids: `whole` with special tokens and truncation, else neither."""
        special = self.special and whole
        if self._full is not None and self._bare is not None:
            core = self._full if whole else self._bare
            return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=special)]
        settings = {"truncation": True, "max_length": self._max_length} if whole else {}
        return list(self.source(texts, add_special_tokens=special, **settings)["input_ids"])

    def __call__(self, texts: list[str], prompt: str = "") -> Inputs:
        """`Inputs` of the texts under a prompt text (may hold one ``{}`` or ``{.}``)."""
        if SENTENCE_SLOT in prompt:
            texts, prompt = [ended(text) for text in texts], prompt.replace(SENTENCE_SLOT, SLOT)
        prefix, slot, suffix = prompt.partition(SLOT)
        if SLOT in suffix:
            raise UserError(f"prompt {prompt!r} has more than one {SLOT}", remedy="keep one slot for the text")
        if not texts:
            return Inputs(torch.zeros(0, dtype=torch.int64), np.zeros(1, dtype=np.int64))
        if not slot or not suffix:
            texts = [prefix + text for text in texts] if prefix else texts
            return self._quick(texts) if self._quick is not None else Inputs.of(self._ids(texts, whole=True))
        return self._filled(texts, prefix, suffix)

    def prompt_length(self, prompt: str) -> int:
        """Tokens in front of a text under a prompt text, special ones included: those of the prompt alone without its
        end token, as sentence-transformers counts them."""
        prefix = prompt.replace(SENTENCE_SLOT, SLOT).partition(SLOT)[0]
        if not prefix:
            return 0
        ids = self._ids([prefix], whole=True)[0]
        return len(ids) - (ids[-1] in set(getattr(self.source, "all_special_ids", ())))

    def _filled(self, texts: list[str], prefix: str, suffix: str) -> Inputs:
        head = prefix.rstrip()
        space = prefix[len(head) :]
        before, after = self._ids([head], whole=False)[0] if head else [], self._ids([suffix], whole=False)[0]
        ends = self._specials()
        if ends is None:
            raise UserError(
                "this tokenizer's special tokens cannot be found", remedy="use a prompt without text behind"
            )
        before, after = ends[0] + before, after + ends[1]
        room = self._max_length - len(before) - len(after)
        if room < 1:
            raise UserError(
                f"the template leaves no room for text in {self._max_length} tokens", remedy="raise max_length"
            )
        middles = self._ids([space + text for text in texts] if space else texts, whole=False)
        rows = [before + middle[:room] + after for middle in middles]
        mask = getattr(self.source, "mask_token_id", None)
        template = [*before, None, *after]
        if mask is None or mask not in template:
            return Inputs.of(rows)
        at = template.index(mask)
        gaps = np.asarray([[len(before), len(row) - len(after)] for row in rows], dtype=np.int64).reshape(-1, 2)
        marks = [at if at < len(before) else len(row) - len(template) + at for row in rows]
        return Inputs.of(rows, marks, {"gaps": gaps})


def is_prefix(prompt: str) -> bool:
    """Whether a prompt only puts text in front.

    Examples
    --------
    >>> is_prefix("query: "), is_prefix("query: {}"), is_prefix("{} means [MASK].")
    (True, True, False)
    """
    if SENTENCE_SLOT in prompt:
        return False
    return SLOT not in prompt or (prompt.count(SLOT) == 1 and prompt.endswith(SLOT))
