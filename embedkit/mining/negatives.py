"""From the nearest candidates of an anchor to its negatives: ranks, margins, bounds, sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.pairs import text_key
from embedkit.mining.settings import MiningSettings


@dataclass(frozen=True)
class Negatives:
    """The negatives of one anchor.

    Attributes
    ----------
    places : int array (n,)
        Places among the candidates, the most similar first.
    scores : float64 array (n,)
        Their similarity to the anchor.
    in_range : int
        Candidates of the ranks that were looked at.
    rejections : dict
        Margin or bound -> candidates that it left out, each counted at the first that did.
    first, above : int
        Of the candidates that `top` would take without margins and bounds: their number, and how many of them score
        above the lowest positive of the anchor, and so are likely to be right answers.

    Examples
    --------
    >>> Negatives(np.array([4]), np.array([0.5]), in_range=3).rejections
    {}
    """

    places: Array
    scores: Array
    in_range: int = 0
    rejections: dict[str, int] = field(default_factory=dict)
    first: int = 0
    above: int = 0


def in_ranks(places: Array, scores: Array, exclusions: set[int], settings: MiningSettings) -> tuple[Array, Array]:
    """Candidates (k,) of the ranks that are looked at, those that are no negatives of the anchor left out before.

    Parameters
    ----------
    places, scores : arrays (k,)
        Candidates, the most similar first; k is at least ``settings.last_rank`` and the number of exclusions together,
        or all candidates.
    exclusions : set of int
        Places that are no negatives of this anchor.
    settings : MiningSettings
        Ranks.

    Examples
    --------
    >>> places, scores = in_ranks(np.array([7, 2, 5]), np.array([0.9, 0.8, 0.7]), {7}, MiningSettings(num_negatives=1))
    >>> places.tolist(), scores.tolist()
    ([2], [0.8])
    """
    free = np.ones(len(places), dtype=bool)
    for place in exclusions:
        free &= places != place
    ranks = slice(settings.range_min, settings.last_rank)
    return places[free][ranks], scores[free][ranks]


def choose(anchor: str, places: Array, scores: Array, positive: float, settings: MiningSettings) -> Negatives:
    """The negatives of an anchor among the candidates of its ranks.

    Parameters
    ----------
    anchor : str
        Decides the draw, together with the seed.
    places, scores : arrays (k,)
        Candidates by rank; the scores, which margins, bounds and sampling read, may be those of a cross-encoder.
    positive : float
        The lowest score among the anchor's positives.
    settings : MiningSettings
        Margins, bounds and sampling.

    Examples
    --------
    >>> settings = MiningSettings(num_negatives=1, absolute_margin=0.1)
    >>> choose("a", np.array([2, 5]), np.array([0.85, 0.7]), 0.9, settings).places.tolist()
    [5]
    """
    first = scores[: settings.num_negatives]
    above, in_range = int((first > positive).sum()), len(scores)
    order = np.argsort(-scores, kind="stable")
    places, scores = places[order], scores[order]
    bounds = {
        "absolute_margin": lambda: scores + settings.absolute_margin > positive,
        "relative_margin": lambda: scores > positive - abs(positive) * (settings.relative_margin or 0.0),
        "max_score": lambda: scores > settings.max_score,
        "min_score": lambda: scores < settings.min_score,
    }
    allow = np.ones(len(scores), dtype=bool)
    rejections: dict[str, int] = {}
    for name in settings.filters:
        beyond = bounds[name]() & allow
        rejections[name] = int(beyond.sum())
        allow &= ~beyond
    picks = np.flatnonzero(allow)
    picks = picks[_draw(anchor, scores[picks], settings)]
    return Negatives(places[picks], scores[picks], in_range, rejections, len(first), above)


def pack(several: Sequence[Negatives], filters: Sequence[str]) -> dict[str, Array]:
    """Negatives of several anchors as arrays.

    Examples
    --------
    >>> both = [Negatives(np.array([4]), np.array([0.5]), 3), Negatives(np.array([1, 2]), np.array([0.3, 0.1]), 2)]
    >>> [one.places.tolist() for one in unpack(pack(both, ()), ())]
    [[4], [1, 2]]
    """
    return {
        "places": np.concatenate([one.places for one in several]).astype(np.int64),
        "scores": np.concatenate([one.scores for one in several]).astype(np.float64),
        "figures": np.array([[len(one.places), one.in_range, one.first, one.above] for one in several], np.int64),
        "rejections": np.array([[one.rejections[name] for name in filters] for one in several], np.int64),
    }


def unpack(arrays: Mapping[str, Array], filters: Sequence[str]) -> Iterator[Negatives]:
    """What `pack` packs, anchor by anchor.

    Examples
    --------
    >>> next(unpack(pack([Negatives(np.array([4]), np.array([0.5]), 3)], ()), ())).in_range
    3
    """
    start = 0
    for (count, in_range, first, above), rejections in zip(
        arrays["figures"].tolist(), arrays["rejections"].tolist(), strict=True
    ):
        part = slice(start, start + count)
        start += count
        yield Negatives(arrays["places"][part], arrays["scores"][part], in_range,
                        dict(zip(filters, rejections, strict=True)), first, above)  # fmt: skip


def _draw(anchor: str, scores: Array, settings: MiningSettings) -> Array:
    """Which of the scores (n,), sorted in descending order, are taken: their places in ascending order."""
    count = settings.num_negatives
    if settings.sampling == "top" or len(scores) <= count:
        return np.arange(min(count, len(scores)))
    text = hashlib.blake2b(text_key(anchor).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    generator = np.random.PCG64(np.random.SeedSequence((settings.seed, int.from_bytes(text, "little"))))
    uniform = ((generator.random_raw(len(scores)) >> np.uint64(11)) + 0.5) * 2.0**-53
    keys = -np.log(-np.log(uniform))  # Gumbel's distribution: the largest sums are a draw without replacement
    if settings.temperature is not None:
        keys = keys + scores / settings.temperature
    return np.sort(np.argsort(-keys, kind="stable")[:count])
