"""Guides: a running mean that follows the model, a frozen encoder with its own tokenizer; exact over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import RecipeError
from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training import train
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.guide import Guide
from embedkit.training.monitor.log import Progress
from embedkit.training.setup import build_method
from tests.training import common
from tests.training.test_resume import final_state, killed_at, recipe, write_data

MASKED = {"name": "infonce", "temperature": 0.05, "guide_margin": 0.0}


def _gradients(guide: dict[str, Any], chunking: Chunking) -> dict[str, torch.Tensor]:
    step = common.make_step(MASKED, chunking)
    step.bundle.guide = Guide(GuideConfig(**guide), step.bundle.model).double()
    for encoder in step.bundle.guide.encoders:
        encoder.double()
    batch = common.step_batch(step, common.rows(10))
    step.gradients(batch)
    return {n: g for n, g in common.gradients(step).items() if not n.startswith("guide.")}


@pytest.mark.parametrize("kind", ["ema", "frozen"])
def test_a_guide_changes_the_gradient_and_processes_do_not(processes: Any, kind: str) -> None:
    model = common.model_config().model_dump(exclude_none=True)
    guide = {"ema": 0.9} if kind == "ema" else {"model": {**model, "pooling": "cls"}}
    wanted = _gradients(guide, Chunking())
    plain = common.make_step("infonce")
    plain.gradients(common.step_batch(plain, common.rows(10)))
    assert common.largest_error(wanted, common.gradients(plain)) > 1e-3
    for found in processes(2).run(_gradients, guide, Chunking(size=3)):
        assert common.largest_error(found, wanted) < 1e-9


def test_running_mean_follows_the_formula() -> None:
    step = common.make_step("infonce")
    guide = step.bundle.guide = Guide(GuideConfig(ema=0.75), step.bundle.model)
    name, weight = next(iter(step.bundle.model.named_parameters()))
    mean = weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            weight.add_(1.0)
        guide.after_update(step.bundle.model)
        mean = 0.75 * mean + 0.25 * weight.detach()
    assert torch.allclose(dict(guide.encoder.named_parameters())[name], mean, atol=1e-12)
    assert all(not p.requires_grad for p in guide.parameters())


def test_means_beside_the_guides_follow_its_decay() -> None:
    """The batch says the decay of its update; an objective's own means follow it where they are given no momentum."""
    step = common.make_step(MASKED)
    step.total_steps = 4
    for config, number, wanted in (
        ({"ema": 0.5}, 2, 0.5), ({"ema": 0.5, "ema_end": 1.0}, 0, 0.5), ({"ema": 0.5, "ema_end": 1.0}, 2, 0.75),
        ({"model": common.model_config().model_dump(exclude_none=True)}, 2, None),
    ):  # fmt: skip
        guide = step.bundle.guide = Guide(GuideConfig(**config), step.bundle.model).double()
        for encoder in guide.encoders:
            encoder.double()
        batch = common.step_batch(step, common.rows(10))
        batch.number = number
        step.gradients(batch)
        assert step.latest is not None and step.latest.batch.guide_decay == pytest.approx(wanted)
    z = {name: torch.randn(6, 4) for name in ("anchor", "positive")}
    for name, settings, mean_of in (
        ("dino", {"prototypes": 3}, {"teacher_prototypes": "prototypes"}),
        ("local-group", {"size": 8, "hidden": 4, "nearest": 2, "layers": 1, "heads": 1}, {}),
    ):
        for momentum, decay, share in ((None, 0.25, 0.25), (0.5, 0.25, 0.5), (None, None, 0.996)):
            objective = build({"name": name, **settings, "momentum": momentum}, dim=4)
            objective.begin(frozenset(), 4)
            names = dict(objective.named_parameters())
            pairs = mean_of or {
                b: "direction.mixer." + b.removeprefix("direction.mean of ").replace(" ", ".")
                for b, _ in objective.named_buffers() if ".mean of " in b
            }  # fmt: skip
            old = {buffer: objective.get_buffer(buffer).clone() for buffer in pairs}
            with torch.no_grad():
                for parameter in objective.parameters():
                    parameter.add_(1.0)
            objective.after_step(z, ObjectiveBatch.of(z, guide=z, guide_decay=decay))
            assert pairs
            for buffer, parameter in pairs.items():
                wanted_mean = share * old[buffer] + (1 - share) * names[parameter].detach()
                torch.testing.assert_close(objective.get_buffer(buffer), wanted_mean)


def test_momentum_keys_train_and_resume_exactly(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full") | {
        "objective": {"name": "moco", "size": 24, "keys": "guide"}, "guide": {"ema": 0.9},
    }  # fmt: skip
    train(given, output=tmp_path / "whole", progress=Progress())
    killed_at(5, given, tmp_path / "broken")
    train(given, output=tmp_path / "broken", resume=True, progress=Progress())
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")


def test_an_objective_that_needs_a_guide_says_so(tmp_path: Path) -> None:
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full") | {"objective": MASKED}
    with pytest.raises(RecipeError, match=r"needs guide.*add a guide section"):
        train(given, output=tmp_path / "run", progress=Progress())


def test_a_frozen_guide_keeps_its_dropout_where_it_shall_and_resumes_exactly(tmp_path: Path) -> None:
    """DCLR's complementary model; SCT's teacher and others are in evaluation mode."""
    model = common.model_config(0.3).model_dump(exclude_none=True)
    step = common.make_step(MASKED)
    batch = common.step_batch(step, common.rows(4))
    for dropout in (False, True):
        guide = Guide(GuideConfig(model=model, dropout=dropout), step.bundle.model)
        guide.encoder.double()
        first, second = (guide.embed(batch, Chunking(), step.autocast, torch.device("cpu")) for _ in range(2))
        assert torch.equal(first["anchor"], second["anchor"]) is not dropout
    with pytest.raises(ValueError, match=r"guide\.dropout is a setting of guide\.model"):
        GuideConfig(ema=0.9, dropout=True)
    write_data(tmp_path)
    given = recipe(tmp_path, "shuffled", "full") | {"objective": MASKED, "guide": {"model": model, "dropout": True}}
    train(given, output=tmp_path / "whole", progress=Progress())
    killed_at(5, given, tmp_path / "broken")
    train(given, output=tmp_path / "broken", resume=True, progress=Progress())
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")


def test_several_guides_weigh_their_cosines(processes: Any) -> None:
    """The mean of two teachers' similarities (RankCSE) by vectors side by side; gradients exact over processes."""
    first = common.model_config().model_dump(exclude_none=True)
    second = {**first, "pooling": "cls"}
    step = common.make_step(MASKED)
    guides = {"both": {"models": [first, second], "weights": [3.0, 1.0]}, "a": {"model": first}, "b": {"model": second}}
    cosines = {}
    for name, config in guides.items():
        guide = step.bundle.guide = Guide(GuideConfig(**config), step.bundle.model)
        for encoder in guide.encoders:
            encoder.double()
        batch = common.step_batch(step, common.rows(4))
        vectors = guide.embed(batch, Chunking(size=3), step.autocast, torch.device("cpu"))
        unit = {key: z / z.norm(dim=1, keepdim=True) for key, z in vectors.items()}
        cosines[name] = unit["anchor"] @ unit["positive"].T
        assert guide.training_dim == vectors["anchor"].shape[1] == (64 if name == "both" else 32)
    torch.testing.assert_close(cosines["both"], 0.75 * cosines["a"] + 0.25 * cosines["b"], atol=1e-12, rtol=0)
    assert (cosines["both"] - cosines["a"]).abs().max() > 1e-3
    wanted = _gradients(guides["both"], Chunking())
    for found in processes(2).run(_gradients, guides["both"], Chunking(size=3)):
        assert common.largest_error(found, wanted) < 1e-9


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"ema": 0.9, "models": [{"name": "a"}]}, r"give one of guide\.model, guide\.models and guide\.ema"),
        ({"models": [{"name": "a"}], "weights": [1.0, 2.0]}, r"guide\.weights has 2 entries, guide\.models 1"),
        ({"models": [{"name": "a"}], "weights": [0.0]}, r"guide\.weights are positive"),
        ({"model": {"name": "a"}, "weights": [1.0]}, r"guide\.weights has 1 entries, guide\.models 0"),
    ],
)
def test_guides_that_do_not_fit_are_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GuideConfig(**config)


def test_terms_of_patches_read_one_guide() -> None:
    guide = {"models": [{"kind": "static", "tokenizer": "builtin", "dim": 4}]}
    with pytest.raises(RecipeError, match="compares patches of one guide; give one, as guide.model"):
        build_method(load_recipe("pcd", {"guide": guide}))
