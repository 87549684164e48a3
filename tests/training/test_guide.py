"""Guides: a running mean that follows the model, a frozen encoder with its own tokenizer; exact over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.config.recipe import GuideConfig
from embedkit.errors import RecipeError
from embedkit.training import train
from embedkit.training.loop.cache import Chunking
from embedkit.training.loop.guide import Guide
from embedkit.training.monitor.log import Progress
from tests.training import common
from tests.training.test_resume import final_state, killed_at, recipe, write_data

MASKED = {"name": "infonce", "temperature": 0.05, "guide_margin": 0.0}


def _gradients(guide: dict[str, Any], chunking: Chunking) -> dict[str, torch.Tensor]:
    step = common.make_step(MASKED, chunking)
    step.bundle.guide = Guide(GuideConfig(**guide), step.bundle.model).double()
    step.bundle.guide.encoder.double()
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
