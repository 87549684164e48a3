"""miCSE: recorded attention against transformers' own, and the alignment against a restatement with loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import View
from embedkit.methods.common.attention import Maps, alignment, default_layers
from embedkit.methods.micse import MiCSE
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training.loop.cache import Chunking
from tests.training import common

LENGTH = 24
PADDED = 50


def batch_of(size: int, rows: slice | None = None) -> ObjectiveBatch:
    z = torch.zeros(size, 2)
    return ObjectiveBatch.of({"anchor": z, "positive": z}, rows=rows or slice(0, size), step=4, seed=9)


def fixed_maps(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (5, 4, 40) of two views: zeros for dropped and padded entries, two rows with few valid ones."""
    rng = np.random.default_rng(seed)
    one, two = (rng.random((5, 4, 40)) * (rng.random((5, 4, 40)) > 0.2) for _ in range(2))
    two = 0.5 * one + 0.5 * two
    one[1, :, 8:] = 0
    two[3, 2, 8:] = 0
    return torch.from_numpy(one), torch.from_numpy(two)


def restated(one: Any, two: Any, samples: int, batch: ObjectiveBatch) -> float:
    """-mean(I) (share^2 + 1e-6) by loops; the places are those with the smallest drawn keys.

    The share is that of valid entries in the padded maps of the vectors used (the official code's mask, its sum over
    its number of elements); here maps are padded to 50 entries a vector.
    """
    count, groups, _ = one.shape
    valid = [[[p for p in range(one.shape[2]) if one[i, r, p] > 0 and two[i, r, p] > 0] for r in range(groups)]
             for i in range(count)]  # fmt: skip
    used = [(i, r) for i in range(count) for r in range(groups) if len(valid[i][r]) >= samples]
    if not used:
        used = [(i, r) for i in range(count) for r in range(groups)]
        samples = min(len(valid[i][r]) for i, r in used)
    total = 0.0
    for i, r in used:
        keys = torch.rand(one.shape[1:], generator=batch.generator("attention", i))[r]
        places = sorted(valid[i][r], key=lambda p: float(keys[p]))[:samples]
        x, y = (np.log([float(z[i, r, p]) for p in places]) for z in (one, two))
        rho = float(np.corrcoef(x, y)[0, 1])
        total += -0.5 * math.log(max(1 - rho**2, 1e-6))
    share = sum(len(valid[i][r]) for i, r in used) / (len(used) * PADDED)
    return -total / len(used) * (share**2 + 1e-6)


@pytest.mark.parametrize("samples", [2, 10, 100])
def test_alignment_is_the_formula(samples: int) -> None:
    one, two = fixed_maps()
    expected = restated(one, two, samples, batch_of(5))
    assert float(alignment(one, two, samples, batch_of(5), PADDED)) == pytest.approx(expected, rel=1e-9)
    shares = [float(alignment(one, two, samples, batch_of(5, rows), PADDED)) for rows in (slice(0, 2), slice(2, 5))]
    assert sum(shares) == pytest.approx(expected, rel=1e-9)


def test_equal_maps_have_the_most_that_is_allowed() -> None:
    one = fixed_maps()[0][:, :, :20] + 0.1
    assert float(alignment(one, one, 10, batch_of(5), 20)) == pytest.approx(0.5 * math.log(1e-6) * (1 + 1e-6))


def test_the_gradient_is_that_of_finite_differences() -> None:
    one, two = (z[:2].clone().requires_grad_() for z in fixed_maps())
    valid = (one > 0) & (two > 0)
    loss = alignment(one, two, 10, batch_of(2), PADDED)
    loss.backward()
    place = tuple(int(x) for x in (one.grad.abs() == one.grad.abs().max()).nonzero()[0])
    assert bool(valid[place])
    with torch.no_grad():
        ahead, behind = one.clone(), one.clone()
        ahead[place] += 1e-6
        behind[place] -= 1e-6
        losses = [alignment(moved, two, 10, batch_of(2), PADDED) for moved in (ahead, behind)]
        slope = (losses[0] - losses[1]) / 2e-6
    assert float(one.grad[place]) == pytest.approx(float(slope), rel=1e-4)


def test_recorded_maps_are_those_of_transformers() -> None:
    step = common.make_step("infonce", method=MiCSE(layers=[0, 1], samples=20))
    model, parts = step.bundle.model.eval(), step.bundle.parts
    texts = common.texts(6)
    output = MiCSE(layers=[0, 1]).embed(model, parts, model.prepare(texts))
    torch.testing.assert_close(output[:, :32], model(model.prepare(texts)))
    maps = output[:, 32:].unflatten(1, (2, 4, LENGTH, LENGTH))
    from transformers import AutoModel

    plain = AutoModel.from_config(model.encoder.config, attn_implementation="eager").double().eval()
    plain.load_state_dict(model.encoder.state_dict(), strict=False)
    for i, text in enumerate(texts):
        ids = model.prepare([text]).ids[None]
        expected = plain(input_ids=ids, output_attentions=True).attentions
        length = ids.shape[1]
        for layer in (0, 1):
            torch.testing.assert_close(maps[i, layer, :, :length, :length], expected[layer][0], rtol=1e-9, atol=1e-12)
        assert float(maps[i, :, :, length:].abs().sum() + maps[i, :, :, :, length:].abs().sum()) == 0


def test_layers_of_one_parity_lie_together() -> None:
    maps = Maps(dim=1, layers=[7, 8, 9, 10], longest=2)
    row = torch.cat([torch.zeros(1), *(torch.full((3 * 4,), float(layer)) for layer in (7, 8, 9, 10))])[None]
    paired = maps.paired(row)
    assert paired.shape == (1, 6, 8)  # 3 heads x 2 parities, 2 layers x 4 entries
    assert {tuple(r.tolist()) for r in paired[0]} == {(7.0,) * 4 + (9.0,) * 4, (8.0,) * 4 + (10.0,) * 4}


def test_layers_of_other_depths() -> None:
    assert default_layers(12) == [7, 8, 9, 10]
    assert default_layers(6) == [3, 4]
    assert default_layers(2) == [0, 1]
    with pytest.raises(RecipeError, match="even number"):
        MiCSE(layers=[1, 2, 3])
    with pytest.raises(ModelError, match="method.layers"):
        common.make_step("infonce", method=MiCSE(layers=[1, 2]))


def test_the_step_adds_the_weighted_alignment() -> None:
    rows = [{"anchor": text} for text in common.texts(6)]
    found = {}
    for weight in (0.0, 0.5):
        step = common.make_step("infonce", method=MiCSE(weight, [0, 1], 20), config=common.model_config(0.1))
        torch.manual_seed(1)
        found[weight] = step.gradients(common.step_batch(step, rows))
    assert float(found[0.0].terms["attention"]) == 0
    extra = float(found[0.5].terms["attention"])
    assert extra < 0
    assert float(found[0.5].loss) == pytest.approx(float(found[0.0].loss) + extra, rel=1e-9)


class Reversed(MiCSE):
    """Without dropout the views must differ in something: the order of the words."""

    def views(self, rows: Any, random: Any) -> dict[str, View]:
        made = super().views(rows, random)
        made["positive"] = replace(made["positive"], inputs=[" ".join(t.split()[::-1]) for t in made["anchor"].inputs])
        return made


@pytest.mark.parametrize("chunking", [Chunking(size=2, keep=0), Chunking(tokens=20, keep=1)], ids=str)
def test_chunks_do_not_change_the_gradient(chunking: Chunking) -> None:
    rows = [{"anchor": text} for text in common.texts(7)]
    found = []
    for cut in (Chunking(), chunking):
        step = common.make_step("infonce", cut, method=Reversed(0.5, [0, 1], 20))
        step.gradients(common.step_batch(step, rows))
        found.append(common.gradients(step))
    assert common.largest_error(found[1], found[0]) < 1e-9


def test_the_share_is_of_maps_filled_up_to_the_longest_text_of_the_batch() -> None:
    maps, method = Maps(dim=2, layers=[0, 1], longest=6), MiCSE(0.3, [0, 1], 10)
    draw = torch.Generator().manual_seed(0)
    outputs = {n: torch.rand(5, 2 + 2 * 4 * 36, generator=draw, dtype=torch.float64) for n in ("anchor", "positive")}
    lengths = {"anchor": torch.tensor([3, 4, 5, 3, 3]), "positive": torch.tensor([3, 4, 4, 3, 3])}
    batch = replace(batch_of(5), lengths=lengths)
    found = method.terms(outputs, {}, batch, torch.nn.ModuleDict({"maps": maps}))["attention"]
    one, two = (maps.paired(z) for z in outputs.values())
    assert float(found) == pytest.approx(0.3 * float(alignment(one, two, 10, batch, 5 * 5)), rel=1e-12)
