"""Functions called in other Python processes, for work that would hold the interpreter's lock of this one.

A thread that makes many short calls of Python beside training costs the training thread more than its own time: each
waits for the lock whenever the other one has it. `multiprocessing` would import the user's main module again in each
process, where a script without a guard starts its training anew; these processes import what they are asked for only.
"""

from __future__ import annotations

import contextlib
import json
import pickle  # nosec B403  # gate: between this process and its own children, through pipes that no one else has
import queue
import subprocess  # nosec B404
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

Result = TypeVar("Result")

OF_THREAD: ContextVar[Workers | None] = ContextVar("workers of this thread", default=None)
"""Processes that the work of this thread may go to."""

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import _serve; _serve()"


class Worker:
    """A Python process that calls functions of modules, one after the other.

    It ends with `close`, or when this process has ended, however that was. An interrupt from the keyboard does not
    reach it.

    Raises
    ------
    OSError
        It cannot be started.

    Examples
    --------
    >>> worker = Worker()
    >>> worker.call(sorted, [3, 1, 2])
    [1, 2, 3]
    >>> worker.call(int, "three")
    Traceback (most recent call last):
    ValueError: invalid literal for int() with base 10: 'three'
    >>> worker.close()
    """

    def __init__(self) -> None:
        # isolated until it has this path: without, a file json.py in the folder where it starts would be run
        path = json.dumps([str(entry) for entry in sys.path])
        command = [sys.executable, "-I", "-c", _PROGRAM.format(__name__), path]
        self._process = subprocess.Popen(  # nosec B603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What the function returns; what it raises is raised here.

        Raises
        ------
        WorkerGone
            The process has ended, or what goes to it or comes from it cannot be pickled.
        """
        question, answers = self._process.stdin, self._process.stdout
        assert question is not None
        assert answers is not None
        try:
            question.write(pickle.dumps((function, arguments), protocol=5))
            question.flush()
            # its own process alone writes into the pipe
            result, error = pickle.load(answers)  # noqa: S301  # nosec B301
        except Exception as failure:  # gate: whatever it was, questions and answers are no longer in step
            raise WorkerGone(str(failure)) from failure
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not yet written cannot be, to a process that has ended
                    pipe.close()
        self._process.wait()


class WorkerGone(Exception):
    """A worker process cannot be used any more.

    Examples
    --------
    >>> worker = Worker()
    >>> worker.close()
    >>> worker.call(len, [])
    Traceback (most recent call last):
    embedkit.system.workers.WorkerGone: write to closed file
    """


class Workers:
    """Up to `count` worker processes for the threads of this one; they start when enough calls have been made.

    Until then, while they start, and when they have died, the calling thread does the work itself: what comes out is
    the same.

    Parameters
    ----------
    count : int
        Processes.
    after : int
        Units of work after which they pay for their start.

    Examples
    --------
    >>> workers = Workers(1, after=2)
    >>> [workers.call(len, "abc", units=1) for _ in range(3)]
    [3, 3, 3]
    >>> workers.close()
    """

    def __init__(self, count: int, after: int) -> None:
        self._count, self._after = count, after
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._all: list[Worker] = []
        self._is_closed = False
        self._start: threading.Thread | None = None

    def call(self, function: Callable[..., Result], *arguments: Any, units: int) -> Result:
        """What the function returns, by a worker process that is free, or else by this thread."""
        with self._lock:
            self._after -= units
            if self._after <= 0 and self._start is None:
                self._start = threading.Thread(target=self._begin, args=(function,), name="embedkit-start", daemon=True)
                self._start.start()
        try:
            worker = self._free.get_nowait()
        except queue.Empty:
            return function(*arguments)
        try:
            result = worker.call(function, *arguments)
        except WorkerGone:  # it is not put back
            return function(*arguments)
        except Exception:  # the function's own, which came back whole: the process goes on
            self._free.put(worker)
            raise
        self._free.put(worker)
        return result

    def _begin(self, function: Callable[..., Any]) -> None:
        """Start the processes; each is free when it has imported what the function needs."""
        for _ in range(self._count):
            with self._lock:
                if self._is_closed:
                    return
                try:
                    worker = Worker()
                except OSError:  # no process left for this user: the threads go on
                    return
                self._all.append(worker)
            try:
                worker.call(_name, function)
            except WorkerGone:
                continue
            self._free.put(worker)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._is_closed = True
            for worker in self._all:
                worker.close()


def _name(function: Callable[..., Any]) -> str:
    """The name of a function, whose module is imported where this is called."""
    return function.__qualname__


def _serve() -> None:
    """Answer the calls of a `Worker` until its pipe ends."""
    import os

    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints goes elsewhere
    while True:
        try:
            function, arguments = pickle.load(questions)  # noqa: S301  # nosec B301
        except Exception:  # gate: the pipe has ended, within a question perhaps; or one of things that are not here
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = (function(*arguments), None)
        except Exception as error:  # gate: it is raised again by the process that asked
            answer = (None, error)
        try:
            answers.write(pickle.dumps(answer, protocol=5))
            answers.flush()
        except Exception:  # gate: nobody reads any more; or it cannot be sent, and who asked does the work
            return
