"""Images with captions that embedkit makes itself: a coloured shape on a plain ground; no download, no chance.

A picture has five features: colour, shape, size, place and ground. A combination of the first four belongs to exactly
one of train, dev and test, so a held-out score measures whether features are distinguished, not whether pictures are
remembered. An image is a binary PPM file (32 x 32), which takes no library to write, so that its bytes are equal on
every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

EDGE = 32
"""Height and width of an image in pixels."""

COLOURS = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 200), "yellow": (240, 210, 40),
    "purple": (148, 60, 189), "orange": (255, 127, 14), "pink": (247, 140, 200), "brown": (120, 72, 40),
}  # fmt: skip
GROUNDS = {"white": (250, 250, 250), "black": (12, 12, 12), "grey": (128, 128, 128)}
SIZES = {"small": 5, "large": 9}
PLACES = {
    "in the middle": (16, 16), "at the top left": (10, 10), "at the top right": (10, 22),
    "at the bottom left": (22, 10), "at the bottom right": (22, 22),
}  # fmt: skip

Grid = np.ndarray
SHAPES: dict[str, Callable[[Grid, Grid, int], Grid]] = {
    "circle": lambda y, x, r: y * y + x * x <= r * r,
    "square": lambda y, x, r: np.maximum(np.abs(y), np.abs(x)) <= r - 1,
    "diamond": lambda y, x, r: np.abs(y) + np.abs(x) <= r,
    "triangle": lambda y, x, r: (2 * np.abs(x) <= y + r) & (y <= r - 1),
    "cross": lambda y, x, r: (np.minimum(np.abs(y), np.abs(x)) * 3 <= r) & (np.maximum(np.abs(y), np.abs(x)) <= r),
    "ring": lambda y, x, r: (y * y + x * x <= r * r) & (4 * (y * y + x * x) >= r * r),
}
"""Name -> where the shape is, from integer distances (32, 32) to its centre and its radius."""

Features = tuple[int, int, int, int, int]
"""Numbers of colour, shape, size, place and ground."""
_SIDES = (len(COLOURS), len(SHAPES), len(SIZES), len(PLACES), len(GROUNDS))


def features(below: Callable[[int], int]) -> Features:
    """Random features of a picture; `below` gives a random number in [0, bound).

    Examples
    --------
    >>> features(lambda bound: bound - 1)
    (7, 5, 1, 4, 2)
    """
    colour, shape, size, place, ground = (below(side) for side in _SIDES)
    return colour, shape, size, place, ground


def row(picture: Features, below: Callable[[int], int]) -> dict[str, Any]:
    """The row of a picture: ``image``, ``captions`` (two), ``label`` and ``label_name`` (the shape).

    Examples
    --------
    >>> red_circle = (0, 0, 1, 0, 0)  # large, in the middle, on white
    >>> cells = row(red_circle, lambda bound: 0)
    >>> cells["captions"][0], cells["label"], cells["label_name"]
    ('a large red circle in the middle on a white ground', 0, 'circle')
    """
    names: tuple[Iterable[str], ...] = (COLOURS, SHAPES, SIZES, PLACES, GROUNDS)
    colour, shape, size, place, ground = (list(own)[number] for own, number in zip(names, picture, strict=True))
    captions = [
        f"a {size} {colour} {shape} {place} on a {ground} ground",
        f"{place} there is a {colour} {shape}, {size}, the ground is {ground}",
        f"{ground} ground with a {size} {shape} in {colour} {place}",
        f"a {colour} {shape} of {size} size {place}, {ground} behind it",
    ]
    first = below(len(captions))
    second = (first + 1 + below(len(captions) - 1)) % len(captions)
    shift = (below(3) - 1, below(3) - 1)
    return {
        "image": draw(picture, shift),
        "captions": [captions[first], captions[second]],
        "label": picture[1],
        "label_name": shape,
    }


def scene(picture: Features, below: Callable[[int], int]) -> dict[str, Any]:
    """The row of a picture that is described at length, with another one that differs from it in one feature.

    ``image``, ``captions`` (a short one and a long one of four sentences), ``nouns`` (the things that they name),
    ``topics`` (shares of three topics, which the shape tells), ``image2`` and ``difference`` (what changed from the
    first picture to the second).

    Examples
    --------
    >>> red_circle = (0, 0, 1, 0, 0)
    >>> cells = scene(red_circle, lambda bound: 0)
    >>> cells["captions"]
    ['a red circle', 'There is a large circle. The circle is red. It is in the middle. The ground is white.']
    >>> cells["nouns"], cells["topics"], cells["difference"]
    (['circle', 'ground', 'middle'], [0.8, 0.1, 0.1], 'the circle is green, it was red')
    """
    names: tuple[Iterable[str], ...] = (COLOURS, SHAPES, SIZES, PLACES, GROUNDS)
    lists = [list(own) for own in names]
    colour, shape, size, place, ground = (own[number] for own, number in zip(lists, picture, strict=True))
    sentences = [f"There is a {size} {shape}.", f"The {shape} is {colour}.", f"It is {place}.",
                 f"The ground is {ground}."]  # fmt: skip
    feature = (0, 2, 3, 4)[below(4)]
    other = list(picture)
    other[feature] = (picture[feature] + 1 + below(_SIDES[feature] - 1)) % _SIDES[feature]
    before, after = (lists[feature][number] for number in (picture[feature], other[feature]))
    neighbour: Features = (other[0], other[1], other[2], other[3], other[4])
    return {
        "image": draw(picture),
        "captions": [f"a {colour} {shape}", " ".join(sentences)],
        "nouns": sorted({shape, "ground", place.split()[-1]}),
        "topics": [0.8 if topic == picture[1] // 2 else 0.1 for topic in range(3)],
        "image2": draw(neighbour),
        "difference": f"the {'ground' if feature == 4 else shape} is {after}, it was {before}",
    }


def draw(picture: Features, shift: tuple[int, int] = (0, 0)) -> bytes:
    """The PPM file of a picture; `shift` moves the shape by pixels (down, right).

    Examples
    --------
    >>> image = draw((0, 0, 1, 0, 0))
    >>> image[:13], len(image)
    (b'P6 32 32 255\\n', 3085)
    """
    colour, shape, size, place, ground = picture
    row, column = list(PLACES.values())[place]
    y, x = np.mgrid[0:EDGE, 0:EDGE]
    inside = list(SHAPES.values())[shape](y - row - shift[0], x - column - shift[1], list(SIZES.values())[size])
    pixels = np.empty((EDGE, EDGE, 3), np.uint8)
    pixels[:] = list(GROUNDS.values())[ground]
    pixels[inside] = list(COLOURS.values())[colour]
    return b"P6 %d %d 255\n" % (EDGE, EDGE) + pixels.tobytes()


def words() -> set[str]:
    """All words of the captions, for a vocabulary.

    Examples
    --------
    >>> {"red", "circle", "photo"} <= words()
    True
    """
    text = "a on ground there is the with in of size behind it photo " + " ".join(
        [*COLOURS, *SHAPES, *SIZES, *PLACES, *GROUNDS]
    )
    return set(text.split())
