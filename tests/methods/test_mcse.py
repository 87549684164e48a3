"""MCSE: text loss, grounding loss and their shares against a restatement; batches with and without images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit.errors import DataError
from embedkit.methods.mcse import MCSE
from embedkit.training.loop.cache import Chunking
from tests.training import common

SIZE = 7
HEAD = {"pooling": "cls", "head": {"kind": "tanh", "train_only": True}}


def rows_of(count: int, pictured: set[int]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    return [
        {"anchor": text, "features": rng.normal(size=SIZE).tolist() if i in pictured else None}
        for i, text in enumerate(common.texts(count))
    ]


def made(chunking: Chunking | None = None, **settings: Any) -> Any:
    method = MCSE(**{"size": SIZE, "shared": 5, "weight": 0.5, **settings})
    step = common.make_step("infonce", chunking, method=method, config=common.model_config(0.0, **HEAD))
    with torch.no_grad():
        for parameter in step.bundle.parts.parameters():
            parameter *= 20  # away from the origin, where tanh is no tanh
    return step


@pytest.mark.parametrize("pictured", [{0, 1, 2, 3, 4, 5}, {1, 4}, set()], ids=["all", "some", "none"])
@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_the_loss_is_the_formula(pictured: set[int], fidelity: str) -> None:
    step, rows = made(fidelity=fidelity), rows_of(6, pictured)
    result = step.gradients(common.step_batch(step, rows))
    model, parts = step.bundle.model, step.bundle.parts
    raw = torch.stack([model.encoder(input_ids=model.prepare([r["anchor"]]).ids[None]).last_hidden_state[0, 0]
                       for r in rows])  # fmt: skip
    z = F.normalize(model.dense[0](raw), dim=1)
    text = F.cross_entropy(z @ z.T / 0.05, torch.arange(6))  # without dropout both views are equal
    grounding = torch.zeros(())
    if pictured:
        own = sorted(pictured)
        images = torch.tensor([rows[i]["features"] for i in own], dtype=torch.float64).float().double()
        v = [torch.tanh(parts["image"].weight @ x + parts["image"].bias) for x in images]
        t = [torch.tanh(parts["text"].weight @ raw[i] + parts["text"].bias) for i in own]
        one = 0.0
        for i, a in enumerate(t):
            logits = [float(F.cosine_similarity(a, b, dim=0)) / 0.05 for b in v]
            one += (math.log(sum(math.exp(x - logits[i]) for x in logits))) / len(own)
        grounding = torch.tensor(0.5 * one * (1 if fidelity == "code" else 2))
    assert float(result.loss) == pytest.approx(float(text + grounding), rel=1e-6)
    assert ("grounding" in result.terms) is bool(pictured)
    used = parts["image"].weight.grad is not None and float(parts["image"].weight.grad.abs().sum()) > 0
    assert used is (len(pictured) > 1)


@pytest.mark.parametrize("chunking", [Chunking(size=1, keep=0), Chunking(tokens=12, keep=1)], ids=str)
def test_chunks_do_not_change_the_gradient(chunking: Chunking) -> None:
    found = []
    for cut in (Chunking(), chunking):
        step = made(cut)
        step.gradients(common.step_batch(step, rows_of(7, {0, 3, 4})))
        found.append(common.gradients(step))
    assert common.largest_error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("pictured", [{0, 1, 2}, {5, 6}, {1, 3, 5}, set()], ids=str)
def test_processes_do_not_change_the_gradient(processes: Any, pictured: set[int]) -> None:
    """One process may have no image, or none may."""
    loss, wanted = _one(pictured)
    results = processes(2).run(_one, pictured)
    assert sum(share for share, _ in results) == pytest.approx(loss, rel=1e-12)
    for _, found in results:
        assert common.largest_error(found, wanted) < 1e-9


def _one(pictured: set[int]) -> tuple[float, dict[str, torch.Tensor]]:
    step = made(Chunking(size=3, keep=1))
    result = step.gradients(common.step_batch(step, rows_of(7, pictured)))
    return float(result.loss), common.gradients(step)


def test_wrong_features_are_named() -> None:
    step, rows = made(), rows_of(4, {0, 1})
    rows[1]["features"] = [1.0, 2.0]
    with pytest.raises(DataError, match="2 features"):
        common.step_batch(step, rows)
    with pytest.raises(DataError, match="no source"):
        common.step_batch(step, [{"anchor": text} for text in common.texts(4)])
