"""Spans of documents and parts of sentences, as (start, stop) pairs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Span = tuple[int, int]


def random_span(
    length: int, random: np.random.Generator, *, least: int = 32, most: int = 512, shape: tuple[float, float] = (4, 2)
) -> Span:
    """One span of a sequence of `length` items.

    Its size is floor(Beta(`shape`) x (most - least) + least), cut to `length`; its start is uniform.

    Examples
    --------
    >>> random_span(1000, np.random.default_rng(3), least=32, most=512)
    (23, 439)
    """
    size = min(length, _size(random, least, most, shape))
    start = int(random.integers(length - size + 1))
    return start, start + size


def anchor_spans(
    length: int, random: np.random.Generator, *, anchors: int = 2, least: int = 32, most: int = 512,
    shape: tuple[float, float] = (4, 2),
) -> list[Span]:  # fmt: skip
    """Anchors of a document that lie far apart (DeCLUTR, Giorgi et al. 2021, section 3.1; official code).

    The document is cut into slots of `most` items; each anchor takes a random slot, lies inside it, and takes the slot
    and its two neighbours out of the pool. When what is left would not do for the rest, only the first or the last
    remaining slot is taken.

    Raises
    ------
    ValueError
        When the document has fewer than 2 x `anchors` x `most` items.

    Examples
    --------
    >>> anchor_spans(100, np.random.default_rng(3), anchors=2, least=5, most=20)
    [(80, 90), (3, 16)]
    """
    if length < 2 * anchors * most:
        raise ValueError(f"{anchors} anchors need {2 * anchors * most} items, the document has {length}")
    slots = list(range(0, length - most + 1, most))
    spans = []
    for index in range(anchors):
        tight = len(slots) // (anchors - index) < anchors - index
        at = int(random.choice([0, len(slots) - 1])) if tight else int(random.integers(len(slots)))
        slot = slots[at]
        size = _size(random, least, most, shape)
        start = slot + int(random.integers(most - size + 1))
        spans.append((start, start + size))
        slots = [other for other in slots if abs(other - slot) > most]
    return spans


def positive_span(
    length: int, anchor: Span, random: np.random.Generator, *, least: int = 32, most: int = 512,
    shape: tuple[float, float] = (2, 4),
) -> Span:  # fmt: skip
    """A span that overlaps, touches or lies inside an anchor (DeCLUTR, section 3.1).

    Its size is drawn as in `random_span`, its start uniformly from [max(0, anchor start - size), min(anchor stop,
    length - size)], both ends included.

    Examples
    --------
    >>> positive_span(100, (30, 50), np.random.default_rng(3), least=5, most=20)
    (18, 31)
    """
    size = min(length, _size(random, least, most, shape))
    first, last = max(0, anchor[0] - size), min(anchor[1], length - size)
    start = int(random.integers(first, last + 1))
    return start, start + size


def cut(length: int, random: np.random.Generator, *, parts: int = 2, even: bool = False) -> list[Span]:
    """Neighbouring spans that together are the whole: phrases to be composed (CompCSE, Chanchani and Huang 2023).

    The places of the cuts are random, or even. There are fewer parts where there are fewer items.

    Examples
    --------
    >>> cut(9, np.random.default_rng(3), parts=2)
    [(0, 7), (7, 9)]
    >>> cut(9, np.random.default_rng(3), parts=3, even=True)
    [(0, 3), (3, 6), (6, 9)]
    """
    parts = max(1, min(parts, length))
    if even:
        cuts = [length * i // parts for i in range(1, parts)]
    else:
        cuts = sorted(int(c) + 1 for c in random.choice(length - 1, size=parts - 1, replace=False)) if parts > 1 else []
    edges = [0, *cuts, length]
    return list(pairwise(edges))


def _size(random: np.random.Generator, least: int, most: int, shape: tuple[float, float]) -> int:
    return int(random.beta(*shape) * (most - least) + least)
