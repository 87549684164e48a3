"""Scores of pairs by an encoder: the similarity of the vectors of both texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.vectors import Encoding


class GuideScorer:
    """Similarities of texts to an encoder, the first as queries and the second as documents.

    Parameters
    ----------
    model : object
        Anything with ``encode``.
    similarity : str
        ``cosine``, or ``dot`` for inner products.
    query_prompt, corpus_prompt : str, optional
        Name or text of the prompt of either side; the model's own when None.
    dim : int, optional
        Keep the first coordinates only.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> vowels = SimpleNamespace(encode=lambda texts: np.array([[t.count("a"), t.count("i")] for t in texts], float))
    >>> GuideScorer(vowels)(["banana", "kiwi"], ["mama", "papa"]).tolist()
    [1.0, 0.0]
    """

    def __init__(
        self, model: Any, *, similarity: str = "cosine", query_prompt: str | None = None,
        corpus_prompt: str | None = None, dim: int | None = None,
    ) -> None:  # fmt: skip
        self.name, self.labels = "the model", ()
        self._encoding = Encoding(model, unit=similarity == "cosine", dim=dim)
        self._prompts = query_prompt, corpus_prompt

    def __call__(
        self, texts_a: Sequence[str], texts_b: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Array:
        """float64 (N,), a similarity a pair; equal texts are encoded once."""
        first = self._vectors(texts_a, 0)
        second = self._vectors(texts_b, 1)
        scores: Array = np.asarray((first * second).sum(axis=1), dtype=np.float64)
        return scores

    def _vectors(self, texts: Sequence[str], side: int) -> Array:
        """The vectors (N, D) in float64."""
        place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        table = self._encoding.vectors(list(place_of), "document" if side else "query", self._prompts[side])
        return table.rows([place_of[text] for text in texts]).astype(np.float64)
