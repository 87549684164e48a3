"""Objectives of lightly 1.6 that have no likeness in other libraries, within 1e-9 relative, loss and gradient, fp64.

Where it differs from the paper the test says how.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedkit.methods.patches.heads import assignment_loss
from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.losses.patches import kernel_misalignment, vicregl
from tests.objectives import test_peers as peers
from tests.objectives.test_peers import Vectors, draw, unit

check = peers.check
THREE = ("anchor", "positive", "view3")


@pytest.fixture(scope="module")
def lightly() -> Any:
    """Its losses."""
    return pytest.importorskip("lightly.loss", reason="needs lightly (development extra)")


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as fp64 allows."""
    monkeypatch.setattr(peers, "LIMIT", 1e-9)


def stacked(v: Vectors) -> Tensor:
    """Unit views (V, B, D)."""
    return torch.stack([unit(v[name]) for name in THREE])


def test_emp_ssl(lightly: Any) -> None:
    """It adds the coding rate that the paper and the authors' code subtract, and so makes vectors collapse: the sign
    is turned here. Vectors have length one in both, there because the model gives such."""
    from lightly.loss import emp_ssl_loss as parts

    def expected(v: Vectors) -> Tensor:
        return 200 * parts.invariance_loss(stacked(v)) - parts.tcr_loss(stacked(v), eps=0.2)

    check({"name": "emp-ssl"}, draw(count=3), expected)
    theirs, rate = lightly.EMPSSLLoss()(list(stacked(draw(count=3)))), parts.tcr_loss(stacked(draw(count=3)), 0.2)
    torch.testing.assert_close(theirs - 2 * rate, expected(draw(count=3)))


@pytest.mark.parametrize("rows", [4, 9])
def test_frossl(lightly: Any, rows: int) -> None:
    """Same weight, more rows than columns and fewer."""
    peer = lightly.FroSSLLoss(invariance_weight=0.7)
    check({"name": "frossl", "invariance": 0.7}, draw(rows, count=3), lambda v: peer([v[name] for name in THREE]))


def test_mmcr(lightly: Any) -> None:
    """It takes unit vectors, and always those of a running mean beside."""
    peer, vectors = lightly.MMCRLoss(lmda=0.1), draw()
    slow = {name: z.flip(1) for name, z in vectors.items()}

    def rows(v: Vectors) -> Tensor:
        return torch.stack([unit(v["anchor"]), unit(v["positive"])], dim=1)

    config = {"name": "mmcr", "local": 0.1, "with_guide": True}
    check(config, vectors, lambda v: peer(rows(v), rows(slow)), guide=slow)


def test_tico_over_two_steps(lightly: Any) -> None:
    """Same beta and rho. Its covariance is no buffer: a run that is resumed starts from zero again; ours is saved."""
    peer, first = lightly.TiCoLoss(beta=0.8, rho=3.0), draw()
    peer(first["anchor"].flip(0), first["positive"])
    assert not peer.state_dict()

    def prepare(objective: nn.Module) -> None:
        rows = {"anchor": first["anchor"].flip(0), "positive": first["positive"]}
        objective.after_step(rows, ObjectiveBatch.of(rows))

    config = {"name": "tico", "keep": 0.8, "contrast": 3.0}
    check(config, draw(), lambda v: peer(v["anchor"], v["positive"]), prepare=prepare)


def test_koleo(lightly: Any) -> None:
    """It adds its epsilon to each difference too: equal to about 1e-8."""
    peers.LIMIT = 1e-7
    check({"name": "koleo"}, draw(count=1), lambda v: lightly.KoLeoLoss()(v["anchor"]))


def directions(count: int, vectors: Vectors) -> Tensor:
    """What stands for its random directions: those that ours draws."""
    draw = ObjectiveBatch.of(vectors).generator("directions")
    wide = torch.randn(6, count, generator=draw, dtype=torch.float64)
    return wide / wide.norm(dim=0)


@pytest.mark.parametrize("views", [1, 3])
def test_sigreg(lightly: Any, views: int) -> None:
    """Same knots, range and directions; its knots are in single precision, which bounds the agreement."""
    peers.LIMIT = 1e-6
    vectors = draw(count=views)
    peer = lightly.LeJEPALoss(sigreg_num_vectors=8).sigreg
    peer._generate_unit_vectors = lambda *ignored: directions(8, vectors)
    check({"name": "sigreg", "directions": 8}, vectors, lambda v: peer(torch.stack(list(v.values()))))


def test_lejepa(lightly: Any) -> None:
    """Global views are the first two."""
    peers.LIMIT = 1e-6
    vectors = draw(count=3)
    peer = lightly.LeJEPALoss(lambda_param=0.3, sigreg_num_vectors=8)
    peer.sigreg._generate_unit_vectors = lambda *ignored: directions(8, vectors)

    def loss(v: Vectors) -> Tensor:
        both = torch.stack([v["anchor"], v["positive"]])
        return peer(local_proj=v["view3"][None], global_proj=both)

    check({"name": "lejepa", "directions": 8, "weight": 0.3}, vectors, loss)


def logits(count: int = 3) -> Vectors:
    """Students' logits of some views, and a teacher's of the first two."""
    return draw(count=count)


def teachers(vectors: Vectors) -> Vectors:
    """A teacher's logits of the first two views."""
    return {name: vectors[name].flip(0) + 0.2 for name in ("anchor", "positive")}


def test_dino_over_two_steps(lightly: Any) -> None:
    """Same temperatures and centre; pairs of equal views are left out in both."""
    peer = lightly.DINOLoss(6, teacher_temp=0.07, student_temp=0.2, center_momentum=0.8).double()
    vectors = logits()
    slow = teachers(vectors)
    earlier = {name: z.flip(1) for name, z in slow.items()}
    peer(list(earlier.values()), list(vectors.values()))

    def prepare(objective: nn.Module) -> None:
        objective.after_step(vectors, ObjectiveBatch.of(vectors, guide=earlier))

    config = {"name": "dino", "teacher_temperature": 0.07, "student_temperature": 0.2, "centre_momentum": 0.8}
    check(config, vectors, lambda v: peer(list(slow.values()), list(v.values())), prepare=prepare, guide=slow)


def test_dino_warms_the_teacher_up_by_epochs(lightly: Any) -> None:
    """Equal steps from the first epoch to the last of the warm-up; its schedule is in single precision."""
    peer = lightly.DINOLoss(6, warmup_teacher_temp=0.03, teacher_temp=0.07, warmup_teacher_temp_epochs=5)
    objective = build({"name": "dino", "warm_temperature": 0.03, "teacher_temperature": 0.07, "warm_epochs": 5})
    assert [objective.temperature(e) for e in range(5)] == pytest.approx(peer.teacher_temp_schedule.tolist(), rel=1e-6)
    assert objective.temperature(5) == 0.07


def test_ibot_patches(lightly: Any) -> None:
    """Patches of an image share its weight; shares of two processes add up."""
    draw_of = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(3, 8, 5, dtype=torch.float64, generator=draw_of) for _ in range(2))
    mask = torch.rand(3, 2, 4, generator=draw_of) > 0.4
    hidden = mask.flatten(1)
    student.requires_grad_()
    peer = lightly.IBOTPatchLoss(5, teacher_temp=0.05, student_temp=0.2).double()
    peer.center.center += 0.3
    expected = peer(teacher[hidden], student[hidden], mask)
    log_q, p = (student / 0.2).log_softmax(dim=2), ((teacher - 0.3) / 0.05).softmax(dim=2)
    shares = [assignment_loss(log_q[part], p[part], hidden[part]).sum() / 3 for part in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(shares), expected, rtol=1e-6, atol=0)  # its centre was made in single precision
    (ours,) = torch.autograd.grad(sum(shares), student, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def msn_case(name: str, peer: Any, factor: Any, **settings: Any) -> None:
    """One teacher's view, two students' views of each row."""
    vectors, bank = draw(count=3), []
    slow = {"anchor": vectors["anchor"].flip(0)}

    def loss(v: Vectors) -> Tensor:
        return factor(peer, torch.cat([v["positive"], v["view3"]]), slow["anchor"], bank[0])

    config = {"name": name, "prototypes": 4, **settings}
    check(config, vectors, loss, prepare=lambda objective: bank.append(objective.prototypes.detach().clone()),
          guide=slow)  # fmt: skip


def test_msn(lightly: Any) -> None:
    """Same constants."""
    msn_case("msn", lightly.MSNLoss(temperature=0.2, sinkhorn_iterations=2, regularization_weight=0.7),
             lambda peer, a, t, c: peer(a, t, c, target_sharpen_temperature=0.5), temperature=0.2, sharpening=0.5,
             iterations=2, regularisation=0.7)  # fmt: skip


def test_pmsn(lightly: Any) -> None:
    """It has the divergence of the prior from the mean assignment, which is not MSN's entropy where the prior is even;
    its own page names the other one, which is ours. Without that term both are the same."""
    peer = lightly.PMSNLoss(regularization_weight=0)
    msn_case("pmsn", peer, lambda peer, a, t, c: peer(a, t, c, target_sharpen_temperature=0.25), regularisation=0.0)
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    even = lightly.PMSNLoss(power_law_exponent=0.0).regularization_loss(q)
    entropy = lightly.MSNLoss().regularization_loss(q)
    assert float(entropy) == pytest.approx(float((q * (3 * q).log()).sum()))
    assert float(even) == pytest.approx(float(-(3 * q).log().mean()))
    assert abs(float(even) - float(entropy)) > 1e-3


@pytest.mark.parametrize("size", [0, 12])
def test_co2(lightly: Any, size: int) -> None:
    """It counts the row's own pair in both distributions, where the paper has the negatives alone: our ``pair: true``.

    Its result carries no gradient, as it is made a new tensor at the end: the gradient here is that of its formula.
    """
    from lightly.loss.regularizer import CO2Regularizer

    peer = CO2Regularizer(alpha=1.0, t_consistency=0.2, memory_bank_size=(size, 6) if size else 0).double()
    torch.manual_seed(5)
    keys = unit(torch.randn(12, 6, dtype=torch.float64))
    if size:
        peer.memory_bank.bank, peer.memory_bank.bank_ptr = keys.clone(), torch.zeros(1, dtype=torch.long)

    def formula(v: Vectors) -> Tensor:
        a, p = unit(v["anchor"]), unit(v["positive"])
        bank = keys.T if size else None
        q, k = peer._get_pseudo_labels(a, p, bank), peer._get_pseudo_labels(p, a, bank)
        return ((q.exp() - k.exp()) * (q - k)).sum() / (2 * len(a))

    def prepare(objective: nn.Module) -> None:
        if size:
            rows = {"anchor": keys, "positive": keys}
            objective.after_step(rows, ObjectiveBatch.of(rows))

    config = {"name": "co2", "temperature": 0.2, "pair": True, "size": size}
    check(config, draw(), formula, prepare=prepare)
    vectors = {name: z.requires_grad_() for name, z in draw().items()}
    with pytest.warns(UserWarning, match="copy construct"):
        theirs = peer(vectors["anchor"], vectors["positive"])
    assert not theirs.requires_grad
    torch.testing.assert_close(theirs, formula(vectors).detach(), rtol=1e-9, atol=0)


def patches(size: int = 5, count: int = 6, dim: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and places of two views."""
    torch.manual_seed(6)
    tokens = [torch.randn(size, n, dim, dtype=torch.float64, requires_grad=True) for n in (count, count - 2)]
    return *tokens, *(torch.rand(size, n, 2, dtype=torch.float64) for n in (count, count - 2))


def test_vicregl_local(lightly: Any) -> None:
    """Its two local terms of one pair of views; matches are in the order of their distance in both."""
    a, b, where_a, where_b = patches()
    peer = lightly.VICRegLLoss(num_matches=(4, 2), lambda_param=3.0, mu_param=2.0, nu_param=0.5)
    grids = [z.unflatten(1, (2, -1)) for z in (a, b, where_a, where_b)]
    expected = peer._local_l2_loss(*grids[:2]) + peer._local_location_loss(*grids)
    ours = vicregl(a, b, where_a, where_b, (4, 2), invariance=3.0, variance=2.0, covariance=0.5)
    torch.testing.assert_close(ours, expected.squeeze(), rtol=1e-9, atol=0)
    for mine, theirs in zip(*(torch.autograd.grad(x.sum(), [a, b]) for x in (ours, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_patch_kernel_alignment(lightly: Any) -> None:
    """It computes in single precision; images with fewer than two patches are left out of its mean, zero in ours."""
    torch.manual_seed(7)
    student = torch.randn(4, 6, 3, requires_grad=True)
    teacher, hidden = torch.randn(4, 6, 3), torch.rand(4, 6) > 0.6
    hidden[2] = torch.arange(6) > 0  # one patch is left
    expected = lightly.PatchKernelAlignmentLoss()(student, teacher, hidden)
    ours = kernel_misalignment(student, teacher, ~hidden).sum() / 3
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(*(torch.autograd.grad(x, [student]) for x in (ours, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
