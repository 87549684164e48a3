"""Quick tokenisation by memory: the word pieces of a chunk of text between two spaces are computed once.

A BERT-like tokenizer costs some 50 microseconds a sentence, more than a static encoder's whole training step spends on
it. Its rules never look across a space, so the pieces of a text are those of its chunks, one after the other, and
natural text repeats its chunks. The tokenizer itself computes each chunk that is new; nothing is imitated.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from embedkit.models.inputs.inputs import Inputs

# Chunks kept, and the longest that is worth keeping: about 50 MB at most.
MOST_CHUNKS = 300_000
LONGEST_CHUNK = 64

_LOCAL_NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD"})
_LOCAL_SPLITS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
_LOCAL_MODELS = frozenset({"WordPiece", "WordLevel"})


def is_local(rules: str) -> bool:
    """Whether a tokenizer (its JSON) treats the chunks between two spaces independently of each other.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> is_local(tokenizer().backend_tokenizer.to_str())
    True
    """
    parts = json.loads(rules)
    normalizer, split = parts.get("normalizer"), parts.get("pre_tokenizer") or {}
    steps: list[Any] = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    return (
        all(step["type"] in _LOCAL_NORMALIZERS for step in steps)
        and split.get("type") in _LOCAL_SPLITS
        and parts["model"]["type"] in _LOCAL_MODELS
        and not any(" " in token["content"] for token in parts.get("added_tokens", []))
    )


class ChunkTokenizer:
    """Texts to ragged ids through a memory of chunks. Safe to use from several threads.

    Parameters
    ----------
    core : Tokenizer
        A tokenizer for which `is_local` holds, without truncation and padding.
    before, after : list of int
        Special tokens around every text.
    max_length : int
        Tokens of a text at most, special tokens included.
    cut_left : bool
        Drop tokens at the start of a text that is too long, not at its end.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> core = tokenizer().backend_tokenizer
    >>> ChunkTokenizer(core, before=[2], after=[3], max_length=8)(["a dog", "a big dog"]).rows()
    [[2, 5, 187, 3], [2, 5, 128, 187, 3]]
    """

    def __init__(
        self, core: Tokenizer, before: list[int], after: list[int], max_length: int, cut_left: bool = False
    ) -> None:
        self._core, self._before, self._after = core, before, after
        self._room, self._cut_left = max(max_length - len(before) - len(after), 0), cut_left
        self._memory: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> Inputs:
        """`Inputs` of the texts."""
        split = [text.split(" ") for text in texts]
        memory = self._learn(split)
        flat: list[int] = []
        ends = np.empty(len(texts) + 1, dtype=np.int64)
        ends[0] = 0
        for number, chunks in enumerate(split, 1):
            flat += self._before
            start = len(flat)
            for chunk in chunks:
                flat += memory[chunk]
            if len(flat) - start > self._room:
                if self._cut_left:
                    del flat[start : len(flat) - self._room]
                else:
                    del flat[start + self._room :]
            flat += self._after
            ends[number] = len(flat)
        return Inputs(torch.from_numpy(np.fromiter(flat, np.int64, len(flat))), ends)

    def _learn(self, split: list[list[str]]) -> dict[str, list[int]]:
        """A memory that holds every chunk of `split`."""
        memory, met = self._memory, set[str]().union(*split)
        new = [chunk for chunk in met if chunk not in memory]
        if not new:
            return memory
        encodings = self._core.encode_batch_fast(new, add_special_tokens=False)
        pieces = {chunk: encoding.ids for chunk, encoding in zip(new, encodings, strict=True)}
        worth = {chunk: ids for chunk, ids in pieces.items() if len(chunk) <= LONGEST_CHUNK}
        if len(memory) + len(worth) > MOST_CHUNKS:
            self._memory = worth  # a new one: another thread may still look up chunks in the old one
        else:
            memory.update(worth)  # in place: other threads only look chunks up, and none is taken out
            if len(worth) == len(pieces):
                return memory
        return {chunk: memory[chunk] for chunk in met.difference(pieces)} | pieces
