"""Work shared by threads of Python, each of which computes with its own share of torch's threads.

torch shares single operations between its threads, which pays for large ones only: between the matrix products of an
encoder stand dozens of small ones. Several batches at once keep all cores busy.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOCK = threading.Lock()


def by_threads(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """The result of `work` for each item, in the order in which they are done; by the caller itself for one worker.

    Each worker has an equal part of the threads that torch has in the calling thread, whose own number stays as it is.
    The first error ends the iteration as soon as it occurs; no worker runs any more when it has ended, for whatever
    reason.

    Examples
    --------
    >>> from embedkit.system.threads import by_threads
    >>> sorted(by_threads(lambda number: number**2, [1, 2, 3], workers=2))
    [1, 4, 9]
    """
    if workers < 2 or len(items) < 2:
        yield from map(work, items)
        return
    remaining, results = iter(items), queue.SimpleQueue[tuple[Any, BaseException | None]]()
    lock, stop = threading.Lock(), threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                with lock:
                    item = next(remaining, stop)
                if item is stop:
                    return
                results.put((work(item), None))  # type: ignore[arg-type]
        except BaseException as error:  # gate: it is raised again by the thread that waits for the results
            results.put((None, error))

    threads = _started(run, min(workers, len(items)))
    try:
        for _ in items:
            result, error = results.get()
            if error is not None:
                raise error
            yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _started(run: Callable[[], None], workers: int) -> list[threading.Thread]:
    """Running threads that call `run`.

    `torch.set_num_threads` sets the number of the thread that calls it, and the number that later threads of the
    process start with: the latter is set back before anybody else can call it from here.
    """
    import torch

    with _LOCK:
        total = torch.get_num_threads()
        ready, go = threading.Semaphore(0), threading.Event()

        def begin() -> None:
            torch.get_num_threads()  # the thread's first look at the number: from now on its own counts
            torch.set_num_threads(max(1, total // workers))
            ready.release()
            go.wait()
            run()

        threads = [threading.Thread(target=begin, name=f"encode-{n}", daemon=True) for n in range(workers)]
        try:
            for thread in threads:
                thread.start()
                ready.acquire()
        finally:
            torch.set_num_threads(total)
            go.set()
    return threads
