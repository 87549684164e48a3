"""Parameter groups, schedule, clipping, AdamW's state and the running mean, against plain restatements."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from embedkit import objectives
from embedkit.config.recipe import TrainConfig
from embedkit.errors import RecipeError
from embedkit.factory import build
from embedkit.methods.pairs import Pairs
from embedkit.training.loop.step import Bundle
from embedkit.training.optim.optimizer import Optimiser, ParameterGroup, RunningMean, assign_groups, schedule_factor
from tests.training import common, runs


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"max_steps": 10, "lr": 0.1, "weight_decay": 0.01, **changes})


def bundle(objective: dict[str, Any] | str = "clip") -> Bundle:
    model = build(common.model_config(head={"kind": "tanh"}), 3)
    return Bundle(model, Pairs().parts(model), objectives.build(objective, dim=model.dim))


def where(groups: list[ParameterGroup]) -> dict[str, ParameterGroup]:
    """Group of every trained parameter; each is in exactly one."""
    found: dict[str, ParameterGroup] = {}
    for group in groups:
        for name in group.names:
            assert name not in found
            found[name] = group
    return found


# -- groups ---------------------------------------------------------------------------------------------------------


def test_every_trained_parameter_is_in_one_group_and_counted() -> None:
    module = bundle()
    groups = assign_groups(module, config())
    known = dict(module.named_parameters())
    assert where(groups).keys() == known.keys()
    assert sum(group.count for group in groups) == sum(p.numel() for p in known.values())
    for group in groups:
        assert group.count == sum(known[name].numel() for name in group.names)


def test_first_matching_pattern_decides() -> None:
    module = bundle()
    rules = [
        {"pattern": "model.encoder.encoder.layer.0.*", "lr": 0.5},
        {"pattern": "model.encoder.*", "lr": 0.25, "weight_decay": 0.3},
        {"pattern": "*", "lr": 0.125},
    ]
    found = where(assign_groups(module, config(groups=rules)))
    for name, group in found.items():
        if name.startswith("model.encoder.encoder.layer.0."):
            assert group.lr == 0.5
        elif name.startswith("model.encoder."):
            assert (group.lr, group.weight_decay) == (0.25, 0.3)  # a group that asks for decay gets it on vectors too
        else:
            assert group.lr == 0.125
    assert {group.lr for group in found.values()} == {0.5, 0.25, 0.125}


def test_vectors_scalars_and_what_the_objective_names_are_not_decayed() -> None:
    module = bundle()
    named = frozenset(f"objective.{name}" for name in module.objective.no_weight_decay)
    assert named
    found = where(assign_groups(module, config(), named))
    for name, parameter in module.named_parameters():
        wanted = 0.0 if parameter.ndim < 2 or name.startswith("objective.") else 0.01
        assert found[name].weight_decay == wanted, name
    assert {g.weight_decay for g in found.values()} == {0.0, 0.01}
    matrix = "model.encoder.embeddings.word_embeddings.weight"
    assert where(assign_groups(module, config(), frozenset({matrix})))[matrix].weight_decay == 0.0


def test_frozen_parameters_leave_and_want_no_gradient() -> None:
    module = bundle()
    rules = [
        {"pattern": "model.encoder.encoder.layer.1.*", "lr": 0.2},
        {"pattern": "model.encoder.*", "frozen": True},
    ]
    found = where(assign_groups(module, config(groups=rules)))
    for name, parameter in module.named_parameters():
        frozen = name.startswith("model.encoder.") and not name.startswith("model.encoder.encoder.layer.1.")
        assert parameter.requires_grad == (not frozen)
        assert (name in found) == (not frozen)


def test_frozen_parameters_do_not_move_in_a_run(tmp_path: Path) -> None:
    rules = [{"pattern": "model.encoder.embeddings.*", "frozen": True}]
    runs.run(tmp_path / "run", runs.recipe(train={"groups": rules, "save_every": 1, "keep_checkpoints": 9}))
    first, last = (runs.checkpoint(tmp_path / "run", step) for step in (1, 4))
    for name, value in first.items():
        assert torch.equal(value, last[name]) == name.startswith("model.encoder.embeddings."), name
    assert not [name for name in runs.checkpoint(tmp_path / "run", 4, "optimiser") if "embeddings." in name]


def test_a_pattern_without_match_and_nothing_to_train_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"'model\.nothing\.\*' matches no parameter"):
        assign_groups(bundle(), config(groups=[{"pattern": "model.nothing.*"}]))
    with pytest.raises(RecipeError, match="matches no parameter"):  # all of it is taken by an earlier pattern
        assign_groups(bundle(), config(groups=[{"pattern": "*", "lr": 1.0}, {"pattern": "model.*", "lr": 2.0}]))
    groups = assign_groups(bundle(), config(groups=[{"pattern": "model.nothing.*"}]), shipped=True)
    assert {group.name for group in groups} == {group.name for group in assign_groups(bundle(), config())}
    with pytest.raises(RecipeError, match="every parameter is frozen"):
        assign_groups(bundle(), config(groups=[{"pattern": "*", "frozen": True}]))


# -- schedule -------------------------------------------------------------------------------------------------------


def plain_factor(step: int, total: int, schedule: str, warmup: int) -> float:
    """Learning rate factor with the warm-up in steps, written case by case."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    rest = total - warmup
    share = (step - warmup) / rest
    return 1 - share if schedule == "linear" else (1 + math.cos(math.pi * share)) / 2


@settings(max_examples=200, deadline=None)
@given(total=st.integers(1, 300), data=st.data(), schedule=st.sampled_from(["linear", "cosine", "constant"]))
def test_schedule_is_the_plain_one(total: int, data: st.DataObject, schedule: str) -> None:
    warmup = data.draw(st.integers(0, total - 1))
    given_as = float(warmup) if warmup else 0.0
    chosen = config(schedule=schedule, warmup=given_as)
    for step in range(total):
        wanted = plain_factor(step, total, schedule, warmup)
        assert schedule_factor(step, total, chosen) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warmup_as_a_share_is_warmup_in_steps(schedule: str) -> None:
    for step in range(40):
        share = schedule_factor(step, 40, config(schedule=schedule, warmup=0.25))
        assert share == schedule_factor(step, 40, config(schedule=schedule, warmup=10.0))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99, 1.0, 7.0, 500.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_every_step_of_a_run_has_a_positive_rate_of_at_most_the_peak(schedule: str, warmup: float) -> None:
    for total in (1, 2, 7, 100):
        factors = [schedule_factor(step, total, config(schedule=schedule, warmup=warmup)) for step in range(total)]
        assert all(0.0 < factor <= 1.0 for factor in factors)


def test_the_logged_rate_is_the_scheduled_one(tmp_path: Path) -> None:
    progress = runs.Recorder()
    runs.run(tmp_path / "run", runs.recipe(train={"warmup": 2.0, "lr": 0.01}), progress=progress)
    assert [progress.figures[step]["lr"] for step in (1, 2, 3, 4)] == pytest.approx(
        [0.01 / 3, 0.02 / 3, 0.01, 0.005], rel=1e-9
    )


# -- the update -----------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """A matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.vector = nn.Parameter(torch.randn(4, generator=generator))
        self.idle = nn.Parameter(torch.randn(2, generator=generator))


def optimiser(module: nn.Module, **changes: Any) -> Optimiser:
    chosen = config(**changes)
    return Optimiser(module, assign_groups(module, chosen), chosen)


def give_gradients(module: Two, step: int) -> None:
    """Gradients that depend on the step only; `idle` gets none."""
    generator = torch.Generator().manual_seed(100 + step)
    module.matrix.grad = torch.randn(3, 4, generator=generator)
    module.vector.grad = torch.randn(4, generator=generator)


@pytest.mark.parametrize("corrected", [True, False])
def test_update_is_adamw_by_hand(corrected: bool) -> None:
    module = Two()
    adamw = optimiser(module, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, bias_correction=corrected)
    weight, first, second = module.matrix.detach().double(), 0.0, 0.0
    idle = module.idle.detach().clone()
    for step in range(1, 6):
        give_gradients(module, step)
        assert module.matrix.grad is not None
        gradient = module.matrix.grad.double()
        adamw.step(1 / step)
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        by = (1 - 0.8**step, 1 - 0.95**step) if corrected else (1.0, 1.0)
        update = (first / by[0]) / ((second / by[1]).sqrt() + 1e-3)
        rate = 0.1 / step
        weight = weight - rate * 0.1 * weight - rate * update
        assert module.matrix.grad is None
    torch.testing.assert_close(module.matrix.detach().double(), weight, rtol=1e-5, atol=1e-6)
    assert torch.equal(module.idle.detach(), idle)


def test_norm_and_clipping() -> None:
    module = Two()
    module.matrix.grad, module.vector.grad = torch.full((3, 4), 3.0), torch.full((4,), 4.0)
    wanted = math.sqrt(12 * 9 + 4 * 16)
    clipping = optimiser(module, max_grad_norm=1.5)
    norm = clipping.gradient_norm()
    assert float(norm) == pytest.approx(wanted, rel=1e-6)
    clipping.clip(norm)
    assert float(clipping.gradient_norm()) == pytest.approx(1.5, rel=1e-5)
    assert float(module.matrix.grad[0, 0] / module.vector.grad[0]) == pytest.approx(3 / 4, rel=1e-6)
    before = module.matrix.grad.clone()
    clipping.clip(clipping.gradient_norm())  # at the limit already
    torch.testing.assert_close(module.matrix.grad, before, rtol=1e-5, atol=0)
    optimiser(module, max_grad_norm=None).clip(torch.tensor(1e9))
    torch.testing.assert_close(module.matrix.grad, before, rtol=1e-5, atol=0)
    optimiser(module, max_grad_norm=100.0).clip(norm)  # far below the limit: not scaled up
    torch.testing.assert_close(module.matrix.grad, before, rtol=1e-5, atol=0)


def test_state_goes_to_a_new_optimiser_by_name_whatever_the_groups() -> None:
    first = Two()
    one = optimiser(first)
    for step in range(3):
        give_gradients(first, step)
        one.step(1.0)
    state = one.state_tensors()
    assert set(state) == {f"{name}/{key}" for name in ("matrix", "vector") for key in ("step", "exp_avg", "exp_avg_sq")}
    assert all(value.device.type == "cpu" for value in state.values())

    second = Two()
    second.load_state_dict(first.state_dict())
    two = optimiser(second, groups=[{"pattern": "idle", "lr": 0.1}, {"pattern": "vec*", "lr": 0.1}])
    two.load_state_tensors({name: value.clone() for name, value in state.items()})
    for step in range(3, 6):
        for module, adamw in ((first, one), (second, two)):
            give_gradients(module, step)
            adamw.step(0.5)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    fresh = Two()
    fresh.load_state_dict(first.state_dict())
    three = optimiser(fresh)
    for module, adamw in ((first, one), (fresh, three)):
        give_gradients(module, 9)
        adamw.step(0.5)
    assert not torch.equal(first.matrix, fresh.matrix)  # without the state the update is another one


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 5, 0.17])
def test_warmup_from_zero_is_that_of_transformers(schedule: str, warmup: float) -> None:
    from transformers import get_scheduler

    total = 30
    config = TrainConfig(max_steps=total, schedule=schedule, warmup=warmup, warmup_start="zero")
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    steps = math.ceil(warmup * total if warmup < 1 else warmup)
    theirs = get_scheduler(name, sgd, num_warmup_steps=steps, num_training_steps=total)
    for step in range(total):
        assert schedule_factor(step, total, config) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        sgd.step()
        theirs.step()


# -- running mean ---------------------------------------------------------------------------------------------------


def test_running_mean_is_the_naive_sum() -> None:
    module, decay = Two(), 0.9
    module.idle.requires_grad_(False)
    mean = RunningMean(module, decay)
    values = [module.matrix.detach().double()]
    for step in range(5):
        with torch.no_grad():
            module.matrix.add_(step - 1.5)
        mean.update(module)
        values.append(module.matrix.detach().double())
    wanted = decay**5 * values[0] + sum((1 - decay) * decay ** (5 - i) * values[i] for i in range(1, 6))
    torch.testing.assert_close(mean.mean["matrix"].double(), wanted, rtol=1e-5, atol=1e-6)
    assert set(mean.mean) == {"matrix", "vector"}


def test_means_stand_in_and_the_weights_come_back_even_after_an_error() -> None:
    import contextlib

    module = Two()
    mean = RunningMean(module, 0.5)
    with torch.no_grad():
        module.matrix.add_(1.0)
    now = module.matrix.detach().clone()
    swapped = contextlib.contextmanager(mean.swapped)
    with swapped(module):
        assert torch.equal(module.matrix, mean.mean["matrix"])
        assert not torch.equal(module.matrix, now)
    assert torch.equal(module.matrix, now)
    with pytest.raises(ZeroDivisionError), swapped(module):
        raise ZeroDivisionError
    assert torch.equal(module.matrix, now)


def test_a_run_keeps_the_naive_running_mean_of_its_weights(tmp_path: Path) -> None:
    given_run = runs.recipe(train={"ema": 0.7, "save_every": 1, "keep_checkpoints": 9})
    runs.run(tmp_path / "run", given_run)
    before = dict(build(common.model_config(), 7).named_parameters())
    mean = {f"model.{name}": value.detach().double() for name, value in before.items()}
    for step in range(1, 5):
        weights = runs.checkpoint(tmp_path / "run", step)
        mean = {name: 0.7 * value + 0.3 * weights[name].double() for name, value in mean.items()}
        saved = runs.checkpoint(tmp_path / "run", step, "ema")
        assert saved.keys() == mean.keys()
        for name, value in mean.items():
            torch.testing.assert_close(saved[name].double(), value, rtol=1e-5, atol=1e-6)
