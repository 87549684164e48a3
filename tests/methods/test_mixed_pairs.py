"""Mixed pairs: pixels, boxes and texts by the coin of a step, the loss of both captions, exact however it is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import RecipeError
from embedkit.methods import methods
from embedkit.objectives import ObjectiveBatch, build
from embedkit.objectives.compose.mixed_pairs import evaluated
from embedkit.training.loop.cache import Chunking
from embedkit.views.mixing import Mix, partners
from tests.methods.matrix import gradients
from tests.methods.test_image_methods import DUAL, _rows
from tests.training import common


def _clip(images: np.ndarray, texts: np.ndarray, other: np.ndarray, share: float) -> float:
    """ZeroVL's loss with loops: both directions, a row's own text by its share, its partner's by the rest."""
    z = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    total = 0.0
    for a, c in ((z[0], z[1]), (z[1], z[0])):
        for i in range(len(a)):
            scores = [float(a[i] @ c[j]) / 0.02 for j in range(len(c))]
            top = max(scores)
            norm = top + np.log(sum(np.exp(s - top) for s in scores))
            total += share * (norm - scores[i]) + (1 - share) * (norm - scores[other[i]])
    return total / (2 * len(images))


def test_the_loss_is_that_of_both_captions_by_their_shares() -> None:
    draw = np.random.default_rng(0)
    images, texts = draw.normal(size=(6, 5)), draw.normal(size=(6, 5))
    other = np.arange(6) + partners(6)[:, 0]
    z = {"anchor": torch.from_numpy(images), "positive": torch.from_numpy(texts)}
    batch = ObjectiveBatch.of(z, mix=(torch.from_numpy(other), 0.7))
    found = evaluated(build({"name": "clip", "scale": "fixed", "temperature": 0.02}).double(), z, batch)
    assert float(found.loss) == pytest.approx(_clip(images, texts, other, 0.7), rel=1e-10)


def test_pixels_and_boxes_have_the_share_that_counts() -> None:
    black, white = np.zeros((3, 20, 30), np.uint8), np.full((3, 20, 30), 255, np.uint8)
    assert int(Mix(0.8, False).pixels(black, white)[0, 0, 0]) == 51
    for middle in ((0.5, 0.5), (0.0, 1.0), (0.9, 0.2)):
        mix = Mix(0.75, False, middle)
        pasted = mix.pixels(black, white)
        assert pasted.mean() / 255 == pytest.approx(1 - mix.share_of((20, 30)))
    assert Mix(0.75, False, (0.5, 0.5)).share_of((20, 30)) == pytest.approx(0.75, abs=0.02)
    draws = [Mix.drawn(np.random.default_rng(n), 0.5, 0.0, 0.5) for n in range(2000)]
    shares = np.array([mix.share for mix in draws])
    assert shares.mean() == pytest.approx(0.5, abs=0.03) and shares.var() == pytest.approx(1 / 8, abs=0.01)
    assert np.mean([mix.texts for mix in draws]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("texts", [0.0, 1.0])
def test_a_step_mixes_images_or_texts_with_the_neighbour(texts: float) -> None:
    method: Any = methods["clip"](mixup=1.0, mix_texts=texts)
    step = common.make_step({"name": "clip"}, None, method=method, config=DUAL)
    method.adapt(step.bundle.model)
    batch = common.step_batch(step, _rows(6))
    mix = Mix.drawn(ObjectiveBatch.of({"anchor": torch.eye(1)}, seed=1).random("mixed pairs"), 1.0, 0.0, texts)
    anchor = batch.views["anchor"].inputs
    assert all((item.mix == mix) is (texts == 0.0) for item in anchor)
    step.gradients(batch)
    partner, share = step.latest.batch.mix  # type: ignore[union-attr,misc]
    assert (partner.tolist(), share) == ([1, 0, 3, 2, 5, 4], mix.share)
    own = step.latest.outputs["positive"]  # type: ignore[union-attr]
    wanted = share * own + (1 - share) * own[partner] if texts else own
    torch.testing.assert_close(step.latest.embeddings["positive"], wanted)  # type: ignore[union-attr]


def _recipe() -> dict[str, Any]:
    overrides = ["method={name: clip, mixup: 1.0, cutmix: 0.5}", "train.batch_size=8"]
    recipe = load_recipe("clip-small", overrides, smoke=True).model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in recipe.items() if key != "smoke"}


def test_chunks_and_processes_change_nothing(processes: Any) -> None:
    loss, wanted = gradients(_recipe())
    found = [gradients(_recipe(), Chunking(size=3, keep=1))]
    shares = processes(2).run(gradients, _recipe(), Chunking(size=3, keep=0))
    found.append((sum(share for share, _ in shares), shares[0][1]))
    for value, own in found:
        assert value == pytest.approx(loss, rel=1e-9)
        assert common.largest_error({n: g for n, g in own.items() if float(wanted[n].norm()) > 1e-6},
                                    {n: g for n, g in wanted.items() if float(g.norm()) > 1e-6}) < 1e-8  # fmt: skip


@pytest.mark.parametrize("settings", [{"captions": 2}, {"transform": "none"}])
def test_what_cannot_be_mixed_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="cannot be mixed"):
        methods["clip"](mixup=0.1, **settings)
