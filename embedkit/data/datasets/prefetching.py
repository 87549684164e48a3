"""A background thread that prepares the next items while the current one is used."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL = 0.1  # seconds after which a blocked worker looks whether it should stop


class Prefetcher(Generic[T]):
    """An iterator over `items` whose next `depth` items are made in a background thread.

    Order is kept; an exception raised while making an item is raised where that item would have come. Close it, or use
    it in a ``with`` block, when it is not read to the end.

    Parameters
    ----------
    items : iterator
        Advanced in the background thread only.
    depth : int
        Items made ahead, at least 1.

    Attributes
    ----------
    waited : float
        Seconds that the reader has waited for items so far.

    Examples
    --------
    >>> with Prefetcher(iter([1, 2, 3])) as numbers:
    ...     list(numbers)
    [1, 2, 3]
    """

    def __init__(self, items: Iterator[T], depth: int = 2) -> None:
        if depth < 1:
            raise ValueError("depth must be at least 1")
        self.waited = 0.0
        self._items = items
        self._ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._at_end = False
        self._thread = threading.Thread(target=self._work, name="embedkit-prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._at_end:
            raise StopIteration
        start = time.perf_counter()
        kind, value = self._ready.get()
        self.waited += time.perf_counter() - start
        if kind == "item":
            return value  # type: ignore[return-value]
        self._at_end = True
        self._thread.join()
        if isinstance(value, BaseException):
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait until it has ended; items made ahead are dropped. May be called twice."""
        self._at_end = True
        self._stop.set()
        self._thread.join()
        close = getattr(self._items, "close", None)
        if close is not None:  # a generator ends the threads that it works with
            close()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put("item", item):
                    return
        except BaseException as error:
            self._put("error", error)
        else:
            self._put("end", None)

    def _put(self, kind: str, value: T | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put((kind, value), timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False


def prefetch(items: Iterator[T], depth: int = 2) -> Prefetcher[T]:
    """A `Prefetcher`, which makes the next `depth` items of an iterator in a background thread.

    Examples
    --------
    >>> list(prefetch(iter("abc")))
    ['a', 'b', 'c']
    """
    return Prefetcher(items, depth)
