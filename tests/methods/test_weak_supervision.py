"""DiHT's concepts, SILC's crops, ZeroVL's and MobileCLIP's settings: against loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.data.images.pictures import load_picture
from embedkit.data.schema.targets import TargetFacts
from embedkit.errors import RecipeError
from embedkit.factory import build
from embedkit.methods import methods
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training import setup
from tests.helpers import image_data
from tests.methods.test_clip_views import random


def test_concepts_are_what_the_teacher_makes_of_them() -> None:
    """Two softmax classifiers by loops: the teacher's on equal shares of nouns, the student's on the teacher's."""
    method = methods["concepts"](temperature=2.0)
    method.learn_targets({"classes:nouns": TargetFacts(("cat", "dog", "sea"))})
    parts = torch.nn.ModuleDict({"student": torch.nn.Linear(4, 3)})
    method.fit_guide(parts, 6)
    parts = parts.double()
    z = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    guide = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    nouns: list[Any] = [{"classes:nouns": names} for names in (["cat"], ["dog", "sea"], [], None)]
    batch = ObjectiveBatch.of({"anchor": z}, guide={"anchor": guide}, rows=slice(1, 4))
    batch.targets = {"concepts": torch.from_numpy(method.targets(nouns)["concepts"])}
    terms = method.terms({"anchor": z}, {}, batch, parts)

    def log_softmax(values: list[float]) -> list[float]:
        total = math.log(sum(math.exp(v) for v in values))
        return [v - total for v in values]

    seen, said = parts["teacher"](guide).tolist(), parts["student"](z).tolist()
    teacher = -sum(log_softmax(seen[1])[k] / 2 for k in (1, 2)) / 2  # of the rows 0 and 1 that have one, row 1 is here
    student = 0.0
    for row in (1, 2, 3):
        p = log_softmax([v / 2.0 for v in seen[row]])
        q = log_softmax([v / 2.0 for v in said[row]])
        student -= sum(math.exp(a) * b for a, b in zip(p, q, strict=True)) / 4
    assert terms["teacher"].item() == pytest.approx(teacher, rel=1e-12)
    assert terms["concepts"].item() == pytest.approx(student, rel=1e-12)
    terms["concepts"].backward()
    assert guide.grad is None
    assert parts["teacher"].weight.grad is None  # type: ignore[union-attr]
    assert z.grad is not None
    assert z.grad[1:].abs().min() > 0
    assert z.grad[0].abs().max() == 0  # a row of another process


def test_the_running_mean_sees_the_large_crops_and_its_head_follows() -> None:
    recipe = load_recipe("silc", smoke=True)
    method: Any = setup.build_method(recipe)
    assert method.view_sizes == {16}
    assert method.guided == {"self-anchor", "self-image1"}
    model: Any = build(recipe.model, 0).double().eval()
    parts = method.parts(model).double()
    batch = [{"image": load_picture(image), "texts": [text]} for image, text in image_data.samples(4)]
    views = method.views(batch, random)
    assert {name for name, view in views.items() if view.tower == "image" and view.guided} == {"anchor", "image1"}
    prepared = {name: method.prepare(model, name, view) for name, view in views.items()}
    assert {name: inputs.size for name, inputs in prepared.items() if name.startswith("local")} == {
        "local1": (16, 16), "local2": (16, 16)
    }  # fmt: skip
    outputs = {name: model(inputs) for name, inputs in prepared.items()}
    slow = {name: torch.randn(4, model.dim, dtype=torch.float64) for name in ("anchor", "image1", "positive")}
    facts = ObjectiveBatch.of(outputs, keys={name: torch.arange(4) for name in outputs}, guide=dict(slow))
    parts["self-image"][0].weight.data.add_(0.1)  # the head moves, its mean not yet
    made = method.project(outputs, facts, parts)
    first, _, second, _, third = parts["mean-self-image"]
    assert facts.guide.keys() == {*slow, "self-anchor", "self-image1"}
    hidden = (slow["image1"] @ first.weight.T + first.bias).relu()
    hidden = (hidden @ second.weight.T + second.bias).relu()
    torch.testing.assert_close(facts.guide["self-image1"], hidden @ third.weight.T + third.bias)
    assert made["self-local2"].shape == (4, 16)
    facts = replace(facts, guide_decay=0.75)
    old = first.weight.clone()
    method.after_step({}, {}, facts, model, parts)
    torch.testing.assert_close(first.weight, 0.75 * old + 0.25 * parts["self-image"][0].weight)


def test_zerovl_has_one_temperature_and_batches_of_one_source() -> None:
    recipe = load_recipe("zerovl")
    objective = setup.build_objective(recipe, setup.build_method(recipe))
    assert not list(objective.parameters())
    z = {"anchor": torch.eye(3), "positive": torch.eye(3)}
    wanted = -math.log(math.exp(50) / (math.exp(50) + 2))
    assert objective(z, ObjectiveBatch.of(z)).loss.item() == pytest.approx(wanted, abs=1e-6)
    assert recipe.data.batches_from == "one-source"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("diht", ["guide=null"], r"auxiliary.0: 'concepts' has no teacher; add guide"),
        ("diht", ["auxiliary.0.view=positive"], r"auxiliary.concepts.view: there is no view of images 'positive'"),
        ("slip", ["method.images.image1={name: moco, teacher: true}"], r"method.images: there is no teacher"),
        ("slip", ["method.images.image1={name: moco, size: 4}"], r"images of 4 x 4 pixels are smaller than a patch"),
        ("slip", ["method.images.image1={name: moco, count: 2}"], r"method.images.image1.count: unknown"),
        ("slip", ["method.images.image1={name: moco, sise: 2}"], r"method.images.image1.sise"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_a_model_is_read(name: str, changes: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        setup.check_all(load_recipe(name, changes, smoke=True))
