"""Joining the processes of a run, with an end to the waiting where no launcher watches over them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from embedkit.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

JOIN_SECONDS = 45.0
"""How long a process that was started by hand waits for the others; ``EMBEDKIT_JOIN_SECONDS`` wins."""


def join(cpu: bool = False) -> PartialState:
    """This process's place among those of the run: accelerate's state, its process group formed.

    ``accelerate launch`` and ``torchrun`` end all processes when one has died. Processes that were started otherwise
    (MPI, Slurm, by hand) would wait half an hour for one that died before it was there: here they wait `JOIN_SECONDS`.
    Once the group is formed, its operations have torch's usual time limits.

    Parameters
    ----------
    cpu : bool
        Use the CPU even where there is an accelerator.

    Raises
    ------
    UserError
        Another process did not come in time.
    """
    import torch.distributed as dist
    from accelerate import PartialState

    launched = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if launched or dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return PartialState(cpu=cpu)
    seconds = _limit()
    try:
        state = PartialState(cpu=cpu, timeout=timedelta(seconds=seconds))
    except (RuntimeError, ValueError) as error:  # torch's errors of stores and of gloo's connections
        rank, size = os.environ.get("RANK", "?"), os.environ["WORLD_SIZE"]
        raise UserError(
            f"process {rank} of {size} waited for the others, which did not all come within {seconds:g} s "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]})",
            where=f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}",
            remedy="look at what the other processes said; where they only start slowly, set EMBEDKIT_JOIN_SECONDS",
        ) from error
    if dist.is_initialized():
        _usual_limit(state.backend)
    return state


def _limit() -> float:
    text = os.environ.get("EMBEDKIT_JOIN_SECONDS", "")
    try:
        seconds = float(text) if text else JOIN_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"EMBEDKIT_JOIN_SECONDS is {text!r}, no number of seconds", remedy="unset it, or give one")
    return seconds


def _usual_limit(backend: str | None) -> None:
    """Operations of the formed group get the time limit that torch gives them by default."""
    from torch.distributed import distributed_c10d as c10d

    usual = c10d.default_pg_nccl_timeout if "nccl" in (backend or "") else None
    change = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # the latter before torch 2.13
    change(usual or c10d.default_pg_timeout)
