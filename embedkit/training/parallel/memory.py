"""Memory of a training process on a CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones; whether the C library could be told so.

    glibc gives every block of more than 32 MiB back to the system as soon as it is freed, and the next one is a new
    block whose pages the system must clear one by one. The gradient of a table of word vectors is such a block at
    every step. Kept, the memory of the process stays at its peak, which training reaches at its first step anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
