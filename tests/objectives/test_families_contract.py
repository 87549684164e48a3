"""What every objective beside the kernel must keep: gradient, shares, state, extreme and refused inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embedkit.errors import NonFiniteError, RecipeError, UserError
from embedkit.objectives.base import LossOutput, Objective, ObjectiveBatch
from embedkit.objectives.registry import build, presets
from tests.objectives.cases import CASES

DIM = 4
PAIR_OF_TERMS = [
    {"name": "infonce", "temperature": 0.5},
    {"name": "infonce", "label": "b", "inputs": {"positive": "view3"}},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "byol": {"hidden": 5},
    "simsiam": {"hidden": 5},
    "swav": {"prototypes": 3, "freeze_steps": 0, "queue": 5, "queue_from": 0},
    "w-mse": {"sub_batch": 3, "iterations": 2, "eps": 0.1},
    "decoupled-uniformity": {"prior": "label"},
    "distill-kl": {"symmetric": True},
    "groco": {"hardest": 2},
    "matryoshka": {"objective": "clip", "dims": [2, 4], "weights": [0.5, 1.0]},
    "adaptive-layers": {"objective": "clip", "size": 2},
    "sum": {"terms": [{"name": "clip"}, {"name": "energy-hinge", "weight": 10.0}]},
    "harmonise": {"terms": PAIR_OF_TERMS},
    "mgda": {"terms": PAIR_OF_TERMS},
    "feature-transform": {"objective": "clip"},
    "sct": {"size": 6},
    "co2": {"size": 6},
    "dino": {"prototypes": 3},
    "msn": {"prototypes": 3},
    "pmsn": {"prototypes": 3},
    "sigreg": {"directions": 4},
    "lejepa": {"directions": 4},
    **{name: {"classes": 3} for name in ("proxy-anchor", "proxy-nca", "arcface", "cosface", "soft-triple")},
    "view-pairs": {"objective": "clip", "positives": ["positive", "view3"]},
    "modality-pairs": {"objective": "clip", "names": ["anchor", "positive", "view3"]},
    "modality-views": {"names": ["anchor", "positive", "view3"]},
}
FAMILIES = [name for name, preset in presets.items() if preset.family != "table"]
# Objectives that stop a gradient, whose loss has other finite differences; their oracles hold the stopped part fixed.
STOPPED = {case.name for case in CASES if "slope" in case.exempt}

every_family = pytest.mark.parametrize("name", FAMILIES)


def made(name: str, **changes: Any) -> Objective:
    torch.manual_seed(0)
    objective = build({"name": name, **SETTINGS.get(name, {}), **changes}, dim=DIM, num_rows=50).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return objective


def drawn(size: int = 7, seed: int = 1, **known: Any) -> tuple[dict[str, Tensor], ObjectiveBatch]:
    """Three views, one hard negative a row, a guide of the same size, and every role."""
    rng = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(size, DIM, generator=rng, dtype=torch.float64)

    embeddings = {name: normal() for name in ("anchor", "positive", "view3", "negatives")}
    given = {
        "guide": {name: normal() for name in embeddings},
        "score": torch.rand(size, generator=rng, dtype=torch.float64),
        "label": torch.arange(size) % 3,
        "group": torch.arange(size) // 3,
        "document_id": torch.arange(size) // 4,
        "position": torch.arange(size) % 4,
    }
    return embeddings, ObjectiveBatch.of(embeddings, **{**given, **known})


def run(
    objective: Objective, embeddings: dict[str, Tensor], batch: ObjectiveBatch
) -> tuple[LossOutput, dict[str, Tensor]]:
    """The output, and the gradients by name of embedding and parameter."""
    objective.zero_grad()
    leaves = {name: z.clone().requires_grad_() for name, z in embeddings.items()}
    out = objective(leaves, batch)
    out.loss.backward()
    everything = {**leaves, **dict(objective.named_parameters())}
    return out, {n: torch.zeros_like(x) if x.grad is None else x.grad.clone() for n, x in everything.items()}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in STOPPED])
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    objective = made(name)
    embeddings, batch = drawn(size=5)
    parameters = dict(objective.named_parameters())
    names, inner = list(embeddings), list(parameters)

    def loss(*values: Tensor) -> Tensor:
        vectors = dict(zip(names, values, strict=False))
        replaced = dict(zip(inner, values[len(names) :], strict=True))
        return torch.func.functional_call(objective, replaced, (vectors, batch)).loss

    values = [*embeddings.values(), *parameters.values()]
    assert torch.autograd.gradcheck(loss, [v.detach().clone().requires_grad_() for v in values])


@every_family
@pytest.mark.parametrize("world", [2, 4])
def test_shares_add_up(name: str, world: int) -> None:
    """Loss, terms and all gradients; metrics are equal everywhere. Seven rows: the shares differ in size."""
    objective = made(name)
    embeddings, batch = drawn()
    whole, gradients = run(objective, embeddings, batch)
    outs, parts = [], []
    for rank in range(world):
        rows = slice(rank * batch.size // world, (rank + 1) * batch.size // world)
        out, part = run(objective, embeddings, replace(batch, rows=rows))
        outs.append(out)
        parts.append(part)
    torch.testing.assert_close(sum(o.loss for o in outs), whole.loss, rtol=1e-11, atol=1e-13)
    for term, value in whole.terms.items():
        torch.testing.assert_close(sum(o.terms[term] for o in outs), value, rtol=1e-11, atol=1e-13)
    for key, gradient in gradients.items():
        torch.testing.assert_close(sum(p[key] for p in parts), gradient, rtol=1e-10, atol=1e-12, msg=key)
    for out in outs:
        assert {k: float(v) for k, v in out.metrics.items()} == {k: float(v) for k, v in whole.metrics.items()}


@every_family
def test_outer_terms_add_up_to_the_loss(name: str) -> None:
    embeddings, batch = drawn()
    out, _ = run(made(name), embeddings, batch)
    outer = [value for term, value in out.terms.items() if "/" not in term]
    if outer:
        torch.testing.assert_close(torch.stack(outer).sum(), out.loss.detach())
    assert not any(x.requires_grad for x in (*out.terms.values(), *out.metrics.values()))


@every_family
def test_state_survives_a_save(name: str) -> None:
    """A restored objective gives the same loss and the same next state."""
    objective = made(name)
    for step in range(3):
        embeddings, batch = drawn(seed=step, step=step)
        objective.after_step(embeddings, batch)
    other = build({"name": name, **SETTINGS.get(name, {})}, dim=DIM, num_rows=50).double()
    other.load_state_dict(objective.state_dict())
    embeddings, batch = drawn(seed=9, step=3)
    assert torch.equal(run(objective, embeddings, batch)[0].loss, run(other, embeddings, batch)[0].loss)
    for one in (objective, other):
        one.after_step(embeddings, batch)
    for key, value in objective.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def extreme(kind: str, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs at the edge."""
    change = {
        "equal": lambda z: z[:1].expand_as(z).clone(),
        "zero": torch.zeros_like,
        "huge": lambda z: 1e6 * z,
        "tiny": lambda z: 1e-12 * z,
    }
    return {name: change[kind](z) for name, z in embeddings.items()}


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", ["equal", "zero", "huge", "tiny"])
def test_extreme_inputs_give_numbers(name: str, kind: str, dtype: torch.dtype) -> None:
    embeddings, batch = drawn()
    embeddings = {n: z.to(dtype) for n, z in extreme(kind, embeddings).items()}
    out, gradients = run(made(name).to(dtype), embeddings, batch)
    assert torch.isfinite(out.loss)
    assert all(bool(torch.isfinite(g).all()) for g in gradients.values())


@every_family
def test_one_row_gives_numbers(name: str) -> None:
    embeddings, batch = drawn(size=1)
    out, gradients = run(made(name), embeddings, batch)
    assert torch.isfinite(out.loss)
    assert all(bool(torch.isfinite(g).all()) for g in gradients.values())


@every_family
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_embeddings_are_refused_by_name_and_row(name: str, bad: float) -> None:
    embeddings, batch = drawn()
    embeddings["anchor"][4, 1] = bad
    with pytest.raises(NonFiniteError, match=r"anchor.*row 4"):
        made(name)(embeddings, batch)


@every_family
def test_half_precision_is_computed_in_single(name: str) -> None:
    embeddings, batch = drawn()
    half = {n: z.bfloat16() for n, z in embeddings.items()}
    objective = made(name).float()
    got = objective(half, batch).loss
    assert got.dtype == torch.float32
    expected = objective({n: z.float() for n, z in half.items()}, batch).loss
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FAMILIES if presets[name].family != "wrapper"])
def test_what_is_required_is_asked_for(name: str) -> None:
    """Every required name or role that is missing is named in the message."""
    objective = made(name)
    for role in sorted(objective.requires):
        embeddings, batch = drawn()
        if role in embeddings:
            del embeddings[role]
        else:
            batch = replace(batch, **{role: {} if role == "guide" else None})
        with pytest.raises(UserError, match=role):
            objective(embeddings, batch)


@every_family
def test_can_be_checked_without_sizes(name: str) -> None:
    """As `validate` does: no embedding size, no number of rows."""
    objective = build({"name": name, **SETTINGS.get(name, {})})
    assert objective.requires
    assert objective.negatives(8, 1, 2).total >= 0


@pytest.mark.parametrize("name", ["byol", "simsiam", "swav", "sct", "arcface", "dino", "msn", "tico"])
def test_without_a_size_it_cannot_be_evaluated(name: str) -> None:
    embeddings, batch = drawn()
    with pytest.raises(RecipeError, match="dim"):
        build({"name": name})(embeddings, batch)


@pytest.mark.parametrize("name", ["proxy-anchor", "proxy-nca", "arcface", "cosface", "soft-triple"])
def test_classes_must_be_known_and_hold_every_label(name: str) -> None:
    with pytest.raises(RecipeError, match="classes"):
        build(name, dim=DIM)
    embeddings, batch = drawn(label=torch.tensor([0, 1, 2, 5, 0, 1, 2]))
    with pytest.raises(UserError, match=r"label 5 .*3 classes.*row 3|row 3.*label 5 .*3 classes.*6"):
        made(name)(embeddings, batch)


REFUSED = [
    ("barlow-twins", {"off_diagonal": -1}), ("barlow-twins", {"eps": 0}), ("barlow-twins", {"scale": float("nan")}),
    ("vicreg", {"variance": -1}), ("vicreg", {"target": 0}),
    ("w-mse", {"sub_batch": 4, "eps": 0}), ("w-mse", {"iterations": 0}), ("w-mse", {"eps": 1}),
    ("feature-correlation", {"scale": 0}),
    ("byol", {"hidden": -1}), ("simsiam", {"hidden": 2.5}),
    ("groco", {"hardest": 0}), ("groco", {"steepness": 0}),
    ("list-mle", {"lists": "all"}), ("list-mle", {"omega": 0.5}), ("list-mle", {"teacher_temperature": 0.1}),
    ("contrastive", {"margin": 0}), ("contrastive", {"threshold": 0.5}), ("online-contrastive", {"threshold": 0}),
    ("swav", {"prototypes": 51}), ("swav", {"prototypes": 1}), ("swav", {"temperature": 0}), ("swav", {"epsilon": 0}),
    ("swav", {"queue": -1}), ("swav", {"iterations": 0}),
    ("cosent", {"scale": 0}), ("energy-hinge", {"margin": -0.1}), ("margin-mse", {"similarity": "euclid"}),
    ("distill-kl", {"temperature": 0}), ("distill-kl", {"teacher_temperature": -1}),
    ("embedding-mse", {"normalize": 3}),
    ("align-uniform", {"t": 0}), ("align-uniform", {"alpha": 0}), ("spectral", {"mu": 0}),
    ("decoupled-uniformity", {"prior": "rows"}), ("decoupled-uniformity", {"ridge": 0}), ("cacr", {"t_positive": -1}),
    ("care", {"temperature": 0}), ("care", {"equivariance": -1}),
    ("feature-transform", {"extrapolate": 0}), ("feature-transform", {"objective": "infonec"}),
    ("matryoshka", {"dims": []}), ("matryoshka", {"dims": [8]}), ("matryoshka", {"dims": [2, 2]}),
    ("matryoshka", {"dims": [2, 4], "weights": [1]}), ("matryoshka", {"objective": {"name": "clip", "temprature": 1}}),
    ("sum", {"terms": []}), ("sum", {"terms": "clip"}), ("sum", {"terms": [{"name": "clip"}, {"name": "clip"}]}),
    ("sum", {"terms": [{"name": "clip", "weight": -1}]}), ("sum", {"terms": [{"weight": 1}]}),
    ("sum", {"terms": [{"objective": "clip", "temperature": 0.1}]}),
    ("sum", {"terms": [{"name": "clip", "inputs": 3}]}),
    ("dclr", {"fidelity": "talk"}), ("dclr", {"noise": -1}), ("dclr", {"ascent": 1.5}), ("sg-opt", {"temperature": 0}),
    ("sct", {"size": 0}), ("sct", {"fidelity": "talk"}),
    ("arcface", {"margin": 4.0}), ("cosface", {"scale": 0}), ("soft-triple", {"centres": 0}),
    ("emp-ssl", {"eps": 0}), ("frossl", {"invariance": -1}), ("mmcr", {"local": -1}), ("tico", {"keep": 1}),
    ("part-diversity", {"parts": 1}),
    ("koleo", {"eps": 0}), ("sigreg", {"knots": 1}), ("lejepa", {"weight": 2}), ("lejepa", {"global_views": 0}),
    ("co2", {"temperature": 0}), ("co2", {"size": -1}),
    ("dino", {"momentum": 0.9, "prototypes": 0}), ("dino", {"freeze_steps": 3, "prototypes": 0}),
    ("dino", {"warm_temperature": 0.02}), ("swav", {"queue": 0, "queue_from": 3}),
    ("decoupled-uniformity", {"sigma": 2.0}), ("decoupled-uniformity", {"prior": "label", "sigma": 2.0}),
    ("decoupled-uniformity", {"prior": "none", "ridge": 0.2}),
    ("dino", {"prototypes": -1}), ("dino", {"centre_momentum": 1}), ("dino", {"teacher_temperature": 0}),
    ("msn", {"prototypes": 1}), ("msn", {"sharpening": 0}), ("pmsn", {"exponent": -1}),
    ("proxy-anchor", {"classes": 1}), ("proxy-anchor", {"alpha": 0}), ("fast-ap", {"bins": 0}),
    ("modality-pairs", {"pairs": "image"}), ("modality-pairs", {"pairs": [["anchor", "anchor"]]}),
    ("modality-pairs", {"weights": {"anchor": 1}}), ("modality-pairs", {"guide": "image"}),
    ("modality-views", {"names": ["anchor"]}),
    ("mgda", {"terms": PAIR_OF_TERMS[:1]}), ("mgda", {"normalize": "both"}),
    ("harmonise", {"terms": PAIR_OF_TERMS[:1]}), ("harmonise", {"scope": "epoch"}), ("harmonise", {"drop_below": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), REFUSED, ids=lambda x: str(x))
def test_bad_settings_are_refused_when_built(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        build({"name": name, **SETTINGS.get(name, {}), **settings}, dim=DIM, num_rows=50)
    assert caught.value.remedy


@every_family
def test_misspelt_settings_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="tempratur"):
        build({"name": name, **SETTINGS.get(name, {}), "tempratur": 1})


def test_odd_sizes_have_no_imaginary_half() -> None:
    with pytest.raises(RecipeError, match="even"):
        build("angle", dim=5)


def test_scores_that_are_no_cosines_are_refused() -> None:
    embeddings, batch = drawn(score=torch.tensor([0.1, 0.2, 0.3, 4.5, 0.5, 0.6, 0.7]))
    with pytest.raises(UserError, match=r"4\.5.*row 3|row 3.*4\.5"):
        made("cosine-mse")(embeddings, batch)


def test_scores_without_order_cost_nothing() -> None:
    embeddings, batch = drawn(score=torch.ones(7))
    out, gradients = run(made("cosent"), embeddings, batch)
    assert float(out.loss.detach()) == 0.0
    assert all(float(g.abs().sum()) == 0.0 for g in gradients.values())


def test_whitening_without_enough_rows_says_how_to_mend_it() -> None:
    embeddings, batch = drawn(size=3)
    with pytest.raises(UserError, match="eps"):
        build({"name": "w-mse", "eps": 0})(embeddings, batch)


def test_prototypes_are_frozen_at_first_and_kept_at_length_one() -> None:
    objective = made("swav", freeze_steps=2)
    for step, frozen in enumerate([True, True, False]):
        embeddings, batch = drawn(step=step)
        _, gradients = run(objective, embeddings, batch)
        assert (float(gradients["prototypes"].abs().sum()) == 0.0) is frozen
    objective.after_step(embeddings, batch)
    torch.testing.assert_close(objective.prototypes.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_random_numbers_depend_on_seed_step_use_and_place() -> None:
    def numbers(seed: int = 3, step: int = 4, use: str = "a", *places: int) -> tuple[float, float]:
        _, batch = drawn()
        batch = replace(batch, seed=seed, step=step)
        drawn_by_torch = torch.rand(1, generator=batch.generator(use, *places), dtype=torch.float64)
        return float(batch.random(use, *places).random()), float(drawn_by_torch)

    assert numbers() == numbers()
    others = [numbers(seed=4), numbers(step=5), numbers(use="b"), numbers(3, 4, "a", 0), numbers(3, 4, "a", 1009)]
    others += [numbers(), numbers(3, 5, "a", 0)]
    assert len(set(others)) == len(others)


def test_swav_queue_waits_for_its_epoch() -> None:
    objective = made("swav", queue_from=1)
    for epoch, filled in [(0, 0), (1, 5)]:
        embeddings, batch = drawn(epoch=epoch)
        objective.after_step(embeddings, batch)
        assert int(objective.filled) == filled
    newest = embeddings["positive"] / embeddings["positive"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(objective.queue[1], newest[:5])


def test_sub_batches_are_whitened_apart() -> None:
    """W-MSE with two sub-batches is the mean over their rows of the same loss on each alone."""
    embeddings, batch = drawn(size=8)
    embeddings = {name: embeddings[name] for name in ("anchor", "positive")}
    objective = made("w-mse", sub_batch=4, iterations=1)
    alone = made("w-mse", sub_batch=None, iterations=1)
    cuts = objective._cuts(batch, torch.device("cpu"))[0]
    assert sorted(torch.cat(cuts).tolist()) == list(range(8))
    assert [len(rows) for rows in cuts] == [4, 4]
    expected = [
        alone(part, ObjectiveBatch.of(part)).loss for part in ({n: z[r] for n, z in embeddings.items()} for r in cuts)
    ]
    torch.testing.assert_close(objective(embeddings, batch).loss, torch.stack(expected).mean())


@pytest.mark.parametrize("name", ["w-mse", "feature-transform", "dclr"])
def test_random_numbers_follow_the_step(name: str) -> None:
    objective = made(name)
    embeddings, batch = drawn()
    first, again, next_step = (objective(embeddings, replace(batch, step=s)).loss for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)
