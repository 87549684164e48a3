"""The helper itself: results by rank, errors with their traceback, time limits."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from embedkit.errors import NonFiniteError
from tests.helpers.gloo import ProcessError, Processes, run_processes


def total(value: float) -> tuple[int, float, int]:
    """Rank, the sum of rank * value over the processes, torch threads."""
    tensor = torch.tensor([dist.get_rank() * value])
    dist.all_reduce(tensor)
    return dist.get_rank(), tensor.item(), torch.get_num_threads()


def fail_on_one() -> None:
    """Rank 1 raises while the others wait for it."""
    if dist.get_rank() == 1:
        raise NonFiniteError("NaN in row 7", where="anchor")
    dist.barrier()


def die_on_zero() -> None:
    """Rank 0 ends without a word."""
    if dist.get_rank() == 0:
        os._exit(3)


def sleep_on_one() -> None:
    """Rank 1 is late."""
    if dist.get_rank() == 1:
        time.sleep(30)


def test_results_come_back_by_rank() -> None:
    assert run_processes(total, 3, 2.0) == [(0, 6.0, 1), (1, 6.0, 1), (2, 6.0, 1)]


def test_processes_serve_many_calls_and_survive_an_error() -> None:
    with Processes(2) as processes:
        assert processes.run(total, 1.0) == processes.run(total, 1.0)
        with pytest.raises(NonFiniteError, match="row 7") as caught:
            processes.run(fail_on_one)
        assert isinstance(caught.value.__cause__, ProcessError)
        assert "fail_on_one" in str(caught.value.__cause__)
        assert processes.run(total, 1.0)[1] == (1, 1.0, 1)


def test_a_dead_process_is_named() -> None:
    with pytest.raises(RuntimeError, match="process 0 ended with exit code 3"):
        run_processes(die_on_zero, 2)


def test_late_processes_are_named() -> None:
    with Processes(2) as processes:
        processes.run(total, 1.0)  # both have started
        processes.timeout = 3.0
        with pytest.raises(TimeoutError, match=r"processes \[1\] of 2"):
            processes.run(sleep_on_one)
