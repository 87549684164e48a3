"""The nearest candidates of each anchor, exactly: the same bits for any block size, device and type of the products.

`TopK` finds more candidates than are needed by matrix products in bfloat16 where the processor has them, in float32
elsewhere; their last bits depend on the shapes of the blocks. The scores are then computed anew in float64, pair by
pair, and the order is that of these. Where a candidate that was not found could still belong to the best, by the bound
of the rounding errors, the anchor is searched once more: in float32, and with more candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embedkit.retrieval.arrays import Array
from embedkit.retrieval.exact import TopK
from embedkit.retrieval.vectors import Vectors, inner_products
from embedkit.system.cpu import cpu_has_bf16

_SPARE = 32
_BYTES = 64 * 2**20
"""Room for the best of all anchors of a block."""
_QUERY_BLOCK = 1024
_RELEASE = 512
"""Anchors after whose candidates the pages of a file that hold these are given back."""
_FEWEST = 4_096
"""Candidates from which bfloat16 pays."""
_FEWEST_ANCHORS = 8
"""Anchors from which it does: for fewer, to round the candidates costs more than to multiply them."""


def nearest_candidates(
    anchors: Vectors, candidates: Vectors, needs: Array, *, block_size: int, device: str = "cpu"
) -> Iterator[tuple[int, Array, Array]]:
    """``(anchor, places, scores)`` of every anchor, in no particular order: at least its `needs` best candidates.

    Parameters
    ----------
    anchors, candidates : Vectors
        (A, D) and (C, D).
    needs : int array (A,)
        Candidates that are wanted for each anchor; cut to C.
    block_size : int
        Candidates, and anchors at most, that are read at a time.
    device : str
        Where the matrix products run.

    Yields
    ------
    tuple
        The anchor's place, places (k,) of candidates, the best first and the earlier first among equal ones, and their
        float64 scores (k,).

    Examples
    --------
    >>> anchors = Vectors(np.array([[1.0, 0.0]]), "a", unit=False)
    >>> candidates = Vectors(np.array([[0.5, 0.5], [0.0, 1.0], [0.75, 0.0]]), "c", unit=False)
    >>> [(anchor, places, scores)] = nearest_candidates(anchors, candidates, np.array([2]), block_size=2)
    >>> places[:2].tolist(), scores[:2].tolist()
    ([2, 0], [0.75, 0.5])
    """
    size = len(candidates)
    needs = np.minimum(needs, size)
    order = np.argsort(needs, kind="stable")  # anchors that want about as many share a block
    coarse = size >= _FEWEST and len(anchors) >= _FEWEST_ANCHORS and device == "cpu" and cpu_has_bf16()
    search = _Search(anchors, candidates, block_size, device, "bf16" if coarse else "fp32")
    spare = _SPARE
    while len(order):
        order_left: list[Array] = []
        for rows, k in _blocks(order, needs, spare, size, block_size):
            queries = anchors.rows(rows)
            values, places = search(queries, k)
            errors = search.errors(queries)
            certain = np.zeros(len(rows), dtype=bool)
            for number, row in enumerate(rows):
                best, scores = _exact(queries[number], candidates, places[number])
                certain[number] = k == size or scores[needs[row] - 1] > values[number, -1] + errors[number]
                if certain[number]:
                    yield int(row), best[: needs[row]], scores[: needs[row]]
                if number % _RELEASE == 0:
                    candidates.release()
            order_left.append(rows[~certain])
        order = np.concatenate(order_left)
        if search.dtype == "fp32":
            spare *= 16
        search.dtype = "fp32"


@dataclass
class _Search:
    """The best candidates by matrix products in `dtype`, and how far a score can be from the true one."""

    anchors: Vectors
    candidates: Vectors
    block_size: int
    device: str
    dtype: str

    def __call__(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Scores float32 and places (n, k) for queries (n, D), best first."""
        size = len(self.candidates)
        search = TopK(queries, k, size, query_block=min(_QUERY_BLOCK, self.block_size), device=self.device,
                      dtype=self.dtype)  # fmt: skip
        residuals = []
        for start in range(0, size, self.block_size):
            block = self.candidates.rows(slice(start, start + self.block_size))
            search.add(start, block)
            if self.dtype == "bf16" and self.candidates.residual is None:
                residuals.append(float(_residuals(block).max()))
            self.candidates.release()
        if residuals:
            self.candidates.residual = max(residuals)
        return search.result()

    def errors(self, queries: Array) -> Array:
        """For each query (n,) how far a score can be from the true one at most: by sums in float32 and, with bfloat16,
        by the rounding of both vectors (Cauchy-Schwarz) and of the score."""
        largest = self.candidates.largest
        norms = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1))
        errors = (self.candidates.dim + 2) * 2.0**-23 * norms * largest
        if self.dtype == "bf16":
            errors += _residuals(queries) * largest + norms * (1 + 2.0**-8) * (self.candidates.residual or 0.0)
            errors += 2.0**-8 * norms * largest
        return errors * (1 + 2.0**-20)


def _residuals(vectors: Array) -> Array:
    """Lengths (n,) of what bfloat16 cuts off float32 vectors (n, D)."""
    import torch

    whole = torch.from_numpy(vectors)
    lengths = (whole - whole.bfloat16().float()).norm(dim=1).double().numpy()
    return np.asarray(lengths * (1 + 2.0**-10))  # the difference is exact in float32, the sum of squares nearly


def _blocks(order: Array, needs: Array, spare: int, size: int, most: int) -> Iterator[tuple[Array, int]]:
    """Anchors that are searched together, and how many candidates are kept for each of them."""
    stop = len(order)
    while stop:
        k = min(int(needs[order[stop - 1]]) + spare, size)
        count = max(1, min(most, _BYTES // (8 * (2 * k + 64))))
        start = max(0, stop - count)
        yield order[start:stop], k
        stop = start


def _exact(query: Array, candidates: Vectors, places: Array) -> tuple[Array, Array]:
    """Places by their score in float64, and these scores."""
    places = np.sort(places)
    scores = inner_products(query, candidates.rows(places))
    order = np.argsort(-scores, kind="stable")
    return places[order], scores[order]
