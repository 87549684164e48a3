"""Rows into batches in which nothing stands twice, in time linear in the number of things.

A plain greedy pass goes through the rows again for every batch and takes each row that shares nothing with those taken
before: quadratic. First fit, each row into the first batch that has room and none of its things, gives the same batches
in one pass, when every thing knows the batches it is in. It does here as the bits of one integer, so that one ``or`` a
thing tells every batch that is closed to a row. At most `SPAN` batches are open at a time, which bounds the integers;
so the result is that of the greedy pass exactly until so many are open, and close to it beyond.

A row is tried at most three times, and what no batch took is swapped into full ones as long as a budget of look-ups
lasts that is linear too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

SPAN = 4096
"""Batches that are open at a time."""

NEARBY = 64
"""Full batches that a swap looks at."""

EFFORT = 32
"""Look-ups of the swaps, times the number of things."""


class Packing:
    """Batches of items of which no two share a key.

    Parameters
    ----------
    keys, offsets : int64 arrays
        Item i has the keys ``keys[offsets[i]:offsets[i + 1]]``.
    capacity : int
        Items of a full batch.
    span : int
        Batches that are open at a time.

    Attributes
    ----------
    lookups : int
        Keys that were looked at so far: what the work is counted in.

    Examples
    --------
    >>> packing = Packing(np.array([7, 7, 8, 8]), np.arange(5), capacity=2)
    >>> [batch.tolist() for batch in packing.pack([0, 1, 2, 3])]
    [[0, 2], [1, 3]]
    """

    def __init__(self, keys: np.ndarray, offsets: np.ndarray, capacity: int, span: int = SPAN) -> None:
        self._keys, self._bounds = keys.tolist(), offsets.tolist()
        self._capacity, self._span = capacity, span
        self._open: list[list[int]] = []  # bit i of a mask stands for entry i
        self._masks: dict[int, int] = {}
        self._full_mask = 0  # bits of full batches
        self._full: list[list[int]] = []
        self.lookups = 0

    def pack(self, items: Iterable[int]) -> list[np.ndarray]:
        """The batches of `items`, full ones first, short ones after them with the largest first."""
        waiting: deque[int] = deque()
        for item in items:
            if not self._place(item):
                waiting.append(item)
            elif self._full_mask and waiting:
                self._settle()
                for _ in range(min(self._capacity, len(waiting))):
                    again = waiting.popleft()
                    if not self._place(again):
                        waiting.append(again)
        self._settle()
        alone = [[item] for item in waiting if not self._place(item)]
        self._settle()
        short = [*sorted(self._open, key=len, reverse=True), *alone]
        self._swap(short)
        return [np.asarray(batch, np.int64) for batch in (*self._full, *short) if batch]

    def _own(self, item: int) -> list[int]:
        own: list[int] = self._keys[self._bounds[item] : self._bounds[item + 1]]
        self.lookups += len(own) + 1
        return own

    def _place(self, item: int) -> bool:
        """Put an item into the first batch that takes it; False where none does and no other may be opened."""
        own, masks = self._own(item), self._masks
        conflicts = self._full_mask
        for key in own:
            conflicts |= masks.get(key, 0)
        free = ~conflicts & ((1 << len(self._open)) - 1)
        place = (free & -free).bit_length() - 1
        if place < 0:
            if len(self._open) >= self._span:
                return False
            place = len(self._open)
            self._open.append([])
        batch, bit = self._open[place], 1 << place
        batch.append(item)
        for key in own:
            masks[key] = masks.get(key, 0) | bit
        if len(batch) == self._capacity:
            self._full_mask |= bit
            if 2 * self._full_mask.bit_count() > len(self._open) + NEARBY:
                self._settle()
        return True

    def _settle(self) -> None:
        """Take the full batches out, and number the others anew; costs less than filling them did."""
        if not self._full_mask:
            return
        full_mask, batches = self._full_mask, self._open
        self._full += [batch for place, batch in enumerate(batches) if full_mask >> place & 1]
        self._open = [batch for place, batch in enumerate(batches) if not full_mask >> place & 1]
        self._full_mask, self._masks = 0, {}
        for place, batch in enumerate(self._open):
            for item in batch:
                for key in self._own(item):
                    self._masks[key] = self._masks.get(key, 0) | 1 << place

    def _swap(self, short: list[list[int]]) -> None:
        """Fill short batches: an item of a shorter one goes into a full batch in place of one that the target takes."""
        limit = self.lookups + EFFORT * (len(self._keys) + len(self._bounds))
        near = [(batch, self._owners(batch)) for batch in self._full[-NEARBY:]]
        target = 0
        while target < len(short) - 1 and self.lookups < limit:
            own = self._owners(short[target])
            for donor in reversed(short[target + 1 :]):
                for item in list(donor):
                    room = len(short[target]) < self._capacity and self.lookups < limit
                    if room and self._moved(item, short[target], own, near):
                        donor.remove(item)
            if len(short[target]) < self._capacity:
                return
            near = [*near[1:], (short[target], own)] if len(near) == NEARBY else [*near, (short[target], own)]
            target += 1

    def _owners(self, batch: list[int]) -> dict[int, int]:
        return {key: item for item in batch for key in self._own(item)}

    def _moved(
        self, item: int, target: list[int], own: dict[int, int], near: list[tuple[list[int], dict[int, int]]]
    ) -> bool:
        """Bring an item in, itself or by way of another batch."""
        keys = self._own(item)
        if not any(key in own for key in keys):
            _insert(item, keys, target, own)
            return True
        for batch, owners in near:
            self.lookups += len(keys)
            clashes = {owners[key] for key in keys if key in owners}
            if len(clashes) > 1:
                continue
            for other in clashes or batch:
                others = self._own(other)
                if not any(key in own for key in others):
                    batch.remove(other)
                    for key in others:
                        del owners[key]
                    _insert(item, keys, batch, owners)
                    _insert(other, others, target, own)
                    return True
        return False


def _insert(item: int, keys: list[int], batch: list[int], owners: dict[int, int]) -> None:
    batch.append(item)
    owners.update(dict.fromkeys(keys, item))
