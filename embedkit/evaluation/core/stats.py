"""Rank correlation, averages and their bootstrap intervals, in numpy alone and in float64.

A statistic is built once from its samples and then called with integer weights: how often each sample was drawn.
Ones give the value itself; counts of a draw with replacement give one bootstrap value. Ranks are recomputed from
cumulative counts, so that a draw costs a few passes over the samples and no sort.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedkit.registry import Registry

Array = NDArray[Any]
Statistic = Callable[[Array], float]

STATISTICS: Registry[Callable[[Mapping[str, Array]], Statistic]] = Registry("statistic")


def midranks(values: ArrayLike) -> Array:
    """Ranks from 1 with ties at their mean rank; shape (N,) in and out, float64.

    Examples
    --------
    >>> midranks([0.1, 0.5, 0.5, 0.9]).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks: Array = np.cumsum(counts) - (counts - 1) / 2
    return ranks[group]


def pearson(first: ArrayLike, second: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Pearson's correlation of two (N,) arrays, weighted by `weights` (N,); NaN where one of them is constant.

    Examples
    --------
    >>> round(pearson([1, 2, 3], [1, 4, 9]), 3)
    0.99
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    total = w.sum()
    x, y = x - (w @ x) / total, y - (w @ y) / total
    scale = np.sqrt((w @ (x * x)) * (w @ (y * y)))
    return float((w @ (x * y)) / scale) if scale > 0 else float("nan")


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation of two (N,) arrays, ties at mean rank; NaN where one of them is constant.

    Examples
    --------
    >>> round(spearman([1, 2, 3], [1, 4, 9]), 3), round(spearman([1, 2, 3], [5, 5, 2]), 3)
    (1.0, -0.866)
    """
    return pearson(midranks(first), midranks(second))


ZeroRule = Literal["senteval", "scikit-learn"]
"""What the cosine with a zero vector is: 0 in SentEval; in scikit-learn's paired cosine, which mteb takes, 0.5 beside
any other vector and 1 beside another zero vector."""


def cosine_pairs(first: Array, second: Array, zeros: ZeroRule = "senteval") -> Array:
    """Cosine of the rows of two (N, D) arrays, float64 (N,); of zero vectors as `zeros` says.

    Examples
    --------
    >>> rows = np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    >>> cosine_pairs(*rows).tolist(), cosine_pairs(*rows, "scikit-learn").tolist()
    ([0.0, 0.0], [0.5, 1.0])
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    dots = np.einsum("nd,nd->n", a, b)
    one, other = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosines = np.divide(dots, one * other, out=np.zeros_like(dots), where=one * other > 0)
    if zeros == "scikit-learn":
        cosines = np.where((one == 0) & (other == 0), 1.0, np.where((one == 0) | (other == 0), 0.5, cosines))
    return cosines


def zero_vector_note(first: Array, second: Array, zeros: ZeroRule) -> tuple[int, list[str]]:
    """How many pairs of rows of two (N, D) arrays have a zero vector, and the words for it.

    Examples
    --------
    >>> zero_vector_note(np.array([[0, 0], [1, 0]]), np.array([[1, 0], [0, 1]]), "senteval")
    (1, ['1 pairs with a zero vector have similarity 0, as in SentEval'])
    """
    either = ~np.any(first, axis=1) | ~np.any(second, axis=1)
    count, both = int(either.sum()), int((~np.any(first, axis=1) & ~np.any(second, axis=1)).sum())
    if not count:
        return 0, []
    rule = "0, as in SentEval"
    if zeros == "scikit-learn":
        rule = f"0.5, or 1 where both are zero ({both}), as scikit-learn's paired cosine and so MTEB have it"
    return count, [f"{count} pairs with a zero vector have similarity {rule}"]


def as_ties(values: Array, tolerance: float) -> Array:
    """The values (N,) with those that follow one another within `tolerance` made equal, to the largest of them.

    Equal texts have one vector, but the products of one vector with itself differ in the last digits; an order among
    such pairs would be chance.

    Examples
    --------
    >>> as_ties(np.array([0.5, 1.0, 0.5 + 1e-9]), 1e-6).tolist()
    [0.500000001, 1.0, 0.500000001]
    """
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    starts = np.concatenate([[True], ranked[:-1] - ranked[1:] > tolerance]) if len(values) else np.zeros(0, dtype=bool)
    tied = np.empty_like(values)
    tied[order] = ranked[np.flatnonzero(starts)][np.cumsum(starts) - 1] if len(values) else ranked
    return tied


def unit_rows(vectors: Array) -> Array:
    """Rows of (N, D) scaled to length 1, same dtype; zero rows stay zero.

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1).astype(vectors.dtype)


def _counted_ranks(group: Array, weights: Array) -> Array:
    """Mid-ranks of the samples when sample i stands `weights[i]` times; `group` numbers the distinct values."""
    counts = np.bincount(group, weights=weights)
    ranks: Array = np.cumsum(counts) - (counts - 1) / 2
    return ranks[group]


@STATISTICS.add("spearman")
def spearman_statistic(samples: Mapping[str, Array]) -> Statistic:
    """Spearman's correlation of ``gold`` and ``prediction`` (N,).

    With ``subset`` (N,) integers it is the mean over subsets; with ``by_size`` set to 1 the mean weighted by the size
    of the subsets (SentEval's "mean" and "wmean").

    Examples
    --------
    >>> value = spearman_statistic({"gold": [1, 2, 3], "prediction": [0.1, 0.3, 0.2]})
    >>> value(np.ones(3)), value(np.array([2, 1, 0]))
    (0.5, 1.0)
    """
    gold, prediction = np.asarray(samples["gold"]), np.asarray(samples["prediction"])
    subset = np.asarray(samples.get("subset", np.zeros(len(gold), dtype=np.int64)))
    members = [np.flatnonzero(subset == number) for number in np.unique(subset)]
    by_size = bool(np.any(samples.get("by_size", 0)))
    ranked = []
    for rows in members:
        _, g = np.unique(gold[rows], return_inverse=True)
        _, p = np.unique(prediction[rows], return_inverse=True)
        ranked.append((rows, g, p))
    shares = np.array([len(rows) if by_size else 1.0 for rows in members])

    def value(weights: Array) -> float:
        parts = []
        for rows, g, p in ranked:
            w = weights[rows]
            parts.append(pearson(_counted_ranks(g, w), _counted_ranks(p, w), w))
        return float(shares @ np.array(parts) / shares.sum())

    return value


@STATISTICS.add("mean")
def mean_statistic(samples: Mapping[str, Array]) -> Statistic:
    """The mean of ``value`` (N,).

    Examples
    --------
    >>> value = mean_statistic({"value": [0, 1, 1]})
    >>> value(np.array([2, 1, 1]))
    0.5
    """
    value = np.asarray(samples["value"], dtype=np.float64)
    return lambda weights: float(weights @ value / weights.sum())


@STATISTICS.add("average_precision")
def average_precision_statistic(samples: Mapping[str, Array]) -> Statistic:
    """Average precision of ``prediction`` (N,) for binary ``gold`` (N,); tied predictions form one threshold.

    Examples
    --------
    >>> value = average_precision_statistic({"gold": [1, 0, 1], "prediction": [0.9, 0.8, 0.7]})
    >>> round(value(np.ones(3)), 3)
    0.833
    """
    gold, prediction = np.asarray(samples["gold"], dtype=np.float64), np.asarray(samples["prediction"])
    _, group = np.unique(-prediction, return_inverse=True)  # best first

    def value(weights: Array) -> float:
        hits = np.cumsum(np.bincount(group, weights=weights * gold))
        totals = np.cumsum(np.bincount(group, weights=weights))
        precision = np.divide(hits, totals, out=np.zeros_like(hits), where=totals > 0)
        gained = np.diff(hits, prepend=0.0)
        return float(precision @ gained / hits[-1]) if hits[-1] > 0 else float("nan")

    return value


@STATISTICS.add("auroc")
def auroc_statistic(samples: Mapping[str, Array]) -> Statistic:
    """Area under the ROC curve of ``prediction`` (N,) for binary ``gold`` (N,), ties counted half; with ``subset`` (N,)
    the mean over subsets. NaN where a class is absent.

    Examples
    --------
    >>> value = auroc_statistic({"gold": [0, 1, 0, 1], "prediction": [0.1, 0.4, 0.4, 0.8]})
    >>> value(np.ones(4))
    0.875
    """
    gold, prediction = np.asarray(samples["gold"], dtype=np.float64), np.asarray(samples["prediction"])
    subset = np.asarray(samples.get("subset", np.zeros(len(gold), dtype=np.int64)))
    parts = []
    for number in np.unique(subset):
        rows = np.flatnonzero(subset == number)
        _, group = np.unique(prediction[rows], return_inverse=True)
        parts.append((rows, group))

    def value(weights: Array) -> float:
        areas = []
        for rows, group in parts:
            w, positive = weights[rows], weights[rows] * gold[rows]
            yes, no = positive.sum(), w.sum() - positive.sum()
            above = positive @ _counted_ranks(group, w) - yes * (yes + 1) / 2
            areas.append(above / (yes * no) if yes > 0 and no > 0 else np.nan)
        return float(np.mean(areas))

    return value


@dataclass(frozen=True)
class Samples:
    """What a score was made of, kept so that it can be drawn again: the name of a statistic and its arrays (N,).

    Examples
    --------
    >>> samples = Samples("mean", {"value": np.array([0, 1, 1, 1])})
    >>> len(samples), samples.build()(np.ones(4))
    (4, 0.75)
    """

    statistic: str
    values: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def build(self) -> Statistic:
        """The statistic over these samples."""
        return STATISTICS[self.statistic](self.values)


def draw_weights(samples: Samples, rng: np.random.Generator) -> Array:
    """Counts (N,) of one draw with replacement, within each subset where the samples have subsets.

    Examples
    --------
    >>> samples = Samples("mean", {"value": np.array([0, 1, 1, 1])})
    >>> draw_weights(samples, np.random.default_rng(0)).tolist()
    [0.0, 1.0, 2.0, 1.0]
    """
    size = len(samples)
    if "subset" not in samples.values:
        return np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float64)
    weights, subset = np.zeros(size), np.asarray(samples.values["subset"])
    for number in np.unique(subset):
        rows = np.flatnonzero(subset == number)
        weights[rows] = np.bincount(rng.integers(0, len(rows), len(rows)), minlength=len(rows))
    return weights


def generator(seed: int, name: str) -> np.random.Generator:
    """A random generator that depends on `seed` and a task's name, and on nothing else.

    Examples
    --------
    >>> generator(0, "stsb").permutation(9).tolist() == generator(0, "stsb").permutation(9).tolist()
    True
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def bootstrap(samples: Samples, resamples: int, rng: np.random.Generator) -> Array:
    """Bootstrap values of a score, shape (resamples,), float64 (Efron 1979).

    Examples
    --------
    >>> samples = Samples("mean", {"value": np.array([0, 1, 1, 1])})
    >>> bootstrap(samples, 3, np.random.default_rng(0)).tolist()
    [1.0, 0.25, 0.75]
    """
    statistic = samples.build()
    return np.array([statistic(draw_weights(samples, rng)) for _ in range(resamples)])


def interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; draws without a value (NaN) are left out.

    Examples
    --------
    >>> interval(np.arange(5.0), level=0.5)
    (1.0, 3.0)
    """
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
