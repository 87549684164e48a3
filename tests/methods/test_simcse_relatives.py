"""MACL, DCLR and SCT: losses of whole steps against restatements; what SimCSE is a special case of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe import GuideConfig
from embedkit.errors import RecipeError
from embedkit.methods.dclr import DCLR
from embedkit.methods.macl import MACL
from embedkit.methods.sct import SCT
from embedkit.methods.simcse import SimCSEUnsupervised
from embedkit.training.loop.guide import Guide
from tests.training import common

ANCHORS = [{"anchor": text} for text in common.texts(6)]


def vectors(step: Any, texts: list[str]) -> np.ndarray:
    """Unit vectors of the step's model, one text at a time."""
    rows = torch.cat([step.bundle.model(step.bundle.model.prepare([text])) for text in texts]).detach().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def loss_of(objective: Any, method: Any, rows: Any = ANCHORS, **config: Any) -> float:
    step = common.make_step(objective, method=method, config=common.model_config(0.0, **config))
    return float(step.gradients(common.step_batch(step, rows)).loss)


def test_macl_is_the_formula() -> None:
    objective = {**MACL.objective, "alpha": 0.7, "offset": 0.3}
    step = common.make_step(objective, method=MACL())
    z = vectors(step, [row["anchor"] for row in ANCHORS])
    cosine = z @ z.T
    aligned = float(np.mean(np.diag(cosine)))
    tau = 0.05 * (1 + 0.7 * (aligned - 0.3))
    total = 0.0
    for i in range(len(z)):
        logits = [cosine[i, i] / tau, *(cosine[i, j] / tau for j in range(len(z)) if j != i)]
        p = math.exp(logits[0]) / sum(math.exp(x) for x in logits)
        total += -math.log(p) / (1 - p) / len(z)
    found = step.gradients(common.step_batch(step, ANCHORS))
    assert float(found.loss) == pytest.approx(total, rel=1e-9)


def test_macl_without_its_two_ideas_is_simcse() -> None:
    plain = loss_of(SimCSEUnsupervised.objective, SimCSEUnsupervised())
    assert loss_of({**MACL.objective, "alpha": 0.0, "reweight": False}, MACL()) == pytest.approx(plain, rel=1e-12)
    assert loss_of(MACL.objective, MACL()) != pytest.approx(plain, rel=1e-3)


def test_macl_pulls_every_anchor_equally() -> None:
    """The gradient by the positive's logit is -1 an anchor."""
    from embedkit import objectives
    from embedkit.objectives.base import ObjectiveBatch

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    other = (z + 0.3 * torch.randn(5, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    objective = objectives.build({**MACL.objective, "alpha": 0.0})
    objective({"anchor": z, "positive": other}, ObjectiveBatch.of({"anchor": z, "positive": other})).loss.backward()
    unit = torch.nn.functional.normalize
    again = other.detach().clone().requires_grad_()
    logits = unit(z, dim=1) @ unit(again, dim=1).T / 0.05
    soft = logits.detach().softmax(dim=1)
    by_logit = (soft - torch.eye(5)) / (1 - soft.diagonal())[:, None] / 5
    assert by_logit.diagonal().tolist() == pytest.approx([-0.2] * 5)
    (by_logit * logits).sum().backward()
    torch.testing.assert_close(other.grad, again.grad)


@pytest.mark.parametrize("temperature", [0.05, 0.02])
def test_macl_pulls_in_fp32_where_the_positive_has_all_the_probability(temperature: float) -> None:
    """1 - p is 1e-8 and less here, below the rounding of p; the gradient by a cosine is still -1/tau an anchor."""
    from embedkit import objectives
    from embedkit.objectives.base import ObjectiveBatch

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        z = torch.eye(6, 8, dtype=torch.float64) + 0.05 * torch.randn(6, 8, generator=generator, dtype=torch.float64)
        other = (z + 0.01 * torch.randn(6, 8, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        views = {"anchor": z.to(dtype), "positive": other}
        objective = objectives.build({**MACL.objective, "alpha": 0.0, "temperature": temperature})
        loss = objective(views, ObjectiveBatch.of(views)).loss
        assert float(loss.detach()) == pytest.approx(1.0, abs=1e-6)
        loss.backward()
        assert other.grad is not None
        return other.grad.double()

    exact = gradient(torch.float64)
    assert float(exact.norm()) > 0.1
    assert float((gradient(torch.float32) - exact).norm() / exact.norm()) < 1e-4


def test_dclr_takes_its_fidelity() -> None:
    assert DCLR().objective["fidelity"] == "code"
    assert DCLR("paper").objective["fidelity"] == "paper"
    with pytest.raises(RecipeError, match="'code' or 'paper'"):
        DCLR("both")


def test_dclr_without_noise_and_guide_has_simcse_logits() -> None:
    """Code form: binary cross-entropies of SimCSE's softmax."""
    step = common.make_step({**DCLR().objective, "noise": 0, "phi": 2.0}, method=DCLR())
    z = vectors(step, [row["anchor"] for row in ANCHORS])
    logits = z @ z.T / 0.05
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    cells = [-math.log(p[i, j]) if i == j else -math.log1p(-p[i, j]) for i in range(6) for j in range(6)]
    found = step.gradients(common.step_batch(step, ANCHORS))
    assert float(found.loss) == pytest.approx(sum(cells) / 36, rel=1e-9)


def test_sct_projects_the_online_side_only() -> None:
    rows = [{"anchor": a, "positive": b} for a, b in zip(common.texts(5), common.texts(5, 1), strict=True)]
    objective = {"name": "sct", "size": 4, "reference_temperature": 0.2, "online_temperature": 0.3}
    step = common.make_step(objective, method=SCT(projector=2, expansion=3))
    step.bundle.guide = Guide(GuideConfig(ema=0.0), step.bundle.model)
    found = step.gradients(common.step_batch(step, rows))
    raw = {name: vectors(step, [row[name] for row in rows]) for name in ("anchor", "positive")}
    layers = [layer for layer in step.bundle.parts["projector"] if hasattr(layer, "weight")]
    assert [tuple(layer.weight.shape) for layer in layers] == [(96, 32), (32, 96)] * 2

    def projected(texts: list[str]) -> np.ndarray:
        x = torch.cat([step.bundle.model(step.bundle.model.prepare([text])) for text in texts]).detach().numpy()
        for i, layer in enumerate(layers):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            x = np.maximum(x, 0) if i % 2 == 0 else x
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    online = {name: projected([row[name] for row in rows]) for name in ("anchor", "positive")}
    total = 0.0
    for view, (own, other) in enumerate((("anchor", "positive"), ("positive", "anchor"))):
        bank = np.concatenate([step.bundle.objective.queue[view].numpy(), raw[own]])
        for i in range(5):
            target, learnt = (np.exp(v @ bank.T / t) for v, t in ((raw[own][i], 0.2), (online[other][i], 0.3)))
            target, learnt = target / target.sum(), learnt / learnt.sum()
            total += float((target * np.log(target / learnt)).sum()) / 5
    assert float(found.loss) == pytest.approx(total, rel=1e-6)  # the queue starts in float32
    step.after_update()
    kept = step.bundle.objective.queue[1].numpy()
    expected = raw["positive"][-4:]
    assert any(np.allclose(kept, np.roll(expected, shift, axis=0)) for shift in range(4))


def test_sct_for_distillation_has_no_projector() -> None:
    step = common.make_step("infonce", method=SCT(projector=0))
    assert list(step.bundle.parts.parameters()) == []
    for bad in ({"projector": -1}, {"expansion": 0}, {"fidelity": "x"}):
        with pytest.raises(RecipeError):
            SCT(**bad)
