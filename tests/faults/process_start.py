"""Starting ``embedkit`` in processes that can be killed, forked from a server that has imported everything.

`Forked` is what `eval.benchmarks.kill` calls a start, for a tenth of the time of a fresh interpreter.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.kill import LIMIT, ON_CPU, free_port
from tests.helpers.gloo import HOST, forkserver

ALONE = 60.0
"""Seconds that a process may take to end when another one of its run has died."""

_SETTINGS = {**ON_CPU, "MASTER_ADDR": HOST}


def _run(given: Any, said: str, place: dict[str, str]) -> None:
    """The body of a process: standard output and error into a file, then ``embedkit`` or a function."""
    with open(said, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        os.environ.pop(name, None)
    os.environ.update(place)
    import torch

    from embedkit.cli.app import main

    torch.set_num_threads(1)
    if not callable(given[0]):
        sys.exit(main(given))
    function, *args = given
    function(*args)


class Forked:
    """A start of ``embedkit GIVEN``, or of a function and its arguments, on one or more processes."""

    def __init__(self, processes: int, given: Sequence[Any], errors: Path) -> None:
        context, port = forkserver(), str(free_port())
        self._said = [errors.with_name(f"{errors.name}.{rank}") for rank in range(processes)]
        self.members: list[Any] = []
        for rank, file in enumerate(self._said):
            file.write_bytes(b"")
            place = {**_SETTINGS, "MASTER_PORT": port, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                     "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}  # fmt: skip
            process = context.Process(target=_run, args=(list(given), str(file), place), daemon=True)
            process.start()
            self.members.append(process)
        self.alone = 0.0  # seconds that the others went on after one was killed

    def poll(self) -> int | None:
        """The first exit code that is not 0, None while a process runs."""
        codes = [process.exitcode for process in self.members]
        return None if None in codes else next((int(code) for code in codes if code), 0)

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to these processes, to all when none is named."""
        for rank in ranks or range(len(self.members)):
            if self.members[rank].exitcode is None:
                os.kill(self.members[rank].pid, number)

    def kill(self, one: random.Random | None) -> None:
        """SIGKILL to all processes, or to one drawn with `one`: then the others must end by themselves."""
        if one is not None:
            self.signal(signal.SIGKILL, one.randrange(len(self.members)))
            began = time.monotonic()
            for process in self.members:
                process.join(max(0.0, began + ALONE - time.monotonic()))
            self.alone = time.monotonic() - began
            left = sum(process.exitcode is None for process in self.members)
        self.signal(signal.SIGKILL)
        self.wait()
        assert one is None or not left, f"still running {ALONE:.0f} s after another process was killed"

    def wait(self) -> int:
        """The exit code, once all have ended."""
        end = time.monotonic() + LIMIT
        for process in self.members:
            process.join(max(0.0, end - time.monotonic()))
        code = self.poll()
        assert code is not None, f"still running after {LIMIT:.0f} s: {self.said[-2000:]}"
        return code

    @property
    def codes(self) -> list[int | None]:
        """Exit codes by rank."""
        return [process.exitcode for process in self.members]

    def lines(self, rank: int = 0) -> list[str]:
        """What a process has said, line by line."""
        text = self._said[rank].read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    @property
    def said(self) -> str:
        """What all processes have said."""
        return "\n".join(line for rank in range(len(self.members)) for line in self.lines(rank))


def in_process(function: Callable[..., None], *args: Any, folder: Path) -> None:
    """Call a function in a process of its own; AssertionError with what it said when it fails."""
    start = Forked(1, [function, *args], folder / "said.txt")
    code = start.wait()
    assert code == 0, start.said[-3000:]
