"""Subsets of vectors by greedy algorithms: cover, representation, expected augmentation similarity.

Sums are float64, and gains are compared with nine decimals, of equal ones the first: the same rows on every machine.
"""

from __future__ import annotations

import heapq

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.vectors import Vectors

_BLOCK = 2048
_BATCH = 64
_DIGITS = 9


def _products(vectors: Vectors, rows: Array, others: Array | slice) -> Array:
    """Inner products (n, m) in float64."""
    return np.asarray(vectors.rows(rows).astype(np.float64) @ vectors.rows(others).astype(np.float64).T)


def k_centre(vectors: Vectors, count: int) -> tuple[Array, float]:
    """Rows such that each vector is near one of them: the greedy 2-approximation of Gonzalez 1985.

    The first row is the first of the subset; each further one is the vector farthest from the subset so far (Sener and
    Savarese 2018).

    Parameters
    ----------
    vectors : Vectors
        (N, D), of length 1.
    count : int
        Rows of the subset, 1 to N.

    Returns
    -------
    tuple
        The rows (count,) in the order of their choice, and the largest distance (1 - cosine) of a vector to the nearest
        of them.

    Examples
    --------
    >>> k_centre(Vectors(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), "t", unit=True), 2)[0].tolist()
    [0, 2]
    """
    nearest = np.full(len(vectors), -np.inf)
    rows = [0]
    while True:
        centre = vectors.rows([rows[-1]])[0].astype(np.float64)
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            new = np.round(vectors.rows(part).astype(np.float64) @ centre, _DIGITS)
            np.maximum(nearest[part], new, out=nearest[part])
        if len(rows) == count:
            return np.array(rows), max(0.0, 1 - float(nearest.min()))
        free = nearest.copy()
        free[rows] = np.inf  # an equal vector is as near, and not yet chosen
        rows.append(int(free.argmin()))


def facility_location(vectors: Vectors, count: int) -> tuple[Array, float]:
    """Rows that represent all: greedy maximum of the sum, over all vectors, of the cosine to the most similar row.

    Negative cosines count as 0, so that the sum is submodular and the greedy subset within 1 - 1/e of the best
    (Nemhauser, Wolsey and Fisher 1978). Gains only shrink, so that most need not be computed anew (Minoux 1978).

    Parameters
    ----------
    vectors : Vectors
        (N, D), of length 1.
    count : int
        Rows of the subset, 1 to N.

    Returns
    -------
    tuple
        The rows (count,) in the order of their choice, and the mean cosine of a vector to the most similar of them.

    Examples
    --------
    >>> facility_location(Vectors(np.array([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1]]), "t", unit=True), 1)[0].tolist()
    [2]
    """
    size = len(vectors)
    covered = np.zeros(size)

    def gains(rows: Array) -> Array:
        total = np.zeros(len(rows))
        for start in range(0, size, _BLOCK):
            part = slice(start, min(start + _BLOCK, size))
            scores = _products(vectors, rows, part)  # (n, B)
            total += np.maximum(scores - covered[part], 0).sum(axis=1)
        return np.round(total, _DIGITS)

    bounds = np.concatenate([gains(np.arange(start, min(start + _BLOCK, size))) for start in range(0, size, _BLOCK)])
    heap = [(-bound, row, 0) for row, bound in enumerate(bounds.tolist())]  # gain, row, subset it was computed for
    heapq.heapify(heap)
    rows: list[int] = []
    while len(rows) < count:
        if heap[0][2] == len(rows):
            rows.append(heapq.heappop(heap)[1])
            for start in range(0, size, _BLOCK):
                part = slice(start, start + _BLOCK)
                scores = _products(vectors, np.array(rows[-1:]), part)[0]
                np.maximum(covered[part], scores, out=covered[part])
            continue
        old = [heapq.heappop(heap) for _ in range(min(_BATCH, len(heap)))]
        for gain, (_, row, _) in zip(gains(np.array([row for _, row, _ in old])).tolist(), old, strict=True):
            heapq.heappush(heap, (-gain, row, len(rows)))
    return np.array(rows), float(covered.mean())


def augmentation_similarity(vectors: Vectors, count: int, floor: float = 0.0) -> Array:
    """Rows whose augmentations are most similar, in expectation, to those of the other rows, and least to each other.

    Greedy for F(S) = sum of s(i, j) over i in S and all other rows j, less the sum over the pairs of S, where s is the
    cosine, or 0 below `floor`: SAS of Joshi and Mirzasoleiman 2023 (arXiv 2302.09195), within one class.

    Parameters
    ----------
    vectors : Vectors
        (N, D): the mean over augmentations of the vectors of each row, not scaled, so that the product of two is the
        mean cosine of their augmentations.
    count : int
        Rows of the subset, 1 to N.
    floor : float
        Smaller similarities count as 0.

    Returns
    -------
    int array (count,)
        In the order of their choice.

    Examples
    --------
    >>> table = np.array([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [0.9, 0.0]])
    >>> augmentation_similarity(Vectors(table, "t", unit=False), 2).tolist()
    [2, 1]
    """
    size = len(vectors)
    gains = np.zeros(size)

    def similarity(rows: Array, part: slice) -> Array:
        scores = np.round(_products(vectors, rows, part), _DIGITS)
        return np.where(scores >= floor, scores, 0.0)

    for start in range(0, size, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, size))
        for other in range(0, size, _BLOCK):
            part = slice(other, min(other + _BLOCK, size))
            scores = similarity(rows, part)
            if other == start:
                np.fill_diagonal(scores, 0.0)
            gains[rows] += scores.sum(axis=1)
    subset: list[int] = []
    while len(subset) < count:
        row = int(np.round(gains, 6).argmax())
        subset.append(row)
        for start in range(0, size, _BLOCK):
            part = slice(start, min(start + _BLOCK, size))
            gains[part] -= similarity(np.array([row]), part)[0]
        gains[row] = -np.inf
    return np.array(subset)
