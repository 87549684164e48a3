"""Functions of patch tokens against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from embedkit.errors import RecipeError
from embedkit.objectives.losses.patches import kernel_misalignment, local_vicreg, nearest_matches, vicregl
from tests.objectives.oracles.plain import mean


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_matches_are_the_nearest_pairs_of_each_image() -> None:
    tokens, others = normal(2, 5, 3), normal(2, 4, 3, seed=1)
    mine, theirs = nearest_matches(tokens, others, torch.cdist(tokens, others), 3)
    for b in range(2):
        pairs = []
        for i in range(5):
            gaps = [float((tokens[b, i] - others[b, j]).norm()) for j in range(4)]
            pairs.append((min(gaps), i, int(np.argmin(gaps))))
        for place, (_, i, j) in enumerate(sorted(pairs)[:3]):
            assert torch.equal(mine[b, place], tokens[b, i])
            assert torch.equal(theirs[b, place], others[b, j])
    with pytest.raises(RecipeError, match="count is 6; it must be from 1 to the 5 tokens"):
        nearest_matches(tokens, others, torch.cdist(tokens, others), 6)


def test_local_vicreg_is_the_mean_over_places() -> None:
    a, b = normal(6, 2, 3), normal(6, 2, 3, seed=1)
    total = 0.0
    for place in range(2):
        total += 25 * float(((a - b)[:, place] ** 2).mean())
        for z in (a[:, place].numpy(), b[:, place].numpy()):
            matrix = np.cov(z.T)
            total += 25 * mean(max(0.0, 1 - math.sqrt(v + 1e-4)) for v in np.diag(matrix)) / 2
            total += ((matrix**2).sum() - (np.diag(matrix) ** 2).sum()) / 3 / 2
    assert float(local_vicreg(a, b)) == pytest.approx(total / 2, rel=1e-12)


def test_vicregl_gradient() -> None:
    places = normal(4, 3, 2, seed=2), normal(4, 5, 2, seed=3)
    inputs = [normal(4, 3, 2).requires_grad_(), normal(4, 5, 2, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: vicregl(a, b, *places, (2, 2)), inputs)


def test_kernel_misalignment_is_one_less_the_correlation_of_centred_kernels() -> None:
    student, teacher = normal(2, 4, 3).requires_grad_(), normal(2, 4, 5, seed=1)
    valid = torch.tensor([[True, True, False, True], [True, False, False, False]])
    middle = np.eye(3) - 1 / 3
    s, t = (z[0, valid[0]].detach().numpy() for z in (student, teacher))
    s, t = middle @ s @ s.T @ middle, middle @ t @ t.T @ middle
    expected = 1 - float((s * t).sum() / math.sqrt((s**2).sum() * (t**2).sum()))
    found = kernel_misalignment(student, teacher, valid)
    assert found.tolist() == pytest.approx([expected, 0.0], rel=1e-12)
    assert torch.autograd.gradcheck(lambda z: kernel_misalignment(z, teacher, valid)[0], student)
    (gradient,) = torch.autograd.grad(
        kernel_misalignment(torch.ones_like(student) * student[:1, :1], teacher).sum(), student
    )
    assert bool(torch.isfinite(gradient).all())
