"""Vectors of anchors and candidates, encoded by a model; what is common to all vectors is in `embedkit.retrieval`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.task import Side
from embedkit.retrieval.vectors import Vectors
from embedkit.retrieval.vectors import inner_products as inner_products
from embedkit.retrieval.vectors import open_vectors as open_vectors

WINDOW = 65_536
"""Texts that are encoded together, whatever the block size of the search is; more of them stand in a temporary file."""


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
    >>> from types import SimpleNamespace
    >>> vowels = SimpleNamespace(encode=lambda texts: np.array([[t.count(c) for c in "ai"] for t in texts], float))
    >>> Encoding(vowels, unit=False).vectors(["banana", "kiwi"], "document").rows([0, 1]).tolist()
    [[3.0, 0.0], [0.0, 2.0]]
    """

    def __init__(
        self, model: Any, *, unit: bool, dim: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._embedder = Embedder(model, dim=dim, progress=progress)
        self._unit = unit

    def vectors(self, texts: Sequence[str], side: Side, prompt: str | None = None) -> Vectors:
        """Vectors of `texts` in their order, kept in a temporary file where they are more than `WINDOW`."""
        table: Array | None = None
        for start, block in self._embedder.blocks(texts, WINDOW, prompt, side=side):
            if len(texts) <= WINDOW:
                table = block
                continue
            if table is None:
                file = tempfile.TemporaryFile()  # noqa: SIM115 - gone when the map is
                table = np.memmap(file, np.float32, "w+", shape=(len(texts), block.shape[1]))
            table[start : start + len(block)] = block
        assert table is not None  # there is at least one text
        return Vectors(table, f"the model's vectors of the {side} texts", unit=self._unit)
