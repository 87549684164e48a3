"""Several gloo processes on one machine, for tests of what must not depend on the number of processes.

``run_processes(function, 2, *args)`` calls ``function(*args)`` in two processes that form a process group and returns
the two results, by rank. `Processes` keeps the processes, and their group, for more than one call.

The processes are forked from one server that has imported torch and a part of embedkit, so one costs milliseconds.
Function, arguments and results travel as bytes: a function must be importable (module level), tensors are copied.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

HOST = "127.0.0.1"
GRACE = 1.0  # seconds the other processes have to answer after one of them failed
PRELOAD = [
    "torch",
    "torch.distributed",
    "numpy",
    "embedkit.objectives.registry",
    "embedkit.training.parallel.distributed",
]


def forkserver() -> Any:
    """Where processes are forked from: a server that has imported what costs seconds, once for all of them."""
    context = multiprocessing.get_context("forkserver")
    heavy = ["torch.distributed", "accelerate", "embedkit.models.modules.text", "embedkit.training.loop.run"]
    context.set_forkserver_preload([*heavy, "embedkit.cli.app", "embedkit.evaluation", "tests.helpers.gloo"])
    return context


class ProcessError(RuntimeError):
    """A process failed; the message holds its rank and its traceback. The cause of the error that is raised."""


def _answer(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """The result of the call, or the exception and its traceback as text, as bytes."""
    try:
        return pickle.dumps((True, function(*args), ""))
    except BaseException as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (own processes only)
        except Exception:  # an exception whose constructor takes other arguments than it keeps
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return pickle.dumps((False, error, text))


def _serve(rank: int, world: int, port: int, group: bool, timeout: float, pipe: Connection) -> None:
    """Join the group, then answer calls until the pipe is closed."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR=HOST)
    import datetime

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if group:
        limit = datetime.timedelta(seconds=timeout)
        store = dist.TCPStore(HOST, port, is_master=False, timeout=limit)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            break
        function, args = pickle.loads(message)  # noqa: S301
        pipe.send_bytes(_answer(function, args))
    if group:
        dist.destroy_process_group()


class Processes:
    """`world` processes in one gloo group; use it as a context manager.

    Parameters
    ----------
    world : int
        How many.
    timeout : float
        Seconds a call may take; also the limit of each collective operation.
    group : bool
        Without it no process group is made, only the usual environment (RANK, WORLD_SIZE, MASTER_ADDR, ...) is set.
    """

    def __init__(self, world: int, *, timeout: float = 60.0, group: bool = True) -> None:
        self.world, self.timeout, self.group = world, timeout, group
        self._members: list[tuple[Any, Connection]] = []
        self._store: Any = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(kill=error is not None)

    def _start(self) -> None:
        import torch.distributed as dist

        context = forkserver()
        # the parent holds the store, so that the port is chosen by the system and nobody can take it in between
        self._store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            args = (rank, self.world, self._store.port, self.group, self.timeout, theirs)
            process = context.Process(target=_serve, args=args, daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """``function(*args)`` in every process; results by rank.

        Raises
        ------
        TimeoutError
            Names the ranks that did not answer in time.
        Exception
            What the first failing process raised; its traceback is in the message of the cause, a `ProcessError`.
        """
        if not self._members:
            self._start()
        message = pickle.dumps((function, args))
        for _, pipe in self._members:
            pipe.send_bytes(message)
        answers = self._collect()
        failures = [(rank, *answer[1:]) for rank, answer in sorted(answers.items()) if not answer[0]]
        missing = sorted(set(range(self.world)) - set(answers))
        if failures or missing:
            self.close(kill=True)  # after a failure the collective operations of the group may be out of step
        if failures:
            # a dead peer makes the others fail too: what another error caused is not the first one
            rank, error, text = min(failures, key=lambda failure: "Connection closed by peer" in str(failure[1]))
            raise error from ProcessError(f"process {rank} of {self.world} failed:\n{text}")
        if missing:
            raise TimeoutError(f"processes {missing} of {self.world} did not answer within {self.timeout} s")
        return [answers[rank][1] for rank in range(self.world)]

    def _collect(self) -> dict[int, tuple[bool, Any, str]]:
        """Answers by rank until all came, the time is over, or the grace after a first failure is over."""
        answers: dict[int, tuple[bool, Any, str]] = {}
        waiting = {pipe: rank for rank, (_, pipe) in enumerate(self._members)}
        end = time.monotonic() + self.timeout
        while waiting and (left := end - time.monotonic()) > 0:
            for pipe in wait(list(waiting), timeout=left):
                rank = waiting.pop(pipe)  # type: ignore[call-overload]
                try:
                    answers[rank] = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]  # noqa: S301
                except EOFError:
                    self._members[rank][0].join(GRACE)
                    code = self._members[rank][0].exitcode
                    answers[rank] = (False, RuntimeError(f"process {rank} ended with exit code {code}"), "")
                if not answers[rank][0]:
                    end = min(end, time.monotonic() + GRACE)
        return answers

    def close(self, *, kill: bool = False) -> None:
        """End the processes; with `kill` without waiting for them."""
        for _, pipe in self._members:
            pipe.close()
        for process, _ in self._members:
            if kill:
                process.kill()
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join(GRACE)
        self._members, self._store = [], None


def run_processes(function: Callable[..., Any], world: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """``function(*args)`` in `world` new processes that form a gloo group; results by rank (see `Processes.run`)."""
    with Processes(world, timeout=timeout) as processes:
        return processes.run(function, *args)
