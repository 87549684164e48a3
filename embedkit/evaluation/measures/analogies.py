"""Analogies in a space of unit vectors: the answers of two rules, and how parallel the offsets of a relation are."""

from __future__ import annotations

import numpy as np

from embedkit.evaluation.core.stats import Array, Samples, unit_rows

EPSILON = 1e-3
"""Added to the divisor of 3CosMul (Levy and Goldberg 2014)."""


def ranked_first(vectors: Array, queries: Array, block: int = 1024) -> dict[str, Array]:
    """The best word for each question, none of its own three.

    Parameters
    ----------
    vectors : array (V, D)
        Unit vectors of the words.
    queries : int array (Q, 3)
        Places of a, b and c.
    block : int
        Questions at a time: memory holds block x V scores.

    Returns
    -------
    dict of str to int array (Q,)
        ``3cosadd``: the largest cosine with b - a + c. ``3cosmul``: cosines moved to 0..1, those with b and c
        multiplied, divided by that with a. Equal scores go to the first word.

    Examples
    --------
    >>> vectors = unit_rows(np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]]))
    >>> {name: places.tolist() for name, places in ranked_first(vectors, np.array([[0, 1, 2]])).items()}
    {'3cosadd': [3], '3cosmul': [3]}
    """
    outcome: dict[str, list[Array]] = {"3cosadd": [], "3cosmul": []}
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        a, b, c = (vectors[part[:, side]] @ vectors.T for side in range(3))  # (n, V) cosines with every word
        scaled = [(cosines + 1) / 2 for cosines in (a, b, c)]
        for name, scores in (("3cosadd", b - a + c), ("3cosmul", scaled[1] * scaled[2] / (scaled[0] + EPSILON))):
            scores[np.arange(len(part))[:, None], part] = -np.inf
            outcome[name].append(scores.argmax(axis=1))
    return {name: np.concatenate(parts) for name, parts in outcome.items()}


def pairing_consistency(first: Array, second: Array, shuffles: int, rng: np.random.Generator) -> float:
    """How much more parallel the offsets of true pairs are than those of shuffled ones: an AUROC, 0.5 for none.

    `first` and `second` (N, D) are the two words of each pair. The cosines of all two offsets of true pairs are the
    positives, those of pairs whose second words are permuted, with no word in its place, the negatives; the mean over
    `shuffles` permutations (Fournier et al. 2020, pairing consistency score). NaN below three pairs.

    Examples
    --------
    >>> first = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 1.0]])
    >>> pairing_consistency(first, first + [0.0, 1.0], 10, np.random.default_rng(0))
    1.0
    """
    count = len(first)
    if count < 3:
        return float("nan")
    upper = np.triu_indices(count, 1)
    truth = _cosines(second - first)[upper]
    areas = []
    for _ in range(shuffles):
        others = _cosines(second[_derangement(count, rng)] - first)[upper]
        gold = np.repeat([1, 0], len(truth))
        samples = Samples("auroc", {"gold": gold, "prediction": np.round(np.concatenate([truth, others]), 12)})
        areas.append(samples.build()(np.ones(len(gold))))
    return float(np.mean(areas))


def _cosines(offsets: Array) -> Array:
    unit = unit_rows(offsets.astype(np.float64))
    return unit @ unit.T


def _derangement(count: int, rng: np.random.Generator) -> Array:
    """A random permutation that leaves nothing in its place."""
    while True:
        order = rng.permutation(count)
        if not (order == np.arange(count)).any():
            return order
