"""Examples of a search to look at: a query, what was found first, what is right; images as thumbnails.

Thumbnails are small JPEGs inside the text of the result file, so that a report needs no image files: at most `SIDE`
pixels wide and high, of a few queries each way.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embedkit.data.images.pictures import small_jpeg
from embedkit.evaluation.core.inputs import EncodedImage, Item
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.worst import excerpt

SIDE = 80
"""Pixels of a thumbnail's longer side."""

WORST, SPREAD, FOUND = 3, 3, 5
"""Queries with the lowest values, others evenly spread, answers of each."""

_START = "data:image/jpeg;base64,"


@dataclass(frozen=True)
class Seen:
    """A text or an image of an example.

    Attributes
    ----------
    text : str
        Empty where it is an image.
    image : str
        A ``data:`` address of a JPEG; empty where it is a text.
    score : float or None
        Cosine with the query; None for the query.
    right : bool
        Whether it answers the query.

    Examples
    --------
    >>> Seen("a red square", score=0.31, right=True).image
    ''
    """

    text: str = ""
    image: str = ""
    score: float | None = None
    right: bool = False


@dataclass(frozen=True)
class Example:
    """A query and what was found for it.

    Attributes
    ----------
    way : str
        What is searched by what: ``image to text``.
    why : str
        Why it is shown: ``among the worst`` or ``one of many``.
    query : Seen
    answers : list of Seen
        The first `FOUND`, and behind them the best right one if none of them is right.

    Examples
    --------
    >>> Example("text to image", "one of many", Seen("a cat"), [Seen("a dog", score=0.2)]).answers[0].right
    False
    """

    way: str
    why: str
    query: Seen
    answers: list[Seen]

    def to_json(self) -> dict[str, Any]:
        """The example as plain JSON types."""
        return asdict(self)


def seen(item: Item, score: float | None = None, right: bool = False) -> Seen:
    """A text on one line, or an image as a thumbnail; a vector has nothing to look at.

    Examples
    --------
    >>> from embedkit.data.builtin.shapes import draw
    >>> seen(EncodedImage(draw((0, 0, 1, 0, 0)))).image[:30]
    'data:image/jpeg;base64,/9j/4AA'
    """
    if isinstance(item, EncodedImage):
        jpeg = small_jpeg(item.decode(), SIDE, quality=70)
        return Seen(image=_START + base64.b64encode(jpeg).decode("ascii"), score=score, right=right)
    return Seen(excerpt(item) if isinstance(item, str) else "(a vector)", score=score, right=right)


def shown_queries(values: Array) -> dict[int, str]:
    """Places of queries to look at, and why: the lowest values that are no hit, then some that are evenly spread.

    Examples
    --------
    >>> shown_queries(np.array([1.0, 0.0, 1.0, 1.0]))
    {1: 'among the worst', 0: 'one of many', 2: 'one of many', 3: 'one of many'}
    """
    order = np.argsort(values, kind="stable")[:WORST].tolist()
    worst = {place: "among the worst" for place in order if values[place] < 1}
    rest = [place for place in range(len(values)) if place not in worst]
    picks = np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)
    return worst | {rest[pick]: "one of many" for pick in picks.tolist()}


def search_examples(
    way: str, queries: Sequence[Item], answers: Sequence[Item], scores: Array, places: Array, right: Array,
    best_right: Callable[[int], tuple[int, float]],
) -> list[Example]:  # fmt: skip
    """Examples of a search: its worst queries, those whose first right answer stands last, and some others.

    Parameters
    ----------
    way : str
        What is searched by what.
    queries, answers : sequence of items
        Q and A of them.
    scores, places : array, (Q, K)
        The first K answers of each query: cosines, and places among `answers`.
    right : array of bool, (Q, K)
        Which of them are right.
    best_right : callable (query) -> (answer, score)
        The right answer that stands first in the whole order; asked where none of the first is right.

    Examples
    --------
    >>> scores, places = np.array([[0.9, 0.2]]), np.array([[1, 0]])
    >>> examples = search_examples("to text", ["a"], ["b", "c"], scores, places, places == 0, lambda query: (0, 0.2))
    >>> [(one.text, one.right) for one in examples[0].answers]
    [('c', False), ('b', True)]
    """
    values = np.where(right.any(axis=1), 1.0 / (1 + right.argmax(axis=1)), 0.0)
    examples = []
    for query, why in shown_queries(values).items():
        first = zip(places[query, :FOUND], scores[query, :FOUND], right[query, :FOUND], strict=True)
        row = [seen(answers[place], float(score), bool(hit)) for place, score, hit in first]
        if not right[query, :FOUND].any():
            place, score = best_right(query)
            row.append(seen(answers[place], score, True))
        examples.append(Example(way, why, seen(queries[query]), row))
    return examples


def read_examples(content: Any) -> list[Example]:
    """Examples of a result file.

    Raises
    ------
    ValueError
        They are no list of examples, or an image is no JPEG inside the text.

    Examples
    --------
    >>> example = Example("text to image", "one of many", Seen("a cat"), [Seen("a dog", score=0.2)])
    >>> read_examples([example.to_json()]) == [example]
    True
    """
    if not isinstance(content, list):
        raise ValueError("examples is no list")
    return [
        Example(str(part["way"]), str(part["why"]), _read_seen(part["query"]), [_read_seen(x) for x in part["answers"]])
        for part in content
    ]


def _read_seen(part: Mapping[str, Any]) -> Seen:
    image = str(part["image"])
    if image:
        try:
            content = base64.b64decode(image.removeprefix(_START), validate=True)
        except binascii.Error as error:
            raise ValueError("an image is no JPEG") from error
        if not image.startswith(_START) or not content.startswith(b"\xff\xd8\xff"):
            raise ValueError("an image is no JPEG")
    return Seen(str(part["text"]), image, None if part["score"] is None else float(part["score"]), bool(part["right"]))
