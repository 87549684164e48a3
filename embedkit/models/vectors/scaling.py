"""Mean, deviations and products of training rows, in one pass in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from embedkit.errors import DataError


@dataclass(frozen=True)
class Moments:
    """What is learnt from rows (n, W).

    Attributes
    ----------
    count : int
        Rows.
    mean, deviation : float64 array (W,)
        Of each number; the deviation of a constant one is 1, so that it is 0 behind its mean.
    covariance : float64 array (W, W)
        Of the numbers.

    Examples
    --------
    >>> moments = Moments.of([np.array([[1.0, 2.0]]), np.array([[3.0, 2.0]])], width=2)
    >>> moments.count, moments.mean.tolist(), moments.deviation.tolist()
    (2, [2.0, 2.0], [1.0, 1.0])
    """

    count: int
    mean: np.ndarray
    deviation: np.ndarray
    covariance: np.ndarray

    @staticmethod
    def of(blocks: Iterable[np.ndarray], width: int) -> Moments:
        """Those of blocks of rows, float (n, W), which are read once.

        Raises
        ------
        DataError
            There is no row.
        """
        count, total = 0, np.zeros(width)
        products = np.zeros((width, width))
        shift: np.ndarray | None = None
        for block in blocks:
            rows = np.asarray(block, np.float64)
            shift = rows.mean(axis=0) if shift is None else shift  # near the mean, so that no digits cancel
            rows = rows - shift
            count, total, products = count + len(rows), total + rows.sum(axis=0), products + rows.T @ rows
        if not count or shift is None:
            raise DataError("there is no vector to learn from", where="data.train", remedy="give rows with vectors")
        mean = total / count
        covariance = products / count - np.outer(mean, mean)
        deviation = np.sqrt(np.clip(np.diag(covariance), 0, None))
        deviation[deviation == 0] = 1.0
        return Moments(count, mean + shift, deviation, covariance)
