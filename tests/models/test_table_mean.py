"""Means of rows of a table: equal to torch's, forward and backward, whatever becomes of the gradients in between."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from embedkit.models.execution.table_mean import KeptGradient, table_mean


def batch(seed: int, rows: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, offsets and a gradient of texts of 0 to 6 tokens."""
    draws = np.random.default_rng(seed)
    lengths = draws.integers(0, 7, 9)
    ids = torch.from_numpy(draws.integers(0, rows, int(lengths.sum())))
    return ids, torch.from_numpy(np.cumsum(lengths) - lengths), torch.from_numpy(draws.normal(size=(9, 4)))


def plain(ids: Tensor, offsets: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Means and gradient by loops."""
    ends = [*offsets.tolist()[1:], len(ids)]
    means, back = torch.zeros(len(offsets), weight.shape[1], dtype=weight.dtype), torch.zeros_like(weight)
    for text, (start, end) in enumerate(zip(offsets.tolist(), ends, strict=True)):
        for row in ids[start:end].tolist():
            means[text] += weight[row].detach() / (end - start)
            back[row] += gradient[text] / (end - start)
    return means, back


def table() -> Tensor:
    return torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()


def back(kept: KeptGradient, weight: Tensor, seed: int) -> Tensor:
    """The expected gradient of a batch, whose own has gone to `weight`."""
    ids, offsets, gradient = batch(seed)
    means = table_mean(ids, offsets, weight, kept)
    means.backward(gradient)
    expected, of_weight = plain(ids, offsets, weight, gradient)
    torch.testing.assert_close(means.detach(), expected)
    return of_weight


def test_it_equals_loops_step_after_step() -> None:
    weight, kept = table(), KeptGradient()
    memory = set()
    for seed in range(6):
        expected = back(kept, weight, seed)
        torch.testing.assert_close(weight.grad, expected)
        memory.add(weight.grad.data_ptr())
        weight.grad = None
    assert len(memory) == 1, "one table of zeros for all steps"


@pytest.mark.parametrize("change", [lambda g: g.mul_(0.5), lambda g: g.add_(1.0), lambda g: g.fill_(torch.nan)])
def test_a_gradient_that_was_changed_in_place_leaves_nothing_behind(change: object) -> None:
    weight, kept = table(), KeptGradient()
    back(kept, weight, 0)
    change(weight.grad)
    weight.grad = None
    expected = back(kept, weight, 1)
    torch.testing.assert_close(weight.grad, expected)


def test_a_gradient_that_someone_holds_stays_as_it_is() -> None:
    weight, kept = table(), KeptGradient()
    first = back(kept, weight, 0)
    held, part = weight.grad, weight.grad[2:5]
    weight.grad = None
    second = back(kept, weight, 1)
    torch.testing.assert_close(held, first)
    torch.testing.assert_close(weight.grad, second)
    del held
    weight.grad = None
    back(kept, weight, 2)
    torch.testing.assert_close(part, first[2:5])


def test_gradients_of_chunks_add_up() -> None:
    weight, kept = table(), KeptGradient()
    total = sum(back(kept, weight, seed) for seed in range(4))
    torch.testing.assert_close(weight.grad, total)


def test_two_means_in_one_graph() -> None:
    weight, kept = table(), KeptGradient()
    (one, first, g), (two, second, h) = batch(0), batch(1)
    sums = (table_mean(one, first, weight, kept) * g).sum() + (table_mean(two, second, weight, kept) * h).sum()
    sums.backward()
    torch.testing.assert_close(weight.grad, plain(one, first, weight, g)[1] + plain(two, second, weight, h)[1])


def test_texts_without_tokens_and_a_copy() -> None:
    weight, kept = table(), KeptGradient()
    nothing = torch.zeros(0, dtype=torch.int64)
    means = table_mean(nothing, torch.zeros(3, dtype=torch.int64), weight, kept)
    means.sum().backward()
    assert not means.any() and not weight.grad.any()
    assert copy.deepcopy(kept)._table is None


def test_it_is_torchs_mean_in_single_precision() -> None:
    weight = table().detach().float().requires_grad_()
    ids, offsets, gradient = batch(5)
    found = torch.autograd.grad(table_mean(ids, offsets, weight, KeptGradient()), weight, gradient.float())[0]
    expected = torch.autograd.grad(F.embedding_bag(ids, weight, offsets, mode="mean"), weight, gradient.float())[0]
    torch.testing.assert_close(found, expected)
