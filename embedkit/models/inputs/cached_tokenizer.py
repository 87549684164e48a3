"""Quick tokenisation by memory: the word pieces of a chunk of text between two spaces are computed once.

A BERT-like tokenizer costs some 50 microseconds a sentence, more than a static encoder's whole training step spends on
it. Its rules never look across a space, so the pieces of a text are those of its chunks, one after the other, and
natural text repeats its chunks. The tokenizer itself computes each chunk that is new; nothing is imitated.

Texts are cut, and equal chunks of them found, by arrow, whose loops neither are Python's nor hold its lock: a training
step runs on while the next batch is tokenised.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Pieces:
    """Word pieces of chunks by their number: chunk k is ``flat[starts[k]:starts[k] + lengths[k]]``; all int64."""

    flat: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> _Pieces:
        """The pieces of some chunks."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.fromiter((piece for row in rows for piece in row), np.int64, int(lengths.sum()))
        return cls(flat, np.cumsum(lengths) - lengths, lengths)

    def __add__(self, other: _Pieces) -> _Pieces:
        pairs = ((self.flat, other.flat), (self.starts, other.starts + len(self.flat)), (self.lengths, other.lengths))
        return _Pieces(*(np.concatenate(pair) for pair in pairs))

    def take(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pieces of `chunks` (W,), one chunk after the other, (T,), and how many each has, (W,)."""
        lengths = self.lengths[chunks]
        shift = self.starts[chunks] - (np.cumsum(lengths) - lengths)
        return self.flat[np.repeat(shift, lengths) + np.arange(int(lengths.sum()))], lengths


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
        self._core = core
        self._before, self._after = np.asarray(before, np.int64), np.asarray(after, np.int64)
        self._room, self._cut_left = max(max_length - len(before) - len(after), 0), cut_left
        self._memory: dict[str, int] = {}  # chunk -> its number in the pieces
        self._pieces = _Pieces.of([])
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, texts: list[str]) -> Inputs:
        """`Inputs` of the texts."""
        import pyarrow as pa  # a tenth of a second, which a model of another kind need not wait for
        import pyarrow.compute as pc

        split = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
        words = split.values.dictionary_encode()
        numbers, pieces = self._learn(words.dictionary.to_pylist())
        ids, lengths = pieces.take(numbers[words.indices.to_numpy()])
        ends = np.concatenate([[0], np.cumsum(lengths)])[split.offsets.to_numpy()]
        return self._whole(ids, np.diff(ends))

    def _whole(self, ids: np.ndarray, lengths: np.ndarray) -> Inputs:
        """The texts, `lengths` (N,) of `ids` each, cut to what there is room for, between their special tokens."""
        fit = np.minimum(lengths, self._room)
        if not np.array_equal(fit, lengths):
            first = lengths - fit if self._cut_left else np.zeros_like(fit)
            place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            ids = ids[(place >= np.repeat(first, lengths)) & (place < np.repeat(first + fit, lengths))]
        before, after = len(self._before), len(self._after)
        offsets = np.concatenate([[0], np.cumsum(fit + (before + after))])
        if before + after:
            whole = np.empty(offsets[-1], np.int64)
            whole[np.arange(len(ids)) + np.repeat(np.arange(len(fit)) * (before + after) + before, fit)] = ids
            whole[offsets[:-1, None] + np.arange(before)] = self._before
            whole[offsets[1:, None] - after + np.arange(after)] = self._after
            ids = whole
        return Inputs(torch.from_numpy(ids), offsets)

    def _learn(self, chunks: list[str]) -> tuple[np.ndarray, _Pieces]:
        """The numbers of different `chunks`, and pieces that hold all of them."""
        with self._lock:
            memory, pieces = self._memory, self._pieces
            numbers = [memory.get(chunk, -1) for chunk in chunks]
            new = [chunk for chunk, number in zip(chunks, numbers, strict=True) if number < 0]
            if not new:
                return np.asarray(numbers, np.int64), pieces
            worth = [chunk for chunk in new if len(chunk) <= LONGEST_CHUNK]
            long = [chunk for chunk in new if len(chunk) > LONGEST_CHUNK]
            more = _Pieces.of([encoding.ids for encoding in self._encoded(worth)])
            own = {chunk: len(memory) + place for place, chunk in enumerate([*worth, *long])}
            if len(memory) + len(worth) > MOST_CHUNKS:
                self._memory, self._pieces = {chunk: place for place, chunk in enumerate(worth)}, more
            else:
                memory.update((chunk, own[chunk]) for chunk in worth)
                self._pieces = pieces + more
            every = pieces + more + _Pieces.of([encoding.ids for encoding in self._encoded(long)])
            return np.fromiter((n if n >= 0 else own[c] for c, n in zip(chunks, numbers, strict=True)), np.int64), every

    def _encoded(self, chunks: list[str]) -> list[Any]:
        return self._core.encode_batch_fast(chunks, add_special_tokens=False) if chunks else []
