"""LoRot: which quarter is turned and how far, by pixels; its loss by hand; heads on changed images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import RecipeError
from embedkit.methods import methods
from embedkit.training import setup
from embedkit.training.loop.cache import Chunking
from tests.methods import toys
from tests.methods.matrix import gradients
from tests.methods.test_image_methods import _rows
from tests.methods.test_matrix import same


def test_one_quarter_is_turned_by_the_case_that_is_told() -> None:
    """The pixels of each view against those of the same view without a turn, quarter by quarter."""
    method = methods["lorot"]()
    views = method.views(_rows(12), lambda row: np.random.Generator(np.random.Philox(key=[row, 3])))
    plain = methods["simclr"]("weak").views(_rows(12), lambda row: np.random.Generator(np.random.Philox(key=[row, 3])))
    cases = views["anchor"].places[:, 0].tolist()  # type: ignore[index]
    assert len(set(cases)) > 4 and set(cases) <= set(range(16))
    for turned, whole, case in zip(views["anchor"].inputs, plain["anchor"].inputs, cases, strict=True):
        found, before = turned.render((32, 32)), whole.render((32, 32))
        for quarter in range(4):
            down, across = 16 * (quarter // 2), 16 * (quarter % 2)
            part = before[:, down : down + 16, across : across + 16]
            wanted = np.rot90(part, case % 4, (1, 2)) if quarter == case // 4 else part
            assert np.array_equal(found[:, down : down + 16, across : across + 16], wanted)


def test_the_loss_is_a_process_share_of_the_mean_by_hand() -> None:
    method = methods["lorot"]()
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = torch.nn.ModuleDict({"turn": torch.nn.Linear(4, 16).double()})
    cases = [3, 15, 0, 7, 7, 12]
    batch = toys.batch({"anchor": z}, 6, slice(2, 5), places={"anchor": torch.tensor(cases)[:, None]})
    logits = (z @ parts["turn"].weight.T + parts["turn"].bias).tolist()  # type: ignore[operator]
    wanted = sum(math.log(sum(map(math.exp, logits[i]))) - logits[i][cases[i]] for i in (2, 3, 4)) / 6
    assert float(method.terms({"anchor": z}, {}, batch, parts)["turn"].detach()) == pytest.approx(wanted, rel=1e-12)


def case(**more: Any) -> dict[str, Any]:
    whole = load_recipe("lorot", smoke=True).model_dump(mode="json", exclude_defaults=True)
    kept = {key: whole[key] for key in ("model", "data", "method", "auxiliary")}
    return {"name": "lorot", "seed": 3, **kept, **more, "train": {"batch_size": 12, "max_steps": 2, "lr": 1e-3}}


def test_beside_a_classifier_and_beside_a_contrast_chunks_and_processes_change_nothing(processes: Any) -> None:
    simclr = {"name": "simclr", "transform": "small", "hidden": 24, "size": 8}
    images = {"train": [{"path": "builtin:shapes-train", "limit": 64, "columns": {"image": "image"}}]}
    for given in (case(), case(method=simclr, data=images)):
        wanted = gradients(given)
        same(gradients(given, Chunking(size=5, keep=1)), wanted)
        results = processes(2).run(gradients, given, Chunking(size=4, keep=0))
        for _, found in results:
            same((sum(share for share, _ in results), found), wanted)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["method.transform=none"], r"auxiliary\.lorot: there is no view 'anchor' of cropped images here"),
        (["auxiliary.0.view=positive"], "there is no view 'positive'"),
        (["method={name: lorot, transform: none}", "auxiliary=[]"], "has no crop, so that nothing can be turned"),
        (["method={name: heads, transform: weak}", "auxiliary=[]"], "changes images, and texts are read"),
    ],
)
def test_what_cannot_be_turned_is_told_before_the_model_loads(changes: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        setup.check_all(load_recipe("lorot", changes, smoke=True))
