"""Functions of patch tokens against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from embedkit.errors import RecipeError
from embedkit.methods.patches.heads import assignment_loss
from embedkit.objectives.losses.patches import kernel_misalignment, local_vicreg, nearest_matches, vicregl
from embedkit.objectives.losses.prototypes.distillation import patch_distillation
from tests.objectives.oracles.plain import lse, mean
from tests.objectives.oracles.plain import softmax as soft


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_patch_distillation_weighs_images_alike() -> None:
    """Two patches of one image, one of another, none of a third; and its gradient."""
    student, teacher, centre = normal(3, 4), normal(3, 4, seed=1), normal(4, seed=2)
    rows = []
    for s, t in zip(student.numpy() / 0.1, (teacher - centre).numpy() / 0.07, strict=True):
        rows.append(-sum(p * (x - lse(list(s))) for p, x in zip(soft(list(t)), s, strict=True)))
    expected = (mean(rows[:2]) + rows[2]) / 3
    image = torch.tensor([7, 7, 2])
    assert float(patch_distillation(student, teacher, centre, image, 3)) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda z: patch_distillation(z, teacher, centre, image, 3), student.requires_grad_()
    )
    assert patch_distillation(student[:0], teacher[:0], centre, image[:0], 3).item() == 0.0


def test_patch_distillation_is_the_loss_of_the_method_ibot() -> None:
    """Listed patches here, a mask over all patches there."""
    student, teacher, centre = normal(3, 4, 5), normal(3, 4, 5, seed=1), normal(5, seed=2)
    hidden = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    listed = patch_distillation(student[hidden], teacher[hidden], centre, hidden.nonzero()[:, 0], 3)
    log_q, p = (student / 0.1).log_softmax(dim=2), ((teacher - centre) / 0.07).softmax(dim=2)
    torch.testing.assert_close(listed, assignment_loss(log_q, p, hidden).sum() / 3, rtol=1e-12, atol=0)


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
