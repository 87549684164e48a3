"""The shape of a set of embeddings: how close what belongs together is, and how evenly the rest is spread.

Vectors are put on the unit sphere first (Wang and Isola 2020, section 4; without that the figures mean nothing).
Everything is computed in float64 and in blocks, so that a set of N vectors never needs an (N, N) table.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from embedkit.evaluation.core.stats import Array, unit_rows

_BLOCK = 1024


def _unit(vectors: Array) -> Array:
    return unit_rows(np.asarray(vectors, dtype=np.float64))


def _cosines(first: Array, second: Array) -> Iterator[tuple[slice, Array]]:
    for start in range(0, len(first), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(first)))
        yield rows, first[rows] @ second.T


def alignment(first: Array, second: Array) -> float:
    """Mean squared distance of unit vectors that belong together, (N, D) and (N, D); 0 is perfect.

    Wang and Isola 2020, equation 6 with alpha = 2.

    Examples
    --------
    >>> alignment(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
    2.0
    """
    return float(((_unit(first) - _unit(second)) ** 2).sum(axis=1).mean())


def uniformity(vectors: Array, t: float = 2.0) -> float:
    """log of the mean of ``exp(-t * squared distance)`` over all pairs of different rows; lower is more even.

    Wang and Isola 2020, equation 7. Equal vectors in different rows count as a pair.

    Examples
    --------
    >>> round(uniformity(np.eye(3)), 3), round(abs(uniformity(np.ones((3, 2)))), 3)
    (-4.0, 0.0)
    """
    unit = _unit(vectors)
    total = sum(float(np.exp(-2 * t * (1 - cosines)).sum()) for _, cosines in _cosines(unit, unit))
    own = float(np.exp(-2 * t * (1 - (unit**2).sum(axis=1))).sum())  # a row and itself, rounding included
    return float(np.log((total - own) / (len(unit) * (len(unit) - 1))))


def _singular_values(vectors: Array) -> Array:
    """Singular values of the unit vectors, largest first, by way of the smaller of the two Gram matrices."""
    unit = _unit(vectors)
    gram = unit.T @ unit if len(unit) > unit.shape[1] else unit @ unit.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))


def effective_rank(vectors: Array) -> float:
    """exp of the entropy of the singular values of the unit vectors: 1 when all lie on a line, at most min(N, D).

    Roy and Vetterli 2007; used for embeddings as RankMe by Garrido et al. 2023.

    Examples
    --------
    >>> round(effective_rank(np.eye(3)), 3), round(effective_rank(np.ones((3, 2))), 3)
    (3.0, 1.0)
    """
    values = _singular_values(vectors)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def anisotropy(vectors: Array) -> float:
    """Mean cosine of two different rows: 0 for evenly spread vectors, 1 for a narrow cone (Ethayarajh 2019).

    Examples
    --------
    >>> anisotropy(np.eye(3)), round(anisotropy(np.ones((3, 2))), 3)
    (0.0, 1.0)
    """
    unit = _unit(vectors)
    total = float((unit.sum(axis=0) ** 2).sum()) - float((unit**2).sum())
    return total / (len(unit) * (len(unit) - 1))


def hubness(vectors: Array, k: int = 10) -> float:
    """Skewness of how often a row is among the `k` nearest of the others; large where a few are near to everything.

    Radovanovic et al. 2010, equation 1. NaN where all rows are chosen equally often.

    Examples
    --------
    >>> hub = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]])
    >>> round(hubness(hub, k=1), 3)
    0.816
    """
    unit = _unit(vectors)
    counts = np.zeros(len(unit))
    for rows, cosines in _cosines(unit, unit):
        cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        nearest = np.argpartition(-cosines, min(k, len(unit) - 1) - 1, axis=1)[:, :k]
        counts += np.bincount(nearest.ravel(), minlength=len(unit))
    centred = counts - counts.mean()
    spread = float((centred**2).mean() ** 1.5)
    return float((centred**3).mean() / spread) if spread > 0 else float("nan")


def spectrum(vectors: Array, most: int = 64) -> list[float]:
    """The largest singular values of the unit vectors as shares of their sum, largest first, at most `most`.

    Examples
    --------
    >>> [round(share, 3) for share in spectrum(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))]
    [0.586, 0.414]
    """
    values = _singular_values(vectors)
    return [float(value) for value in (values / values.sum())[:most]]


def cosine_counts(first: Array, second: Array, bins: int = 40) -> list[int]:
    """How many of the cosines of the rows of two (N, D) fall into each of `bins` equal parts of -1..1.

    Examples
    --------
    >>> cosine_counts(np.eye(2), np.array([[1.0, 0.1], [0.1, -1.0]]), bins=4)
    [1, 0, 0, 1]
    """
    cosines = np.clip((_unit(first) * _unit(second)).sum(axis=1), -1, 1)
    return [int(count) for count in np.histogram(cosines, bins=bins, range=(-1, 1))[0]]


def modality_gap(first: Array, second: Array) -> float:
    """Distance between the mean unit vectors of two sets, e.g. images and texts (Liang et al. 2022).

    Examples
    --------
    >>> round(modality_gap(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])), 3)
    1.414
    """
    return float(np.linalg.norm(_unit(first).mean(axis=0) - _unit(second).mean(axis=0)))


def dead_dimensions(vectors: Array) -> int:
    """Dimensions whose standard deviation over the rows is under 1e-6 of the largest one.

    Examples
    --------
    >>> dead_dimensions(np.array([[1.0, 5.0], [2.0, 5.0]]))
    1
    """
    spread = np.asarray(vectors, dtype=np.float64).std(axis=0)
    return int((spread < 1e-6 * max(float(spread.max()), 1e-300)).sum())


def shape_of(vectors: Array) -> dict[str, float]:
    """Every figure that needs one set of vectors (N, D), N >= 2, by name.

    Examples
    --------
    >>> {name: round(value, 2) for name, value in shape_of(np.array([[1.0, 0], [0, 1.0], [1.0, 1.0]])).items()}
    {'uniformity': -1.55, 'effective_rank': 1.97, 'anisotropy': 0.47, 'hubness': nan, 'dead_dimensions': 0.0}
    """
    return {
        "uniformity": uniformity(vectors),
        "effective_rank": effective_rank(vectors),
        "anisotropy": anisotropy(vectors),
        "hubness": hubness(vectors),
        "dead_dimensions": float(dead_dimensions(vectors)),
    }
