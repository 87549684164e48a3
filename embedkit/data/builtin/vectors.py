"""Built-in vectors: two of each of some points around centres, or two of each of some scenes that a sentence tells.

They are made of whole numbers, so they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

WIDTH, CLASSES, LATENT = 32, 8, 6
"""Numbers of a vector, centres, and hidden numbers of a point that its two vectors share."""


def vector_row(below: Callable[[int], int]) -> dict[str, Any]:
    """One row: two vectors of one hidden point (anchor, positive), and the number of its centre (label).

    The hidden point is a centre and a deviation; each of its vectors is a fixed linear map of it, with noise of its
    own and an offset that says nothing.

    Parameters
    ----------
    below : callable
        A random whole number from 0 to below its argument.

    Examples
    --------
    >>> row = vector_row(lambda bound: bound // 2)
    >>> len(row["anchor"]), len(row["positive"]), row["label"]
    (32, 32, 4)
    """
    label = below(CLASSES)
    hidden = [_fixed(label * LATENT + k) * 2 + below(129) - 64 for k in range(LATENT)]

    def vector() -> list[float]:
        sums = (sum(_fixed(1_000 + j * LATENT + k) * hidden[k] for k in range(LATENT)) for j in range(WIDTH))
        return [total / 4096 + (below(129) - 64) / 64 + j % 3 for j, total in enumerate(sums)]

    return {"anchor": vector(), "positive": vector(), "label": label}


SIZES = {"image": 24, "sound": 16}
"""Numbers of the vectors of a scene."""


def modality_row(caption: str, concepts: Sequence[float], below: Callable[[int], int]) -> dict[str, Any]:
    """One row of three modalities: a sentence, and vectors that stand for an image and for a sound of its scene.

    A vector is a fixed linear map of the concepts with noise of its own. One row in four lacks one of the three (None).

    Parameters
    ----------
    caption : str
        The sentence.
    concepts : sequence of float
        A 1 for each concept of the scene, among zeros.
    below : callable
        A random whole number from 0 to below its argument.

    Examples
    --------
    >>> row = modality_row("the dog barks", [0.0, 1.0, 0.0], lambda bound: bound // 2)
    >>> row["caption"], len(row["image"]), len(row["sound"])
    ('the dog barks', 24, 16)
    """
    there = [place for place, value in enumerate(concepts) if value]
    row: dict[str, Any] = {"caption": caption}
    for number, (name, size) in enumerate(SIZES.items()):
        sums = (sum(_fixed((number + 7) * 100_000 + j * 1_000 + k) for k in there) for j in range(size))
        row[name] = [total / 64 + (below(129) - 64) / 256 for total in sums]
    missing = below(12)
    return row | ({list(row)[missing]: None} if missing < len(row) else {})


_CITIES = ((52, 13), (-34, 151), (36, 140), (-23, -43), (1, 36), (64, -150))
"""Latitude and longitude that the places of the built-in rows lie around, by label."""


def place_row(below: Callable[[int], int]) -> dict[str, Any]:
    """One row: a vector that stands for a picture (image), where it was taken (place), and the region's number (label).

    The picture shows where it is: a fixed linear map of region and place, with noise.

    Examples
    --------
    >>> row = place_row(lambda bound: bound // 2)
    >>> len(row["image"]), row["place"], row["label"]
    (24, [-23.0, -43.0], 3)
    """
    label = below(len(_CITIES))
    north, east = below(129) - 64, below(129) - 64
    hidden = [64 if k == label else 0 for k in range(len(_CITIES))] + [north, east]
    sums = (sum(_fixed(500_000 + j * 1_000 + k) * value for k, value in enumerate(hidden)) for j in range(24))
    image = [total / 4096 + (below(129) - 64) / 256 for total in sums]
    latitude, longitude = _CITIES[label]
    return {"image": image, "place": [latitude + north / 16, longitude + east / 16], "label": label}


def _fixed(place: int) -> int:
    """A number from -64 to 64 that depends on its place only."""
    return (place * 2_654_435_761 % 4_294_967_296 >> 16) % 129 - 64
