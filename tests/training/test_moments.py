"""Adam's means in bf16 and 8 bits: quantisation against a search, quality against float32, and exact resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.config.recipe import TrainConfig
from embedkit.errors import CheckpointError
from embedkit.training import train
from embedkit.training.monitor.log import Progress
from embedkit.training.optim.moments import BLOCK, Codebook, moment_bytes, random_halves, to_bf16
from embedkit.training.optim.optimizer import Optimiser, assign_groups
from tests.training import runs, test_resume

CPU = torch.device("cpu")


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_one_of_the_two_around_a_number(signed: bool) -> None:
    book = Codebook(signed)
    torch.manual_seed(0)
    values = torch.randn(5 * BLOCK + 37) * 10.0 ** torch.randint(-6, 1, (5 * BLOCK + 37,))
    values = values if signed else values.abs()
    codes, largest = book.encode(values, random_halves(3, 0, len(values), CPU))
    table = book.values.double().numpy()
    for place in range(len(values)):
        block = values[place // BLOCK * BLOCK : (place // BLOCK + 1) * BLOCK].abs().max()
        assert float(largest[place // BLOCK]) == float(block)
        x = float(values[place]) / float(block)
        low = int(np.clip(np.searchsorted(table, x, side="right") - 1, 0, 254))
        assert int(codes[place]) in (low - 1, low, low + 1)  # the lower neighbour may be one off by bf16's grain
    assert torch.equal(book.decode(codes, largest)[BLOCK:], book.decode(codes[BLOCK:], largest[1:]))


@pytest.mark.parametrize("value", [1.003, 0.0001234, 3.3e-7])
def test_rounding_keeps_the_expectation(value: float) -> None:
    random = random_halves(9, 0, 200_000, CPU)
    assert abs(float(to_bf16(torch.full((200_000,), value), random).double().mean()) / value - 1) < 1e-4
    book = Codebook(signed=True)
    block = torch.full((BLOCK * 400,), value)
    block[::BLOCK] = 1.1  # the largest of its block
    decoded = book.decode(*book.encode(block, random_halves(4, 0, len(block), CPU)))
    assert abs(float(decoded.view(-1, BLOCK)[:, 1:].double().mean()) / value - 1) < 0.02


def test_a_positive_second_mean_never_becomes_zero() -> None:
    book = Codebook(signed=False)
    values = torch.full((BLOCK,), 1e-12)
    values[0] = 1.0
    assert bool((book.decode(*book.encode(values, torch.full((BLOCK,), 65535, dtype=torch.int32))) > 0).all())


def solved(kind: str, steps: int = 300) -> float:
    """Loss of a regression by one hidden layer after so many steps."""
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    y = torch.sin(x @ torch.randn(64, 8))
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 8))
    config = TrainConfig(epochs=1, lr=3e-3, moments=kind, weight_decay=0.01)
    optimiser = Optimiser(net, assign_groups(net, config), config)
    for _ in range(steps):
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimiser.step(1.0)
    return float(loss.detach())


def test_a_small_problem_is_solved_as_well() -> None:
    exact = solved("fp32")
    for kind in ("bf16", "int8"):
        assert solved(kind) == pytest.approx(exact, rel=0.15), kind


def test_one_step_is_that_of_adamw() -> None:
    """The first update does not depend on what is kept: it is torch's own."""
    results = {}
    for kind in ("fp32", "bf16", "int8"):
        torch.manual_seed(1)
        net = torch.nn.Linear(100, 80)
        config = TrainConfig(epochs=1, lr=1e-2, moments=kind, weight_decay=0.1)
        optimiser = Optimiser(net, assign_groups(net, config), config)
        net(torch.randn(4, 100)).square().sum().backward()
        optimiser.step(0.5)
        results[kind] = net.weight.detach()
    for kind in ("bf16", "int8"):
        torch.testing.assert_close(results[kind], results["fp32"], rtol=1e-6, atol=1e-7)


def test_memory_is_what_is_said() -> None:
    net = torch.nn.Linear(100, 80)
    for kind in ("fp32", "bf16", "int8"):
        config = TrainConfig(epochs=1, moments=kind)
        optimiser = Optimiser(net, assign_groups(net, config), config)
        held = [v for state in optimiser.adamw.state.values() for n, v in state.items() if n != "step"]
        assert sum(v.numel() * v.element_size() for v in held) == moment_bytes(net.parameters(), kind)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_a_resumed_run_ends_bit_for_bit(tmp_path: Path, kind: str) -> None:
    test_resume.write_data(tmp_path)
    given = test_resume.recipe(tmp_path, "shuffled", "full")
    given["train"]["moments"] = kind
    train(given, output=tmp_path / "whole", progress=Progress())
    test_resume.killed_at(3, given, tmp_path / "parts")
    train(given, output=tmp_path / "parts", resume=True, progress=Progress())
    assert test_resume.final_state(tmp_path / "whole") == test_resume.final_state(tmp_path / "parts")
    held = runs.checkpoint(tmp_path / "whole", test_resume.TOTAL, "optimiser")
    assert {"bf16": torch.bfloat16, "int8": torch.uint8}[kind] in {value.dtype for value in held.values()}
    given["train"]["moments"] = "fp32"
    with pytest.raises(CheckpointError, match=f"train.moments was {kind}, is fp32"):
        train(given, output=tmp_path / "parts", resume=True, progress=Progress())
