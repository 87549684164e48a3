"""The covariance operator of embeddings: the covariance of the means of groups, beside that of all rows."""

from __future__ import annotations

import numpy as np

from embedkit.evaluation.core.stats import Array, unit_rows


def covariance_operator(vectors: Array, groups: Array, most: int = 64) -> tuple[dict[str, float], list[float]]:
    """What the covariance of rows under their changes says (Tian et al. 2020, section 4).

    Parameters
    ----------
    vectors : array (N, D)
        Put on the unit sphere first.
    groups : int array (N,)
        Rows that are changes of one thing (views, captions of an image), or rows of one class.
    most : int
        Eigenvalues of the spectrum.

    Returns
    -------
    dict of str to float
        ``covariance_rank``: exp of the entropy of the eigenvalues' shares of the covariance of all rows.
        ``operator_rank``: the same of the operator, the covariance of the groups' means, each as heavy as its rows.
        ``between_share``: trace of the operator over that of all rows; 1 where the rows of a group have one vector.
        ``mean_alignment``: the share of the operator inside of the leading eigenvectors of the covariance, as many as
        groups less one; 1 where the directions of most variance are those that tell groups apart.
    list of float
        The largest eigenvalues of the covariance as shares of its trace, largest first.

    Examples
    --------
    >>> rows = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    >>> figures, spectrum = covariance_operator(rows, np.array([0, 0, 1, 1]))
    >>> {name: round(value, 2) for name, value in figures.items()}, [round(share, 2) for share in spectrum]
    ({'covariance_rank': 1.06, 'operator_rank': 1.0, 'between_share': 0.99, 'mean_alignment': 1.0}, [0.99, 0.01])
    """
    unit = unit_rows(np.asarray(vectors, dtype=np.float64))
    centred = unit - unit.mean(axis=0)
    _, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), unit.shape[1]))
    np.add.at(means, number, centred)
    weighted = means / np.sqrt(counts)[:, None]  # sums / sqrt(n): its Gram matrix is the operator x N
    total = centred.T @ centred / len(unit)
    operator = weighted.T @ weighted / len(unit)
    values, directions = np.linalg.eigh(total)
    leading = directions[:, ::-1][:, : min(max(len(counts) - 1, 1), unit.shape[1])]
    trace, between = float(np.trace(total)), float(np.trace(operator))
    figures = {
        "covariance_rank": _rank(values),
        "operator_rank": _rank(np.linalg.eigvalsh(operator)),
        "between_share": between / trace if trace > 0 else 0.0,
        "mean_alignment": float(np.trace(leading.T @ operator @ leading)) / between if between > 0 else 0.0,
    }
    return figures, [float(value / trace) if trace > 0 else 0.0 for value in values[::-1][:most]]


def _rank(values: Array) -> float:
    """exp of the entropy of the shares of eigenvalues; 0 where there are none."""
    positive = values[values > 1e-12 * max(float(values.max()), 1e-300)]
    shares = positive / positive.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(positive) else 0.0
