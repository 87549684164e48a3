"""Joining the processes of a run, with an end to the waiting where no launcher watches over them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from embedkit.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

JOIN_SECONDS = 45.0
"""How long a process that no launcher watches waits for the others."""


def join(cpu: bool = False) -> PartialState:
    """The place of this process among those of the run: accelerate's state, its process group formed.

    ``torchrun`` and (on GPUs) ``accelerate launch`` end all processes when one has died. Processes that were started
    otherwise (MPI, Slurm, by hand) would wait half an hour for one that died before it was there: here they wait
    `JOIN_SECONDS`. Once the group is formed, its operations have torch's usual time limits.

    Parameters
    ----------
    cpu : bool
        Use the CPU even where there is an accelerator.

    Raises
    ------
    UserError
        Another process did not come in time.

    Examples
    --------
    >>> state = join()
    >>> state.process_index, state.num_processes
    (0, 1)
    """
    import torch
    import torch.distributed as dist
    from accelerate import PartialState
    from accelerate.utils import get_cpu_distributed_information

    # accelerate forms a group on CPUs only where it is told that there is nothing else
    cpu = cpu or not torch.accelerator.is_available()
    place = get_cpu_distributed_information()
    if place.world_size == 1 or dist.is_initialized() or dist.is_torchelastic_launched():
        return PartialState(cpu=cpu)
    try:
        state = PartialState(cpu=cpu, timeout=timedelta(seconds=JOIN_SECONDS))
    except (RuntimeError, ValueError) as error:  # torch's errors of stores and of gloo's connections
        raise UserError(
            f"waited for the others, which did not all come within {JOIN_SECONDS:g} s "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]})",
            where=f"process {place.rank} of {place.world_size}",
            remedy="look at their output; where they only start slowly, use torchrun, which waits longer",
        ) from error
    if dist.is_initialized():
        _usual_limit(state.backend)
    return state


def _usual_limit(backend: str | None) -> None:
    """Operations of the formed group get the time limit that torch gives them by default."""
    from torch.distributed import distributed_c10d as c10d

    usual = c10d.default_pg_nccl_timeout if "nccl" in (backend or "") else None
    change = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # the latter before torch 2.13
    change(usual or c10d.default_pg_timeout)
