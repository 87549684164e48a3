"""Freed memory of a process is kept for the next tensors."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from embedkit.training.parallel.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(12):
    torch.ones(16_000_000)  # an aligned block needs a little more than what it leaves: the first ones do not fit
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(16_000_000)  # 64 MB, 15,625 pages of 4 KiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    """Pages that the system had to bring for five large tensors, one after the other."""
    done = subprocess.run([sys.executable, "-c", COUNT, setting], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives large blocks back at once")
def test_large_tensors_reuse_memory() -> None:
    assert 2 * faults("kept") < faults("given back")
