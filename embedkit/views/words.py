"""Words of a text: how often they are seen, and edits of a sequence of them (deletion, repetition, substitution ...).

Every edit is pure: items, settings and a random generator in, a new list out. Items may be words or token ids. No
edit empties a sequence that had items.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from embedkit.errors import RecipeError

T = TypeVar("T")
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


def delete(items: Sequence[T], random: np.random.Generator, *, rate: float = 0.1, marker: T | None = None) -> list[T]:
    """Drop each item with probability `rate`; one survives at least.

    With a `marker`, every run of dropped items leaves one marker behind (CLEAR, Wu et al. 2020, section 3.1).

    Examples
    --------
    >>> delete("a small red car near the old house".split(), np.random.default_rng(3), rate=0.5, marker="[MASK]")
    ['[MASK]', 'red', 'car', '[MASK]']
    """
    drop = random.random(len(items)) < rate
    if len(items) and marker is None and drop.all():
        drop[random.integers(len(items))] = False
    return _without(items, drop, marker)


def delete_spans(
    items: Sequence[T], random: np.random.Generator, *, spans: int = 5, share: float = 0.05, marker: T | None = None
) -> list[T]:
    """Drop up to `spans` disjoint spans, each `share` of the items long and one item at least (CLEAR, section 3.1).

    Fewer spans are dropped where less than one item would be left; a `marker` stands for each run that is gone.

    Examples
    --------
    >>> delete_spans("a small red car near the old house".split(), np.random.default_rng(3), spans=2, share=0.25)
    ['red', 'car', 'near', 'house']
    """
    drop = np.zeros(len(items), dtype=bool)
    for start, stop in disjoint_spans(len(items), random, spans, share):
        drop[start:stop] = True
    return _without(items, drop, marker)


def swap_spans(items: Sequence[T], random: np.random.Generator, *, pairs: int = 5, share: float = 0.05) -> list[T]:
    """Exchange up to `pairs` random pairs of disjoint spans, each `share` of the items long (CLEAR, section 3.1).

    Examples
    --------
    >>> swap_spans("a small red car near the old house".split(), np.random.default_rng(3), pairs=1, share=0.25)
    ['the', 'old', 'red', 'car', 'near', 'a', 'small', 'house']
    """
    spans = disjoint_spans(len(items), random, 2 * pairs, share)
    order = random.permutation(len(spans))
    new = list(items)
    for one, two in zip(order[0::2], order[1::2], strict=False):
        (a, a_end), (b, b_end) = spans[one], spans[two]
        new[a:a_end], new[b:b_end] = items[b:b_end], items[a:a_end]
    return new


def shuffle(items: Sequence[T], random: np.random.Generator, *, window: int | None = None) -> list[T]:
    """The items in random order; with a `window` none moves further than that many places (Lample et al. 2018).

    Examples
    --------
    >>> shuffle([1, 2, 3, 4, 5, 6], np.random.default_rng(0), window=2)
    [2, 1, 3, 4, 5, 6]
    """
    keys = random.random(len(items)) * (len(items) if window is None else window + 1)
    order = np.argsort(keys if window is None else np.arange(len(items)) + keys, kind="stable")
    return [items[i] for i in order]


def repeat(items: Sequence[T], random: np.random.Generator, *, rate: float = 0.32) -> list[T]:
    """Repeat some items (ESimCSE, Wu et al. 2022, section 3.1).

    Their number is uniform from 0 to the larger of 2 and `rate` x length (at most all); the items are distinct.

    Examples
    --------
    >>> repeat("a small red car near the old house".split(), np.random.default_rng(3))
    ['a', 'a', 'small', 'small', 'red', 'car', 'near', 'the', 'old', 'house']
    """
    most = min(len(items), max(2, int(rate * len(items))))
    twice = set(random.choice(len(items), size=random.integers(most + 1), replace=False).tolist()) if most else set()
    return [item for place, item in enumerate(items) for _ in range(2 if place in twice else 1)]


Candidates = Callable[[Sequence[str], Sequence[int]], Sequence[Sequence[str]]]
"""``(words, places)`` -> for each place the words that may stand there, none where nothing is known."""


def substitute(
    items: Sequence[str], random: np.random.Generator, *, rate: float = 0.3, candidates: Candidates
) -> list[str]:
    """Replace each word with probability `rate` by one of its candidates, all equally likely.

    Places are drawn first and asked for together, so that a masked language model sees all of them hidden.

    Examples
    --------
    >>> synonyms = {"small": ["little", "tiny"], "car": ["automobile"]}
    >>> substitute(["a", "small", "red", "car"], np.random.default_rng(3), rate=1.0,
    ...            candidates=lambda items, places: [synonyms.get(items[place], []) for place in places])
    ['a', 'little', 'red', 'automobile']
    """
    places = np.flatnonzero(random.random(len(items)) < rate).tolist()
    new = list(items)
    if places:
        for place, options in zip(places, candidates(items, places), strict=True):
            if options:
                new[place] = options[int(random.integers(len(options)))]
    return new


def disjoint_spans(length: int, random: np.random.Generator, count: int, share: float) -> list[tuple[int, int]]:
    """Up to `count` random disjoint spans of 0 .. `length`, in order, that leave at least one place free.

    Each is max(1, round(`share` x `length`)) long; all placements are equally likely.

    Examples
    --------
    >>> disjoint_spans(100, np.random.default_rng(3), count=3, share=0.1)
    [(6, 16), (22, 32), (75, 85)]
    """
    size = max(1, round(share * length))
    count = min(count, max(0, length - 1) // size)
    if count == 0:
        return []
    # k spans of size s in n places are k places in n - k (s - 1)
    places = np.sort(random.choice(length - count * (size - 1), size=count, replace=False))
    return [(int(at) + i * (size - 1), int(at) + i * (size - 1) + size) for i, at in enumerate(places)]


def _without(items: Sequence[T], drop: np.ndarray, marker: T | None) -> list[T]:
    new: list[T] = []
    for place, item in enumerate(items):
        if not drop[place]:
            new.append(item)
        elif marker is not None and (place == 0 or not drop[place - 1]):
            new.append(marker)
    return new


def words_of(text: str) -> list[str]:
    """Words and marks in lower case; the text itself where it has none.

    Examples
    --------
    >>> words_of("It's late."), words_of(" ")
    (["it's", 'late', '.'], [' '])
    """
    return _WORD.findall(text.lower()) or [text]


def stay_rate(words: Sequence[str], counts: Counter[str], total: int, t: float, least: int) -> np.ndarray:
    """How likely each word stays when frequent ones are left out: min(1, sqrt(t / f) + t / f), float64 (N,).

    f is the word's share of all (word2vec's code, Mikolov et al. 2013); words seen fewer than `least` times never stay.

    Examples
    --------
    >>> stay_rate(["the", "cat", "yak"], Counter({"the": 90, "cat": 10}), 100, t=0.1, least=1).round(2).tolist()
    [0.44, 1.0, 0.0]
    """
    count = np.array([counts[word] for word in words], dtype=float)
    ratio = t * total / np.maximum(count, 1.0)  # t / f
    return np.where(count >= least, np.minimum(1.0, np.sqrt(ratio) + ratio), 0.0)


@lru_cache(maxsize=2)
def word_counts(path: str) -> tuple[Counter[str], int]:
    r"""How often each word stands in a file of sentences, and how many words there are.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("sentences.txt").write_text("a cat\na dog\n")
    >>> word_counts("sentences.txt")
    (Counter({'a': 2, 'cat': 1, 'dog': 1}), 4)
    """
    from embedkit.data import read_rows

    counts: Counter[str] = Counter()
    for row in read_rows(path):
        text = next((row[key] for key in ("text", "anchor", "sentence") if isinstance(row.get(key), str)), None)
        if text is None:
            raise RecipeError("has no column text, anchor or sentence", where=path, remedy="give a file of sentences")
        counts.update(_WORD.findall(text.lower()))
    return counts, counts.total()
