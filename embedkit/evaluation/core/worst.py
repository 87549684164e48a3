"""The samples of a task that a model does worst on, as texts to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedkit.evaluation.core.stats import Array

COUNT = 5
_LONGEST = 240

Row = dict[str, str]
"""What a column is called -> its text."""


def worst_pairs(first: Sequence[str], second: Sequence[str], gold: Array, prediction: Array) -> list[Row]:
    """The pairs whose places by gold score and by prediction are farthest apart, the first of equals first.

    Examples
    --------
    >>> texts = ["a cat", "rain", "a dog"]
    >>> row = worst_pairs(texts, texts, np.array([5.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.3]))[0]
    >>> row["first"], row["gold"], row["prediction"]
    ('a cat', '5', '0.100')
    """
    from scipy.stats import rankdata

    apart = np.abs(rankdata(gold) - rankdata(prediction))
    return [
        {
            "first": excerpt(first[i]),
            "second": excerpt(second[i]),
            "gold": f"{gold[i]:g}",
            "prediction": f"{prediction[i]:.3f}",
        }
        for i in np.argsort(-apart, kind="stable")[:COUNT]
    ]


def worst_queries(queries: Sequence[str], values: Array, first: Sequence[str], answers: Sequence[str]) -> list[Row]:
    """The queries with the lowest values that are not perfect, with what was found first and what answers them.

    Examples
    --------
    >>> worst_queries(["how?", "when?"], np.array([1.0, 0.0]), ["so", "here"], ["so", "at 9"])
    [{'query': 'when?', 'found first': 'here', 'wanted': 'at 9', 'value': '0.000'}]
    """
    places = [i for i in np.argsort(values, kind="stable")[:COUNT] if values[i] < 1]
    return [
        {
            "query": excerpt(queries[i]),
            "found first": excerpt(first[i]),
            "wanted": excerpt(answers[i]),
            "value": f"{values[i]:.3f}",
        }
        for i in places
    ]


def read_rows(rows: Any) -> list[Row]:
    """Rows of a result file.

    Raises
    ------
    ValueError
        They are no list of mappings of texts.

    Examples
    --------
    >>> read_rows([{"query": "when?"}])
    [{'query': 'when?'}]
    """
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError("worst is no list of rows")
    return [{str(key): str(value) for key, value in row.items()} for row in rows]


def excerpt(text: Any) -> str:
    """A text on one line, at most 240 characters of it; of a vector its file and row.

    Examples
    --------
    >>> excerpt("a\\n  cat")
    'a cat'
    """
    line = " ".join((text if isinstance(text, str) else text.name).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
