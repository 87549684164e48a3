"""Words of a text and how often they are seen, for methods that draw words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from embedkit.errors import RecipeError

_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


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
