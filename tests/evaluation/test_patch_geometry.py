"""Alignment and uniformity of patches: against loops, and what cannot be scored."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import EncodedImage
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import Opening
from embedkit.evaluation.datasets.tables import Table
from embedkit.evaluation.tasks.analysis.patches import PatchSettings, PatchTask, patch_geometry
from embedkit.factory import build
from tests.helpers import dual


def encoded(count: int) -> list[EncodedImage]:
    files = []
    for picture in dual.images(count):
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append(EncodedImage(file.getvalue()))
    return files


@pytest.fixture(scope="module")
def model() -> Any:
    return build(load_recipe("simclr", smoke=True).model).eval()


@torch.no_grad()
def test_without_a_transform_views_are_equal_and_uniformity_is_that_of_all_pairs(model: Any) -> None:
    images = encoded(3)
    found = patch_geometry(model, images, PatchSettings(transform="none", batch=2))
    assert found["patch_alignment"] == pytest.approx(0.0, abs=1e-12)
    tokens = model.patch_tokens(model.prepare([image.decode() for image in images])).tokens.double()
    unit = torch.nn.functional.normalize(tokens, dim=2)
    between, within = [], []
    for i in range(3):
        for j in range(3):
            for p in range(unit.shape[1]):
                for q in range(unit.shape[1]):
                    kernel = math.exp(-2 * float((unit[i, p] - unit[j, q]).square().sum()))
                    if i != j:
                        between.append(kernel)
                    elif p != q:
                        within.append(kernel)
    assert found["patch_uniformity"] == pytest.approx(math.log(np.mean(between)), rel=1e-6)
    assert found["patch_uniformity_within"] == pytest.approx(math.log(np.mean(within)), rel=1e-6)


def test_crops_move_vectors_and_the_task_says_by_how_much(model: Any) -> None:
    cells = {"image": [{"bytes": image.content} for image in encoded(4)]}
    opening = Opening(Table(cells, [1, 2, 3, 4], "photos"), "test")
    task = PatchTask(TaskConfig(name="photos", kind="patch-geometry"), opening)
    result = task.score(Embedder(model))
    assert result.score == -result.metrics["patch_alignment"] < 0
    assert task.score(Embedder(model)).metrics == result.metrics
    with pytest.raises(UserError, match="with an image tower"):
        task.score(Embedder(model.text))
