"""Mixtures of sources: which rows an epoch holds, in which order, and which source a batch or row comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from embedkit.data.datasets.shuffling import permutation, raw_numbers
from embedkit.errors import DataError

T = TypeVar("T")

_BLOCK = 1000


def shares(sizes: Sequence[int], mixing: str, weights: Sequence[float | None], temperature: float) -> list[float]:
    """The share of each source in an epoch.

    ``concatenate`` gives each source its size; ``weighted`` its weight; ``temperature`` its size to the power 1 / T
    (Devlin et al.'s exponential smoothing for multilingual BERT: T = 1 keeps the sizes, a large T evens them out).

    Examples
    --------
    >>> shares([900, 100], "weighted", [1, 1], 1.0), shares([900, 100], "temperature", [None, None], 2.0)
    ([0.5, 0.5], [0.75, 0.25])
    """
    if mixing == "weighted":
        raw = [float(weight or 0.0) for weight in weights]
    elif mixing == "temperature":
        raw = [size ** (1.0 / temperature) for size in sizes]
    else:
        raw = [float(size) for size in sizes]
    return [value / sum(raw) for value in raw]


def quotas(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to `parts` that sum to `total` (largest remainder).

    Examples
    --------
    >>> quotas([0.5, 0.25, 0.25], 7)
    [3, 2, 2]
    """
    exact = np.asarray(parts, np.float64) * total / sum(parts)
    counts = np.floor(exact).astype(np.int64)
    for index in np.argsort(-(exact - counts), kind="stable")[: total - int(counts.sum())]:
        counts[index] += 1
    return counts.tolist()


def endless(size: int, start: int, count: int, *key: int) -> np.ndarray:
    """Entries [start, start + count) of a sequence that shuffles 0 .. size - 1 anew each time it is through.

    Examples
    --------
    >>> order = endless(3, 0, 6, 1)  # twice through three rows
    >>> sorted(order[:3].tolist()), sorted(order[3:].tolist()), endless(3, 2, 3, 1).tolist() == order[2:5].tolist()
    ([0, 1, 2], [0, 1, 2], True)
    """
    pieces = []
    for cycle in range(start // size, -(-(start + count) // size)):
        low, high = max(start - cycle * size, 0), min(start + count - cycle * size, size)
        pieces.append(permutation(size, *key, cycle)[low:high])
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def pools(
    sizes: Sequence[int],
    parts: Sequence[float] | None,
    *,
    one_source: bool,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: Callable[..., np.ndarray] = permutation,
) -> list[np.ndarray]:
    """The row indices of an epoch in order: one sequence to cut batches from, or one for each source.

    Parameters
    ----------
    sizes : sequence of int
        Rows of each source; source i owns the indices after those of source i - 1.
    parts : sequence of float, optional
        Share of each source; None takes each row once. With shares an epoch has as many rows as the sources have
        together, to the nearest batch for `one_source`; a source continues where the epoch before left it, so that its
        rows are used equally often.
    one_source : bool
        One sequence a source.
    shuffle : callable
        Order of rows that come once each: `permutation` or `block_permutation`.

    Examples
    --------
    >>> [one] = pools([4, 2], [0.5, 0.5], one_source=False, batch_size=2, seed=1, epoch=0)
    >>> sorted(one.tolist())  # rows 0 to 3 are those of the first source
    [0, 2, 3, 4, 5, 5]
    """
    total = sum(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    if parts is None:
        if not one_source:
            return [shuffle(total, seed, epoch)]
        return [
            start + shuffle(size, seed, epoch, index)
            for index, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]
    if one_source:
        counts = [count * batch_size for count in quotas(parts, max(total // batch_size, 1))]
    else:
        counts = quotas(parts, total)
    sequences = [
        start + endless(size, epoch * count, count, seed, index)
        for index, (start, size, count) in enumerate(zip(starts, sizes, counts, strict=True))
    ]
    if one_source:
        return sequences
    together = np.concatenate(sequences)
    return [together[permutation(len(together), seed, epoch)]]


def interleave(
    starts: Sequence[Callable[[int], Iterator[T]]], weights: Sequence[float] | None, *key: int
) -> Iterator[tuple[int, T]]:
    """The items of several iterators, each with the number of its iterator.

    Parameters
    ----------
    starts : sequence of callables
        Start iterator i for its n-th time (n = 0, 1, ...).
    weights : sequence of float, optional
        Share of each iterator. They are met in every block of 1000 items; an iterator that ends is started again, and
        all ends when each one has ended once. Without weights one of those with items left is picked at random, and
        each item comes once.
    key : int
        Makes the choice a pure function of seed and epoch.

    Raises
    ------
    DataError
        An iterator gives nothing at all: its source would never be trained on, or be read again without end.

    Examples
    --------
    >>> starts = [lambda cycle: iter("abcd"), lambda cycle: iter("xy")]
    >>> sorted(interleave(starts, None, 1))
    [(0, 'a'), (0, 'b'), (0, 'c'), (0, 'd'), (1, 'x'), (1, 'y')]
    """
    running = [start(0) for start in starts]
    any_item = [False] * len(starts)
    if weights is None:
        active = list(range(len(starts)))
        numbers = raw_numbers(*key)
        while active:
            index = active[next(numbers) % len(active)]
            try:
                item = next(running[index])
            except StopIteration:
                _check_any(any_item, index)
                active.remove(index)
            else:
                any_item[index] = True
                yield index, item
        return
    cycles = [0] * len(starts)
    for index in _schedule(weights, *key):
        while True:
            try:
                item = next(running[index])
                any_item[index] = True
                break
            except StopIteration:
                _check_any(any_item, index)
                cycles[index] += 1
                if all(cycles):
                    return
                running[index] = starts[index](cycles[index])
        yield index, item


def _check_any(any_item: Sequence[bool], index: int) -> None:
    if not any_item[index]:
        raise DataError(
            "this source does not fill one batch, so it would never be trained on", where=f"data.train[{index}]",
            remedy="lower train.batch_size, set data.drop_last: false, or leave the source out",
        )  # fmt: skip


def _schedule(weights: Sequence[float], *key: int) -> Iterator[int]:
    """Endless choice of an index in proportion to `weights`: evenly spread, then shuffled in blocks of 1000."""
    share = np.asarray(weights, np.float64) / sum(weights)
    credit = np.zeros(len(share))
    block = 0
    while True:
        choices = []
        for _ in range(_BLOCK):
            credit += share
            index = int(np.argmax(credit))
            credit[index] -= 1.0
            choices.append(index)
        yield from (choices[place] for place in permutation(_BLOCK, *key, block))
        block += 1
