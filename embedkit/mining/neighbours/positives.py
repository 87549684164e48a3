"""Bands of neighbours: near texts as positives, farther ones as negatives (SciNCL, Ostendorff et al. 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.neighbours.settings import PositiveSettings
from embedkit.mining.neighbours.tables import Tables
from embedkit.mining.pairs import text_key
from embedkit.mining.parts import Parts


@dataclass(frozen=True)
class Bands:
    """Positives and negatives of one text, as places among the candidates.

    Attributes
    ----------
    positives, scores : arrays (p,)
        The positives, the most similar first, and their similarity.
    negatives : int array (n,)
        Hard negatives by rank, then easy ones in the order of the draw.

    Examples
    --------
    >>> Bands(np.array([3]), np.array([0.9]), np.array([7, 1])).negatives.tolist()
    [7, 1]
    """

    positives: Array
    scores: Array
    negatives: Array


def bands(tables: Tables, settings: PositiveSettings, parts: Parts) -> Iterator[tuple[int, Bands]]:
    """Row and bands of every text. Neither the text itself, nor an equal one, nor one of its ids counts as neighbour.

    Examples
    --------
    >>> from embedkit.mining.neighbours.tables import Table
    >>> from embedkit.mining.pairs import read_corpus
    >>> settings, texts = PositiveSettings(negative_ranks="1:2"), read_corpus(["a", "b", "c"])
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> tables = Tables([Table(texts, vectors, "vectors")], None, settings, None, {}, None)
    >>> tables.fill(Parts(None))
    >>> row, one = next(bands(tables, settings, Parts(None)))
    >>> row, one.positives.tolist(), one.negatives.tolist()
    (0, [2], [1])
    """
    among = len(tables.tables) - 1
    texts, candidates = tables.tables[0].texts, tables.tables[among].texts
    own_ids: list[list[str]] = [[] for _ in texts.texts]
    for name, places in texts.by_id.items():
        for place in places:
            own_ids[place].append(name)
    low = -np.inf if settings.min_score is None else settings.min_score

    def own(row: int) -> set[int]:
        places = {place for name in own_ids[row] for place in candidates.by_id.get(name, ())}
        same = candidates.by_text.get(text_key(texts.texts[row]))
        return places if same is None else places | {same}

    def work(rows: range) -> dict[str, Array]:
        exclusions = [own(row) for row in rows]
        needs = np.array([settings.last_rank + len(one) for one in exclusions])
        several: list[Bands | None] = [None] * len(rows)
        for row, places, scores in tables.nearest(0, among, rows, needs):
            out = exclusions[row - rows.start]
            free = ~np.isin(places, np.fromiter(out, np.int64, len(out)))
            places, scores = places[free][: settings.last_rank], scores[free][: settings.last_rank]
            near = slice(*settings.positives)
            fits = scores[near] >= low
            easy = _draw(texts.texts[row], {*places.tolist(), *out}, len(candidates.texts), settings)
            negatives = np.concatenate([places[slice(*settings.negatives)], easy])
            several[row - rows.start] = Bands(places[near][fits], scores[near][fits], negatives)
        return _pack([one for one in several if one is not None])

    for rows, arrays in tables.run(parts, "bands", 0, work):
        yield from zip(rows, _unpack(arrays), strict=True)


def _draw(text: str, exclusions: set[int], count: int, settings: PositiveSettings) -> Array:
    """Different places below `count`, none of the exclusions, each with equal chances."""
    most = min(settings.easy_negatives, count - len(exclusions))
    if most <= 0:
        return np.empty(0, dtype=np.int64)
    data = hashlib.blake2b(text_key(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    generator = np.random.PCG64(np.random.SeedSequence((settings.seed, int.from_bytes(data, "little"))))
    if 2 * len(exclusions) > count:  # few are left: choose among these
        rest = np.setdiff1d(np.arange(count), np.fromiter(exclusions, np.int64, len(exclusions)))
        keys = generator.random_raw(len(rest))
        return rest[np.argsort(keys, kind="stable")[:most]].astype(np.int64)
    picks: dict[int, None] = {}
    while len(picks) < most:
        place = int(generator.random_raw()) % count  # a bias of count / 2**64
        if place not in exclusions:
            picks[place] = None
    return np.array(list(picks), dtype=np.int64)


def _pack(several: list[Bands]) -> dict[str, Array]:
    return {
        "positives": np.concatenate([one.positives for one in several]).astype(np.int64),
        "scores": np.concatenate([one.scores for one in several]).astype(np.float64),
        "negatives": np.concatenate([one.negatives for one in several]).astype(np.int64),
        "counts": np.array([[len(one.positives), len(one.negatives)] for one in several], np.int64),
    }


def _unpack(arrays: dict[str, Array]) -> Iterator[Bands]:
    near = far = 0
    for positives, negatives in arrays["counts"].tolist():
        part = slice(near, near + positives)
        yield Bands(arrays["positives"][part], arrays["scores"][part], arrays["negatives"][far : far + negatives])
        near, far = near + positives, far + negatives


def band_rows(
    text: str, one: Bands, texts: list[str], settings: PositiveSettings
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of one text in the form that the settings ask for.

    Examples
    --------
    >>> one = Bands(np.array([0, 1]), np.array([0.9, 0.8]), np.array([2]))
    >>> settings = PositiveSettings(positive_ranks="0:2", negative_ranks="5:6", one_per_row=True)
    >>> list(band_rows("a", one, ["b", "c", "d"], settings))[1]
    {'anchor': 'a', 'positive': 'c', 'negative': 'd'}
    """
    positives, negatives = one.positives.tolist(), one.negatives.tolist()
    scores = [round(score, 6) for score in one.scores.tolist()]
    extra = [{"score": score} if settings.output_scores else {} for score in scores]
    if not settings.one_per_row:
        names = [f"negative_{number}" for number in range(1, settings.num_negatives + 1)]
        cells = [texts[place] for place in negatives] + [None] * (len(names) - len(negatives))
        for place, score in zip(positives, extra, strict=True):
            yield {"anchor": text, "positive": texts[place], **dict(zip(names, cells, strict=True)), **score}
        return
    count = max(len(positives), len(negatives)) if positives and negatives else 0
    for number in range(count):
        place = number % len(positives)
        negative = texts[negatives[number % len(negatives)]]
        yield {"anchor": text, "positive": texts[positives[place]], "negative": negative, **extra[place]}
