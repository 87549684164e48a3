"""Which arithmetic a run uses, and what is said about it."""

from __future__ import annotations

import pytest
import torch

from embedkit.training.optim import precision


def test_a_cpu_that_multiplies_bf16_faster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    large, cpu = torch.nn.Linear(1_000, 1_000), torch.device("cpu")
    seconds = {torch.float32: 3.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_product_seconds", seconds.__getitem__)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    (line,) = precision.bf16_hint("fp32", cpu, large)
    assert "3.0 x" in line and "train.precision=bf16" in line
    assert not [*precision.bf16_hint("bf16", cpu, large)]
    assert not [*precision.bf16_hint("fp32", torch.device("cuda"), large)]
    assert not [*precision.bf16_hint("fp32", cpu, torch.nn.Linear(100, 100))]
    seconds[torch.bfloat16] = 2.9
    assert not [*precision.bf16_hint("fp32", cpu, large)]
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert not [*precision.bf16_hint("fp32", cpu, large)]
