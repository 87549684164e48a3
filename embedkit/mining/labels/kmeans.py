"""k-means of vectors that need not fit into memory: k-means++ seeding, Lloyd's steps in blocks, several restarts.

Everything that decides is deterministic: draws come from the raw numbers of PCG64, distances are float64, and of equal
ones the first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.vectors import Vectors

_BLOCK = 8192


@dataclass(frozen=True)
class Clustering:
    """The clusters of some vectors, the largest first; of equally large ones that with the earlier first row.

    Attributes
    ----------
    labels : int64 array (N,)
        Cluster of each vector, from 0.
    centres : float64 array (k, D)
        Their means; of length 1 where clusters are spherical.
    inertia : float
        Sum of the squared distances to the own centre.
    steps : int
        Steps until no vector changed its cluster, or those that were allowed.
    converged : bool
        Whether no vector changed its cluster in the last step.

    Examples
    --------
    >>> clusters = Clustering(np.array([0, 0, 1]), np.array([[0.5], [9.0]]), 0.5, 2, True)
    >>> clusters.sizes.tolist()
    [2, 1]
    """

    labels: Array
    centres: Array
    inertia: float
    steps: int
    converged: bool

    @property
    def sizes(self) -> Array:
        """Vectors of each cluster (k,)."""
        return np.bincount(self.labels, minlength=len(self.centres))


def kmeans(
    vectors: Vectors, clusters: int, *, restarts: int = 3, steps: int = 100, spherical: bool = False, seed: int = 0,
    centres: Array | None = None, progress: Callable[[int, int], None] | None = None,
) -> Clustering:  # fmt: skip
    """The best of several runs of Lloyd's algorithm.

    Parameters
    ----------
    vectors : Vectors
        (N, D).
    clusters : int
        How many, 2 to N.
    restarts : int
        Runs, each from a draw of its own; the one with the smallest sum of squared distances counts.
    steps : int
        Steps of a run at most.
    spherical : bool
        Centres are scaled to length 1 after each step (Dhillon and Modha 2001), for vectors of length 1.
    seed : int
        Of the draws.
    centres : array (k, D), optional
        Where the only run starts, in place of a draw.
    progress : callable, optional
        Gets (steps done, steps at most).

    Notes
    -----
    k-means++ (Arthur and Vassilvitskii 2007): the first centre is a vector drawn with equal chances, each further one
    a vector drawn with chances in proportion to its squared distance from the nearest centre so far. A cluster that
    loses its last vector gets the one that is farthest from its own centre.

    Raises
    ------
    DataError
        There are fewer different vectors than clusters.

    Examples
    --------
    >>> rows = Vectors(np.array([[0.0], [9.0], [0.2], [0.4]]), "rows", unit=False)
    >>> kmeans(rows, 2).labels.tolist()
    [0, 1, 0, 0]
    """
    if not 2 <= clusters <= len(vectors):
        raise UserError(f"clusters is {clusters:,}, and there are {len(vectors):,} rows", where="clusters",
                        remedy="give 2 or more, and no more than there are rows")  # fmt: skip
    best: Clustering | None = None
    runs = restarts if centres is None else 1
    for run in range(runs):
        start = _seeding(vectors, clusters, seed, run) if centres is None else np.asarray(centres, dtype=np.float64)
        tell = None if progress is None else (lambda step, run=run: progress(run * steps + step, runs * steps))
        result = _lloyd(vectors, start, steps, spherical, tell)
        if best is None or result.inertia < best.inertia:
            best = result
    assert best is not None
    return _by_size(best)


def centres_of(vectors: Array, clusters: int, seed: int = 0) -> Array:
    """The centres (k, D), float64, of k-means of vectors in memory (N, D); the largest cluster first.

    Examples
    --------
    >>> centres_of(np.array([[0.0], [9.0], [0.2], [0.4]]), 2).round(1).tolist()
    [[0.2], [9.0]]
    """
    return kmeans(Vectors(vectors, "rows", unit=False), clusters, seed=seed).centres


def _blocks(vectors: Vectors) -> Iterator[tuple[slice, Array]]:
    """Rows of the vectors in float64, some at a time."""
    for start in range(0, len(vectors), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(vectors)))
        yield part, vectors.rows(part).astype(np.float64)


def _seeding(vectors: Vectors, clusters: int, seed: int, run: int) -> Array:
    """The first centres (k, D) by k-means++."""
    generator = np.random.PCG64(np.random.SeedSequence((seed, run)))
    size = len(vectors)
    distances = np.full(size, np.inf)
    places = [int(_uniform(generator) * size)]
    while True:
        centre = vectors.rows([places[-1]])[0].astype(np.float64)
        for part, rows in _blocks(vectors):
            new = ((rows - centre) ** 2).sum(axis=1)
            np.minimum(distances[part], new, out=distances[part])
        if len(places) == clusters:
            return vectors.rows(places).astype(np.float64)
        total = np.cumsum(distances)
        if not total[-1] > 0:
            raise DataError(f"{len(places):,} different vectors for {clusters:,} clusters", where=vectors.name,
                            remedy="lower the number of clusters")  # fmt: skip
        places.append(min(int(np.searchsorted(total, _uniform(generator) * total[-1], side="right")), size - 1))


def _uniform(generator: np.random.PCG64) -> float:
    return float(int(generator.random_raw()) >> 11) * 2.0**-53


def _lloyd(
    vectors: Vectors, centres: Array, steps: int, spherical: bool, tell: Callable[[int], None] | None
) -> Clustering:
    """Assignment and means in turn, until no vector changes its cluster."""
    labels, distances = _assign(vectors, centres)
    for step in range(1, steps + 1):
        centres = _means(vectors, labels, distances, len(centres), spherical)
        previous = labels
        labels, distances = _assign(vectors, centres)
        if tell is not None:
            tell(step)
        if np.array_equal(labels, previous):
            return Clustering(labels, centres, float(distances.sum()), step, True)
    return Clustering(labels, centres, float(distances.sum()), steps, False)


def _assign(vectors: Vectors, centres: Array) -> tuple[Array, Array]:
    """The nearest centre of each vector (N,), the first of equal ones, and the squared distance to it (N,)."""
    labels = np.empty(len(vectors), dtype=np.int64)
    distances = np.empty(len(vectors))
    norms = (centres**2).sum(axis=1)
    for part, rows in _blocks(vectors):
        far = norms - 2 * (rows @ centres.T)  # (B, k), but for the vector's own norm
        labels[part] = far.argmin(axis=1)
        distances[part] = ((rows - centres[labels[part]]) ** 2).sum(axis=1)
    return labels, distances


def _means(vectors: Vectors, labels: Array, distances: Array, clusters: int, spherical: bool) -> Array:
    """The mean of each cluster (k, D); empty ones take the vectors that are farthest from their centres."""
    counts = np.bincount(labels, minlength=clusters)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        labels = labels.copy()
        farthest = iter(np.argsort(-distances, kind="stable").tolist())
        for cluster in empty:
            row = next((row for row in farthest if counts[labels[row]] > 1), None)
            if row is None:
                break
            counts[labels[row]] -= 1
            labels[row], counts[cluster] = cluster, 1
    sums = np.zeros((clusters, vectors.dim))
    for part, rows in _blocks(vectors):
        order = np.argsort(labels[part], kind="stable")
        names, starts = np.unique(labels[part][order], return_index=True)
        sums[names] += np.add.reduceat(rows[order], starts, axis=0)
    means: Array = sums / np.maximum(counts, 1)[:, None]
    if spherical:
        lengths = np.sqrt((means**2).sum(axis=1, keepdims=True))
        means = means / np.where(lengths > 0, lengths, 1.0)
    return means


def _by_size(result: Clustering) -> Clustering:
    """The same clusters, the largest first."""
    size = len(result.centres)
    first = np.full(size, len(result.labels))
    np.minimum.at(first, result.labels, np.arange(len(result.labels)))
    order = np.lexsort((first, -result.sizes))
    place = np.empty(size, dtype=np.int64)
    place[order] = np.arange(size)
    return Clustering(
        place[result.labels], result.centres[order], result.inertia, result.steps, result.converged
    )  # fmt: skip
