"""Freed memory of a process is kept for the next tensors, and a step that finds none is told in a line."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.errors import MemoryFullError
from embedkit.training.loop.step import TrainStep
from tests.training import runs

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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation for ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
    ],
    ids=["GPU", "CPU"],
)
def test_a_step_that_does_not_fit_is_told_in_a_line_with_settings_that_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(self: TrainStep, batch: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "gradients", full)
        with pytest.raises(MemoryFullError, match=r"does not fit .*; set train\.chunk_tokens: 16384") as caught:
            runs.run(tmp_path / "run")
    assert "\n" not in caught.value.line()
    assert runs.run(tmp_path / "run", None, "train.chunk_tokens=16384").steps == 4  # the remedy is a setting
