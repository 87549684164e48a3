"""Memory of a training process: kept on a CPU, and the line for a step that finds none."""

from __future__ import annotations

import ctypes

import torch

from embedkit.errors import MemoryFullError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
_NEVER = 2**31 - 1


def memory_error(error: RuntimeError, where: str) -> MemoryFullError | None:
    """The line for an allocation that failed, on a GPU or a CPU; None for any other error.

    >>> memory_error(RuntimeError("a shape is wrong"), "runs/pairs") is None
    True
    """
    full = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if not full:
        return None
    return MemoryFullError(
        "a step does not fit into the memory of the device", where=where,
        remedy="set train.chunk_tokens: 16384 (gradient cache, the same gradients) or a smaller one, or lower "
        "model.max_length or train.batch_size, and add --resume if there is a checkpoint",
    )  # fmt: skip


def keep_freed_memory() -> bool:
    """Whether this process now keeps the memory of freed tensors for the next ones: the C library allows it.

    glibc gives every block of more than 32 MiB back to the system as soon as it is freed, and the next one is a new
    block whose pages the system must clear one by one. The gradient of a table of word vectors is such a block at
    every step. Kept, the memory of the process stays at its peak, which training reaches at its first step anyway.

    Examples
    --------
    >>> isinstance(keep_freed_memory(), bool)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
