"""How a run is asked to stop: SIGTERM and SIGINT, on one process or on all."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

from embedkit.errors import ProcessLostError

ECHO = 5.0
"""Seconds in which a second signal counts as the first one again: a launcher passes on what its workers got too."""


class StopRequest:
    """Inside the ``with`` block SIGTERM and SIGINT are noted; a second one, later than an echo, ends the process.

    Attributes
    ----------
    code : int or None
        128 + the number of the signal; None when nobody has asked.

    Examples
    --------
    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> stop.code
    143
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: signals are its business
            self._before = {}
        return self

    def __exit__(self, *ended: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.code is None:
            self.code, self._at = 128 + number, time.monotonic()
        elif time.monotonic() - self._at > ECHO:
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)


_LOST = ("closed by peer", "reset by peer", "Connection refused", "Broken pipe", "remote process exited", "imed out")


def lost_process(error: RuntimeError, where: str, remedy: str) -> ProcessLostError | None:
    """The line for an exchange that failed because another process has ended; None for any other error.

    Examples
    --------
    >>> print(lost_process(RuntimeError("Connection closed by peer [10.0.0.2]"), "runs/pairs", "resume with --resume"))
    runs/pairs: another process of the run has ended or cannot be reached; see its last output for the reason; ...
    >>> lost_process(RuntimeError("shape mismatch"), "runs/pairs", "") is None
    True
    """
    line = next((line for line in str(error).splitlines() if any(text in line for text in _LOST)), None)
    if line is None:
        return None
    return ProcessLostError(
        "another process of the run has ended or cannot be reached; see its last output for the reason", where=where,
        remedy=remedy,
    )  # fmt: skip
