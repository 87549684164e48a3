"""Texts of what differs between two images: what is compared, what is drawn, and that it is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.data.builtin import shapes
from embedkit.data.images.pictures import load_picture
from embedkit.methods import methods
from embedkit.objectives.base import ObjectiveBatch
from tests.methods.test_clip_views import random
from tests.training import runs


def test_the_anchor_is_the_step_between_unit_vectors() -> None:
    z = {name: torch.randn(4, 3, dtype=torch.float64) for name in ("image", "image2", "positive")}
    keys = {"image": torch.tensor([0, 0, 1, 2]), "image2": torch.tensor([1, 3, 0, 1]), "positive": torch.arange(4)}
    batch = ObjectiveBatch.of(z, keys=keys)
    made = methods["image-difference"]().project(z, batch, torch.nn.ModuleDict())
    for row in range(4):
        wanted = z["image2"][row] / z["image2"][row].norm() - z["image"][row] / z["image"][row].norm()
        torch.testing.assert_close(made["anchor"][row], wanted)
    assert set(made) == {"anchor", "positive"}
    assert len(batch.keys["anchor"].unique()) == 4  # the way back is another pair
    assert torch.equal(batch.owner["anchor"], batch.owner["image"])


def test_both_images_of_a_row_are_changed_alike() -> None:
    method: Any = methods["image-difference"](transform={"name": "clip", "crop": [0.3, 0.6]}, captions=2)
    image = shapes.draw((0, 0, 1, 0, 0))
    rows = [{"image": load_picture(image), "image2": load_picture(image), "texts": [f"{i}", "b"]} for i in range(4)]
    views = method.views(rows, random)
    assert views["positive"].owner == [0, 0, 1, 1, 2, 2, 3, 3]
    shown = [[one.render((16, 16)) for one in views[role].inputs] for role in ("image", "image2")]
    assert all(np.array_equal(a, b) for a, b in zip(*shown, strict=True))
    assert not all(np.array_equal(shown[0][0], other) for other in shown[0][1:])


def test_what_differs_is_found_in_pairs_that_were_not_seen(tmp_path: Path) -> None:
    """Which of two texts fits the step: the one there, or the way back."""
    changes = ["train.max_steps=60", "train.lr=3e-3", "data.train.0.limit=1000", "train.batch_size=32", "train.l2sp=0",
               "train.wise_ft=null"]  # fmt: skip
    runs.run(
        tmp_path, load_recipe("image-difference", changes, smoke=True).model_dump(mode="json", exclude_defaults=True)
    )
    model = embedkit.load(tmp_path / "model", device="cpu")
    colours = list(shapes.COLOURS)
    right = 0
    pairs = [(a, b) for a in range(len(colours)) for b in range(len(colours)) if a != b]
    for a, b in pairs:
        before, after = (shapes.draw((colour, 2, 1, 0, 0)) for colour in (a, b))
        step = np.subtract(*model.encode([after, before]))
        texts = model.encode([f"the diamond is {colours[j]}, it was {colours[i]}" for i, j in ((a, b), (b, a))])
        right += int((texts @ step).argmax() == 0)
    assert right > 0.9 * len(pairs), right
