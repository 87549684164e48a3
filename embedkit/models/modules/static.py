"""Static text encoders: the mean of trained vectors of word pieces and, optionally, of hashed word n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.augment.counter_rng import GOLDEN, mixed
from embedkit.models.base import Model
from embedkit.models.execution.table_mean import KeptGradient, table_mean
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.tokens import TextTokenizer, check_ids, check_texts, resolve_prompt

# Texts of a static model are not cut unless a limit is asked for, as in sentence-transformers.
NO_LIMIT = 1_000_000


class StaticEncoder(Model):
    """A bag of word pieces and word n-grams (Sent2Vec, Pagliardini et al. 2018, section 2).

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Its word pieces are used without special tokens.
    dim : int
        Size of the vectors.
    ngrams : int
        Longest word n-gram; 1 uses word pieces only.
    buckets : int
        Rows of the table for n-grams of two or more words, which are hashed.
    weight : Tensor (rows, dim), optional
        Trained vectors: one row per word piece, then one per bucket. Standard normal ones when None, the start of
        `torch.nn.EmbeddingBag`.
    max_length, normalize, prompts, default_prompt, similarity_fn_name
        See `Model`.

    A text without any word piece has the zero vector.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> model = StaticEncoder(tokenizer(), dim=8, ngrams=2, buckets=100)
    >>> model.encode(["a dog", "two cats"]).shape
    (2, 8)
    """

    kind = "static"
    pooling = "mean"

    def __init__(
        self,
        tokenizer: Any,
        dim: int,
        ngrams: int = 1,
        buckets: int = 200_000,
        weight: Tensor | None = None,
        max_length: int | None = None,
        normalize: bool = True,
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        similarity_fn_name: str = "cosine",
    ) -> None:
        super().__init__()
        self.similarity_fn_name = similarity_fn_name
        self.tokenizer = tokenizer
        self.dim = dim
        self.ngrams = ngrams
        self.buckets = buckets if ngrams > 1 else 0
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt = default_prompt
        self._tokenize = TextTokenizer(tokenizer, max_length or NO_LIMIT, special=False)
        self._pieces = len(tokenizer) if weight is None else len(weight) - self.buckets
        if weight is not None and weight.shape[1] != dim:
            raise ModelError(f"the vectors have {weight.shape[1]} coordinates, not {dim}")
        self.embedding = nn.EmbeddingBag(self._pieces + self.buckets, dim, mode="mean", _weight=weight)
        self._gradient = KeptGradient()
        self._continues = _continuations(tokenizer, self._pieces) if ngrams > 1 else np.zeros(0, dtype=bool)

    @property
    def pieces(self) -> int:
        """Rows of the table for word pieces; those behind are for n-grams."""
        return self._pieces

    @property
    def max_length(self) -> int:
        """Word pieces of a text at most."""
        return self._tokenize.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._tokenize.max_length = value

    def prepare(self, inputs: Sequence[str], prompt: str | None = None) -> Inputs:
        """Rows of the table for each text: its word pieces, then its n-grams."""
        texts, template = check_texts(inputs), resolve_prompt(prompt, self.prompts, self.default_prompt)
        remedy = "use the tokenizer saved with the vectors"
        pieces = check_ids(self._tokenize(texts, template), self._pieces, texts, remedy)
        if self.ngrams == 1:
            return pieces
        rows, owner = word_ngrams(pieces.ids.numpy(), pieces.offsets, self._continues, self.ngrams)
        grams = (rows % np.uint64(self.buckets)).astype(np.int64) + self._pieces
        lengths = pieces.costs + np.bincount(owner, minlength=len(pieces))
        order = np.argsort(np.concatenate([np.repeat(np.arange(len(pieces)), pieces.costs), owner]), kind="stable")
        flat = np.concatenate([pieces.ids.numpy(), grams])[order]
        return Inputs(torch.from_numpy(flat), np.concatenate([[0], np.cumsum(lengths)]))

    def forward(self, inputs: Inputs) -> Tensor:
        """Mean vectors (N, D), not normalised."""
        offsets = torch.from_numpy(inputs.offsets[:-1]).to(inputs.device)
        weight = self.embedding.weight
        if torch.is_grad_enabled() and weight.requires_grad and len(inputs):
            return table_mean(inputs.ids, offsets, weight, self._gradient)
        return F.embedding_bag(inputs.ids, weight, offsets, mode="mean")

    def spec(self) -> dict[str, Any]:
        """Settings that decide the vectors."""
        return {
            "pooling": "mean", "ngrams": self.ngrams, "buckets": self.buckets, "max_length": self.max_length,
            "normalize": self.normalize, "prompts": self.prompts, "default_prompt": self.default_prompt,
            **self._similarity_spec(),
        }  # fmt: skip

    def tokenizer_json(self, cut: bool = False) -> str:
        """The tokenizer as text; with `cut` the limit on the length stands in it."""
        return self._tokenize.json(cut=cut)


def _continuations(tokenizer: Any, pieces: int) -> np.ndarray:
    """Which word pieces continue a word: "##x" of WordPiece, or those without the word mark of BPE and Unigram."""
    table = tokenizer.get_vocab()
    mark = next((m for m in ("Ġ", "▁") if sum(piece.startswith(m) for piece in table) > len(table) // 10), None)
    special = set(tokenizer.all_special_tokens)
    continues = np.zeros(pieces, dtype=bool)
    for piece, number in table.items():
        inner = piece.startswith("##") if mark is None else not piece.startswith(mark)
        continues[number] = inner and piece not in special
    return continues


def word_ngrams(
    ids: np.ndarray, offsets: np.ndarray, continues: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the word n-grams of 2 to `longest` words in ragged texts.

    Parameters
    ----------
    ids, offsets : int64 arrays (T,) and (N + 1,)
        Word pieces of N texts.
    continues : bool array (V,)
        Which pieces continue a word.
    longest : int
        Most words of an n-gram.

    Returns
    -------
    hashes, owner : uint64 and int64 arrays (G,)
        A hash that depends on the pieces of the words and their order only, and the text it comes from.

    Examples
    --------
    >>> pieces, offsets = np.array([5, 6, 7, 8]), np.array([0, 3, 4])
    >>> hashes, owner = word_ngrams(pieces, offsets, np.zeros(10, dtype=bool), longest=2)
    >>> len(hashes), owner.tolist()
    (2, [0, 0])
    """
    starts = ~continues[ids]
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    first = np.flatnonzero(starts)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[first]  # (W,) the text of each word
    if len(first) == 0:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    place = np.arange(len(ids)) - np.repeat(first, np.diff(np.append(first, len(ids))))
    word = np.add.reduceat(mixed(ids.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(40)) + GOLDEN), first)
    hashes, owners = [], []
    chain = word
    for n in range(2, longest + 1):
        inside = owner[n - 1 :] == owner[: len(owner) - n + 1]
        # chain[i]: words i .. i + n - 1
        chain = mixed(chain[: len(word) - n + 1] * np.uint64(3) + word[n - 1 :] + GOLDEN)
        hashes.append(chain[inside])
        owners.append(owner[: len(inside)][inside])
    return np.concatenate(hashes), np.concatenate(owners)
