"""Every method: packed like padded, chunks like the whole, two processes like one, a resumed run like a whole one."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.training.loop.cache import Chunking
from tests.methods.matrix import gradients
from tests.training import runs
from tests.training.test_stored_losses import CASES, recipe

TEXT_CASES = [case for case in CASES if CASES[case]["model"].get("kind", "text") == "text"]
PACKED_ONLY = {"micse"}  # reads recorded attention, which padded runs do not give
BOUND = 1e-8


@lru_cache(maxsize=1)
def whole(case: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The reference: one process, no chunks."""
    return gradients(recipe(case))


def same(found: tuple[float, Any], wanted: tuple[float, Any]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-9)
    assert found[1].keys() == wanted[1].keys()
    largest = max(float(g.norm()) for g in wanted[1].values())
    assert largest > 1e-6  # there is a gradient to compare
    for name, g in wanted[1].items():  # some are zero by construction, and in numbers only nearly so
        assert float((found[1][name] - g).norm()) < BOUND * (float(g.norm()) + 1e-3 * largest), name


@pytest.mark.parametrize("case", CASES)
def test_chunks_and_processes_and_padding_change_nothing(processes: Any, case: str) -> None:
    wanted = whole(case)
    same(gradients(recipe(case), Chunking(size=3, keep=1)), wanted)
    if case in TEXT_CASES and case.partition("+")[0] not in PACKED_ONLY:
        same(gradients(recipe(case), packing="padded"), wanted)
    results = processes(2).run(gradients, recipe(case), Chunking(size=5, keep=0))
    for _, found in results:
        same((sum(share for share, _ in results), found), wanted)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_bit_for_bit_like_a_whole_one(tmp_path: Path, case: str) -> None:
    given = recipe(case)
    given["train"] |= {"max_steps": 4, "save_every": 2, "chunk_size": 5, "keep_checkpoints": 4}
    runs.run(tmp_path / "whole", given)
    stop = shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(stop / "checkpoints" / "step-00000004")
    runs.run(stop, given, resume=True)
    for file in ("weights", "optimiser", "random"):
        found, wanted = (runs.checkpoint(tmp_path / name, 4, file) for name in ("parts", "whole"))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items()), file


@pytest.mark.parametrize("case", ["promcse", "promptbert-unsup", "consert", "diffcse", "micse"])
def test_layers_computed_again_change_nothing(case: str) -> None:
    given = recipe(case)
    given["train"]["gradient_checkpointing"] = True
    same(gradients(given, Chunking(size=4, keep=1)), whole(case))
