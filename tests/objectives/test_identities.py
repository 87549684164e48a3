"""Identities between published objectives (section 3.2 of the catalogue), and invariances all of them share.

Both sides are evaluated by embedkit: an identity that holds shows that the slots mean what they say.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedkit.objectives import build
from embedkit.objectives.base import Objective, ObjectiveBatch
from tests.objectives.cases import CASES
from tests.objectives.harness import Case, Draw, evaluate, warmed
from tests.objectives.oracles import banks, general
from tests.objectives.oracles.plain import lse

Config = dict[str, Any]
TAU = 0.3


def batch(size: int = 6, dim: int = 5, count: int = 2, **known: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Random views, fp64."""
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    names = ["anchor", "positive", "view3", "view4"][:count]
    views = {n: points + 0.7 * torch.randn(size, dim, generator=generator, dtype=torch.float64) for n in names}
    return views, known


def run(config: Config | Objective, views: dict[str, Tensor], **known: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients."""
    size, dim = next(iter(views.values())).shape
    objective = config if isinstance(config, Objective) else build(config, dim=dim, num_rows=size)
    leaves = {name: z.clone().requires_grad_() for name, z in views.items()}
    for name, parameter in objective.double().named_parameters():
        if name.endswith("log_scale"):  # it was made in fp32
            parameter.data.fill_(-math.log(TAU))
    loss = objective(leaves, ObjectiveBatch.of(leaves, **known)).loss
    loss.backward()
    return loss.detach(), {name: z.grad for name, z in leaves.items()}


def assert_same(one: Config, other: Config, count: int = 2, factor: float = 1.0, shift: float = 0.0,
                gradient_only: bool = False, **known: Any) -> None:  # fmt: skip
    """one = factor * other + shift; gradients alike."""
    views, _ = batch(count=count)
    (a, grad_a), (b, grad_b) = run(one, views, **known), run(other, views, **known)
    if not gradient_only:
        torch.testing.assert_close(a, factor * b + shift, rtol=1e-10, atol=1e-12)
    for name, grad in grad_b.items():
        torch.testing.assert_close(grad_a[name], factor * grad, rtol=1e-9, atol=1e-12)


def table(**slots: Any) -> Config:
    """A composition of slots at one temperature."""
    return {"name": "table", "temperature": TAU, **slots}


@pytest.mark.parametrize("direction", ["rows", "both", "views"])
def test_additive_margin_is_a_weight_on_all_negatives(direction: str) -> None:
    """AM margin m = every negative times e^(m / tau)."""
    assert_same(
        table(direction=direction, positive="additive-margin", margin=0.2),
        table(direction=direction, negative_weight=math.exp(0.2 / TAU)),
    )


def test_additive_margin_only_shifts_the_decoupled_loss() -> None:
    """DCL has no positive in the denominator: the margin adds m / tau."""
    assert_same(
        table(direction="views", own=0.0, positive="additive-margin", margin=0.2),
        table(direction="views", own=0.0),
        shift=0.2 / TAU,
    )


def test_simo_is_a_margin_that_makes_negatives_weigh_like_many() -> None:
    """m = tau log(as_many / K) for the K = 2B - 2 negatives there are."""
    assert_same(
        table(direction="views", positive="simo", as_many=1000),
        table(direction="views", negative_weight=1000 / 10),
    )


def test_gradient_of_macl_is_that_of_dcl() -> None:
    """At one temperature (alpha 0), the reweighted cross entropy has DCL's gradient; its value differs."""
    macl = {"name": "macl", "temperature": TAU, "alpha": 0.0}
    dcl = {"name": "dcl", "temperature": TAU}
    assert_same(macl, dcl, gradient_only=True)
    views, _ = batch()
    assert abs(run(macl, views)[0] - run(dcl, views)[0]) > 1e-3


def test_macl_is_dcl_at_an_adaptive_temperature() -> None:
    """tau0 (1 + alpha (A - A0)), A the mean cosine of positives."""
    views, _ = batch()
    align = float(torch.cosine_similarity(views["anchor"], views["positive"]).mean())
    adapted = TAU * (1 + 0.5 * (align - 0.1))
    assert_same(
        {"name": "macl", "temperature": TAU, "alpha": 0.5, "offset": 0.1},
        {"name": "dcl", "temperature": adapted},
        gradient_only=True,
    )


def test_gradient_of_sogclr_without_memory_is_that_of_dcl() -> None:
    """With gamma 1 the denominator is the batch's own, and the surrogate's gradient tau times DCL's.

    One direction, for SogCLR keeps one denominator for both views of a row.
    """
    assert_same(
        table(reducer="global", gamma=1.0),
        table(own=0.0),
        factor=TAU,
        gradient_only=True,
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_hard_negative_weights_in_closed_form(beta: float) -> None:
    """log sum w e^l = log n + lse((1 + beta) l) - lse(beta l), with weights of mean one."""
    logits = list(np.random.default_rng(0).normal(size=7) * 3)
    closed = math.log(7) + lse((1 + beta) * x for x in logits) - lse(beta * x for x in logits)
    assert lse(general.hard_weighted(logits, beta)) == pytest.approx(closed, rel=1e-12)


def test_hcl_and_hn_nce_weigh_alike() -> None:
    """HCL without prior is HN-NCE's weight in NT-Xent's directions; HN-NCE is HCL's weight in CLIP's."""
    assert_same(
        {"name": "hcl", "temperature": TAU, "beta": 0.7, "class_prior": 0.0},
        table(direction="views", weight="exponential", beta=0.7),
    )
    assert_same(
        {"name": "hn-nce", "temperature": TAU, "beta": 0.7},
        table(direction="both", weight="exponential", beta=0.7),
    )


def test_hcl_without_hardness_and_prior_is_ntxent() -> None:
    assert_same(
        {"name": "hcl", "temperature": TAU, "beta": 0.0, "class_prior": 0.0}, {"name": "ntxent", "temperature": TAU}
    )


def test_hn_nce_without_hardness_is_clip() -> None:
    """alpha 1, beta 0, and a scale that is 1 / temperature."""
    config = {"name": "hn-nce", "temperature": TAU, "beta": 0.0, "own": 1.0}
    assert_same(config, {"name": "clip", "temperature": TAU})


@pytest.mark.parametrize("prior", [0.05, 0.3, 0.9])
def test_hcl_without_hardness_is_debiased(prior: float) -> None:
    """Also where the lower bound is active (0.9)."""
    config = {"temperature": TAU, "class_prior": prior}
    assert_same({"name": "hcl", "beta": 0.0, **config}, {"name": "debiased", **config})


def test_debiased_without_prior_is_ntxent() -> None:
    assert_same({"name": "debiased", "temperature": TAU, "class_prior": 0.0}, {"name": "ntxent", "temperature": TAU})


def test_gaussian_kernel_is_ntxent_at_half_the_width() -> None:
    """|a - b|^2 = 2 - 2 cos on the sphere: T = 2 tau."""
    assert_same(
        {"name": "kernel-infonce", "temperature": 2 * TAU, "gamma": 2.0}, {"name": "ntxent", "temperature": TAU}
    )


@pytest.mark.parametrize("direction", ["rows", "views"])
def test_label_smoothing_is_a_leak_of_the_target(direction: str) -> None:
    """epsilon / M on each of M candidates, the positive included, in the cross-entropy form."""
    assert_same(
        table(direction=direction, smoothing=0.2),
        table(direction=direction, reducer="divergence", form="cross-entropy", leak_p=0.2),
    )


def test_kl_and_cross_entropy_differ_by_the_entropy_of_the_target() -> None:
    """Constant, so the gradients are equal; zero for one positive."""
    one, other = (table(reducer="divergence", form=form) for form in ("kl", "cross-entropy"))
    assert_same(one, other)
    assert_same({**one, "leak_p": 0.3}, {**other, "leak_p": 0.3}, gradient_only=True)


def test_siglip_is_a_sum_over_all_pairs_less_the_diagonal() -> None:
    """softplus(-x) - softplus(x) = -x."""
    views, _ = batch()
    loss, _ = run({"name": "siglip", "temperature": TAU, "bias": -2.0}, views)
    unit = {name: torch.nn.functional.normalize(z, dim=1) for name, z in views.items()}
    logits = unit["anchor"] @ unit["positive"].T / TAU - 2.0
    expected = (torch.nn.functional.softplus(logits).sum() - logits.diagonal().sum()) / len(logits)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_slope_of_the_robust_objective_by_temperature() -> None:
    """d/dtau [tau log mean e^(s/tau) + tau rho] = log u + rho - E_w[s / tau]: the oracle that state is tested with."""
    z1, z2 = np.random.default_rng(2).normal(size=(2, 4, 3))
    tau, rho, h = [0.3, 0.2, 0.5, 0.4], 0.1, 1e-5
    u = banks.sogclr_state(z1, z2, [0.0] * 4, [False] * 4, 1.0, tau)
    slopes = banks.tau_gradient(z1, z2, u, tau, rho)
    views = banks.hardness(z1, z2, tau)
    for i in range(4):
        similarities = [x * tau[i] for view in views for x in view[i]]
        difference = banks.robust_value(similarities, tau[i] + h, rho) - banks.robust_value(
            similarities, tau[i] - h, rho
        )
        assert slopes[i] == pytest.approx(difference / (2 * h), rel=1e-7)


def test_streaming_merge_of_sums() -> None:
    """lse(a with b) = lse a + log1p(e^(lse b - lse a)), which makes one tile after another exact."""
    a, b = list(np.linspace(-3, 2, 5)), list(np.linspace(0, 4, 7))
    assert lse(a + b) == pytest.approx(lse(a) + math.log1p(math.exp(lse(b) - lse(a))), rel=1e-14)


def test_supcon_with_unique_labels_is_ntxent() -> None:
    """Times tau / base temperature."""
    label = torch.arange(6)
    for name in ("supcon", "supcon-in"):
        assert_same(
            {"name": name, "temperature": TAU, "base_temperature": 0.07},
            {"name": "ntxent", "temperature": TAU},
            factor=TAU / 0.07,
            label=label,
        )


@pytest.mark.parametrize("name", ["poly-view-geometric", "poly-view-arithmetic"])
def test_poly_view_of_two_views_is_ntxent(name: str) -> None:
    assert_same({"name": name, "temperature": TAU}, {"name": "ntxent", "temperature": TAU})


def test_poly_view_forms_differ_with_three_views() -> None:
    """The mean of logs is at most the log of the mean."""
    views, _ = batch(count=3)
    geometric, arithmetic = (
        run({"name": f"poly-view-{form}", "temperature": TAU}, views)[0] for form in ("geometric", "arithmetic")
    )
    assert geometric > arithmetic + 1e-6


def test_mv_infonce_of_two_views_is_not_ntxent() -> None:
    """Its views share one denominator."""
    views, _ = batch()
    one = run({"name": "mv-infonce", "temperature": TAU}, views)[0]
    assert abs(one - run({"name": "ntxent", "temperature": TAU}, views)[0]) > 1e-3


def test_decoupled_uniformity_with_the_identity_as_smoother_is_plain() -> None:
    """K = I (rows of different labels) without ridge: A = I."""
    label = torch.arange(6)
    config = {"name": "decoupled-uniformity"}
    views, _ = batch()
    one, grad = run({**config, "prior": "label", "ridge": 1e-13}, views, label=label)
    other, expected = run(config, views, label=label)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    torch.testing.assert_close(grad["anchor"], expected["anchor"], rtol=1e-9, atol=1e-12)


def test_matryoshka_of_the_whole_embedding_is_its_objective() -> None:
    inner = {"name": "ntxent", "temperature": TAU}
    assert_same({"name": "matryoshka", "objective": inner, "dims": [5]}, inner)


def test_a_sum_of_one_term_is_that_term() -> None:
    inner = {"name": "ntxent", "temperature": TAU}
    assert_same({"name": "sum", "terms": [inner]}, inner)


def queued(config: Config) -> Objective:
    """An objective with a queue of four known vectors."""
    objective = build({**config, "size": 4, "random_start": False}, dim=5, num_rows=6).double()
    keys = torch.randn(4, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    rows = {"anchor": keys, "positive": keys}
    objective.after_step(rows, ObjectiveBatch.of(rows, guide=rows))
    return objective


@pytest.mark.parametrize(
    ("config", "direction"),
    [
        ({"name": "mochi", "mixes": 0, "query_mixes": 0, "hardest": 4}, "rows"),
        ({"name": "ascl", "neighbours": 0.0}, "rows"),
        ({"name": "moco-filtered", "hardest": 4, "ceiling": 1.0}, "both"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)
def test_queue_objectives_without_their_addition_are_moco(config: Config, direction: str) -> None:
    """No mixtures; no neighbours; a filter that lets everything through, which has MoCo's loss in both directions."""
    views, _ = batch()
    known = {"guide": {name: z.clone() for name, z in views.items()}}
    one, grad = run(queued({"temperature": TAU, **config}), views, **known)
    other, expected = run(queued({"name": "moco", "temperature": TAU, "direction": direction}), views, **known)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    torch.testing.assert_close(grad["anchor"], expected["anchor"], rtol=1e-9, atol=1e-12)


def test_mean_shifted_around_zero_is_ntxent() -> None:
    """The centre is zero before the first step."""
    assert_same({"name": "mean-shifted", "temperature": TAU}, {"name": "ntxent", "temperature": TAU})


def test_focal_without_focus_is_infonce() -> None:
    assert_same({"name": "focal-infonce", "temperature": TAU, "focal": 0.0}, table())


# ---------------------------------------------------------------------------------------------- invariances

FIRST = list({case.name: case for case in reversed(CASES)}.values())


def permuted(draw: Draw, order: np.ndarray) -> Draw:
    """Rows of the batch in another order, with all that belongs to them."""
    known: dict[str, Any] = {}
    place = np.argsort(order)  # where an old row is now
    vectors = {}
    base = draw.batch()
    owners, keys = {}, {}
    for name, z in draw.vectors.items():
        owner = place[base.owner[name].numpy()]
        sort = np.argsort(owner, kind="stable")
        vectors[name], owners[name], keys[name] = z[sort], owner[sort], base.keys[name].numpy()[sort]
        for kind in ("guide", "scores"):
            if name in draw.known.get(kind, {}):
                known.setdefault(kind, {})[name] = draw.known[kind][name][sort]
    for name in ("score", "label", "group", "document_id", "position"):
        if name in draw.known:
            known[name] = draw.known[name][order]
    rest = {name: value for name, value in draw.known.items() if name not in known}
    return Draw(vectors, {**rest, **known, "owner": owners, "keys": keys, "ids": base.ids.numpy()[order]})


@pytest.mark.parametrize("case", [c for c in FIRST if "order" not in c.exempt], ids=lambda case: case.name)
def test_the_order_of_rows_does_not_matter(case: Case) -> None:
    objective, draw = warmed(case)
    size = len(draw.vectors["anchor"])
    expected = evaluate(objective, draw, advance=False).loss
    order = np.random.default_rng(5).permutation(size)
    assert evaluate(objective, permuted(draw, order), advance=False).loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("case", [c for c in FIRST if "length" not in c.exempt], ids=lambda case: case.name)
def test_the_length_of_vectors_does_not_matter(case: Case) -> None:
    """Only directions count for objectives on the cosine; whitening removes one common factor."""
    objective, draw = warmed(case)
    expected = evaluate(objective, draw, advance=False).loss
    longer = Draw({name: 7.0 * z for name, z in draw.vectors.items()}, draw.known)
    assert evaluate(objective, longer, advance=False).loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("case", [c for c in FIRST if "length" in c.exempt], ids=lambda case: case.name)
def test_an_exemption_is_needed(case: Case) -> None:
    objective, draw = warmed(case)
    expected = evaluate(objective, draw, advance=False).loss
    longer = Draw({name: 7.0 * z for name, z in draw.vectors.items()}, draw.known)
    assert evaluate(objective, longer, advance=False).loss != pytest.approx(expected, rel=1e-4)
