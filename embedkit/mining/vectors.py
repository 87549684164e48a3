"""Vectors of anchors and candidates, encoded by a model; what is common to all vectors is in `embedkit.retrieval`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.provenance import describe_model, model_key
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.task import Side
from embedkit.mining.parts import Parts
from embedkit.retrieval.vectors import Vectors
from embedkit.retrieval.vectors import inner_products as inner_products
from embedkit.retrieval.vectors import open_vectors as open_vectors

CHUNK = 16_384
"""Texts that are encoded together, whatever the block size of the search and the number of processes are."""


class Encoding:
    """Texts to vectors by a model, each text once, with the prompt of its role.

    Parameters
    ----------
    model : object
        Anything with ``encode(list) -> (N, D)``; its ``prompts`` are read where it has any.
    unit : bool
        See `Vectors`.
    dim : int, optional
        Keep the first coordinates only.
    progress : callable, optional
        Gets (texts done, texts in all).

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> vowels = SimpleNamespace(encode=lambda texts: np.array([[t.count(c) for c in "ai"] for t in texts], float))
    >>> Encoding(vowels, unit=False).vectors(["banana", "kiwi"], "document").rows([0, 1]).tolist()
    [[3.0, 0.0], [0.0, 2.0]]
    """

    def __init__(
        self, model: Any, *, unit: bool, dim: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._embedder = Embedder(model, dim=dim)
        self._unit, self._progress = unit, progress

    def identity(self) -> str | None:
        """What decides the vectors besides texts and prompts; None where it cannot be told."""
        key = model_key(describe_model(self._embedder.model))
        return None if key is None else f"{key}\ndim={self._embedder.dim}"

    def vectors(
        self, texts: Sequence[Item], side: Side | None, prompt: str | None = None, parts: Parts | None = None
    ) -> Vectors:
        """Vectors of `texts` in their order; the parts of `CHUNK` texts are shared among processes, and kept, as
        `Parts` says."""

        def encode(number: int) -> Array:
            start = number * CHUNK
            chunk = texts[start : start + CHUNK]
            if self._progress is not None:
                tell = self._progress
                self._embedder.progress = lambda count, _: tell(start + count, len(texts))
            [(_, vectors)] = self._embedder.blocks(chunk, CHUNK, prompt, side=side)
            return vectors

        name = f"vectors-{side or 'rows'}"
        table = (parts or Parts(None)).table(name, -(-len(texts) // CHUNK), encode, len(texts))
        return Vectors(table, f"the model's vectors of the {side or 'rows'}", unit=self._unit)
