"""Joining the processes of a run: bounded waiting where nobody else watches, torch's limits once they are together."""

from __future__ import annotations

import os
from datetime import timedelta

from embedkit.system.processes import join
from eval.benchmarks.kill import free_port
from tests.helpers.gloo import Processes


def limits(port: int) -> tuple[int, timedelta, timedelta]:
    """Join in this process: how many there are, the group's time limit, and torch's usual one."""
    import torch
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    os.environ["MASTER_PORT"] = str(port)
    state = join(cpu=True)
    group = c10d._get_default_group()._get_backend(torch.device("cpu"))
    found = state.num_processes, group.options._timeout, c10d.default_pg_timeout
    dist.destroy_process_group()
    return found


def test_a_formed_group_has_the_usual_limits() -> None:
    with Processes(2, group=False) as processes:
        for found in processes.run(limits, free_port()):
            assert found[0] == 2
            assert found[1] == found[2]
