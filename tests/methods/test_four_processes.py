"""Gradients of image-text methods by four processes: those of one, whatever is gathered, exchanged or drawn."""

from __future__ import annotations

from typing import Any

import pytest

from embedkit.training.loop.cache import Chunking
from tests.methods.matrix import gradients
from tests.methods.test_matrix import same
from tests.methods.test_patch_terms import case


@pytest.mark.parametrize("name", ["clip", "siglip", "slip", "soft-mask", "coca", "patch-grouping"])
def test_four_processes_are_one(processes: Any, name: str) -> None:
    """Batches of 14 rows: two processes have four of them, the others three."""
    given = case(name)
    given["train"]["batch_size"] = 14
    wanted = gradients(given)
    results = processes(4).run(gradients, given, Chunking(size=2, keep=1))
    loss = sum(share for share, _ in results)
    for _, found in results:
        same((loss, found), wanted)
