"""Where attention looks: how far, how evenly, and how much at the first token."""

from __future__ import annotations

import numpy as np

from embedkit.evaluation.measures.geometry import Array


def attention_measures(probabilities: Array, places: Array) -> dict[str, Array]:
    """Distance, entropy and share of the first token by text and head, means over the tokens that look, (N, heads).

    ``distance`` is the mean of ``sum_j p_ij |x_i - x_j|``, divided by that of even attention; ``entropy`` the mean of
    ``-sum_j p_ij log p_ij``, divided by log l. Both are 1 where attention is even, and entropy is 0 where each token
    looks at one alone (Park et al. 2023, section 2, without the divisors).

    Parameters
    ----------
    probabilities : array (N, heads, l, l)
        Rows of sum 1, of at least two tokens.
    places : array (l, d)
        Where each token stands: in a text its number, in an image its row and column.

    Examples
    --------
    >>> even = np.full((1, 1, 2, 2), 0.5)
    >>> {name: float(value[0, 0]) for name, value in attention_measures(even, np.arange(2.0)[:, None]).items()}
    {'distance': 1.0, 'entropy': 1.0, 'first': 0.5}
    """
    gaps = np.linalg.norm(places[:, None] - places[None, :], axis=-1)  # (l, l)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=-1).mean(axis=-1)
    return {
        "distance": (probabilities * gaps).sum(axis=-1).mean(axis=-1) / gaps.mean(),
        "entropy": entropy / np.log(len(places)),
        "first": probabilities[..., 0].mean(axis=-1),
    }
