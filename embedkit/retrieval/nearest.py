"""The nearest candidates of each anchor, exactly: the same bits for any block size.

`TopK` finds more candidates than are needed by matrix products in float32, whose last bits depend on the shapes of the
blocks. Their scores are then computed anew in float64, pair by pair, and the order is that of these. Where a candidate
that was not found could still belong to the best, by the rounding error of float32, more are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from embedkit.retrieval.exact import Array, TopK
from embedkit.retrieval.vectors import Vectors, inner_products

_SPARE = 32
_BYTES = 64 * 2**20
"""Room for the best of all anchors of a block."""


def nearest_candidates(
    anchors: Vectors, candidates: Vectors, needs: Array, *, block_size: int
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
    # twice the bound of a sum of D products in float32, and what rounding a score to float32 adds
    error = (candidates.dim + 2) * 2.0**-23 * anchors.largest * candidates.largest
    order = np.argsort(needs, kind="stable")  # anchors that want about as many share a block
    spare = _SPARE
    while len(order):
        order_left: list[Array] = []
        for rows, k in _blocks(order, needs, spare, size, block_size):
            queries = anchors.rows(rows)
            search = TopK(queries, k, size, query_block=min(1024, block_size))
            for start in range(0, size, block_size):
                search.add(start, candidates.rows(slice(start, start + block_size)))
            values, places = search.result()
            certain = np.zeros(len(rows), dtype=bool)
            for number, row in enumerate(rows):
                best, scores = _exact(queries[number], candidates, places[number])
                certain[number] = k == size or scores[needs[row] - 1] > values[number, -1] + error
                if certain[number]:
                    yield int(row), best[: needs[row]], scores[: needs[row]]
            order_left.append(rows[~certain])
        order = np.concatenate(order_left)
        spare *= 16


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
