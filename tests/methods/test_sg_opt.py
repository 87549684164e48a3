"""SG-OPT: every ingredient against a plain restatement with transformers' own outputs, one text at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from embedkit.methods.sg_opt import SelfGuided
from embedkit.training.loop.cache import Chunking
from tests.training import common

CLS = {"pooling": "cls"}


def made(chunking: Chunking | None = None, **settings: Any) -> Any:
    """A step whose trained model has moved off its copy."""
    method = SelfGuided(hidden=24, **settings)
    model_config = common.model_config(0.0, **CLS)
    step = common.make_step({"name": "sg-opt", "temperature": 0.2}, chunking, method=method, config=model_config)
    method.adapt(step.bundle.model)
    moved = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in step.bundle.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=moved, dtype=parameter.dtype)
    return step


def hidden_states(encoder: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """All layers (L + 1) of one text, each (T, H)."""
    output = encoder(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], output_hidden_states=True)
    return [state[0] for state in output.hidden_states]


@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_the_loss_is_the_formula(fidelity: str) -> None:
    step = made(fidelity=fidelity, regulariser=0.3)
    rows = [{"anchor": text} for text in common.texts(5)]
    result = step.gradients(common.step_batch(step, rows))
    model, parts = step.bundle.model, step.bundle.parts
    first, second = parts["head"][0], parts["head"][2]

    def head(x: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(x @ first.weight.T + first.bias)
        return F.gelu(inner @ second.weight.T + second.bias)

    anchors, layers = [], []
    for row in rows:
        ids = model.prepare([row["anchor"]]).ids
        anchors.append(head(hidden_states(model.encoder, ids)[-1][0]))
        states = hidden_states(parts["copy"].encoder, ids)
        layers.append([head(s.mean(0) if fidelity == "code" else s.max(0).values) for s in states])
    assert len(layers[0]) == 3  # the embedding layer and both others
    total = 0.0
    for i, c in enumerate(anchors):
        phi = [[math.exp(float(F.cosine_similarity(c, h, dim=0)) / 0.2) for h in row] for row in layers]
        negatives = sum(sum(row) for m, row in enumerate(phi) if m != i)
        total += sum(-math.log(own / (own + negatives)) for own in phi[i]) / (5 * 3)
    start = dict(parts["copy"].encoder.named_parameters())
    moved = sum(float((p - start[n]).square().sum()) for n, p in model.encoder.named_parameters())
    assert moved > 0.1
    assert float(result.terms["regulariser"]) == pytest.approx(0.3 * moved, rel=1e-9)
    assert float(result.loss) == pytest.approx(total + 0.3 * moved, rel=1e-9)


def test_what_is_frozen_gets_no_gradient() -> None:
    step = made()
    step.gradients(common.step_batch(step, [{"anchor": text} for text in common.texts(4)]))
    found = {name: p.grad for name, p in step.bundle.named_parameters()}
    assert all(grad is None for name, grad in found.items() if ".embeddings." in name or "copy" in name)
    assert float(found["model.encoder.encoder.layer.0.output.dense.weight"].abs().sum()) > 0
    assert float(found["parts.head.0.weight"].abs().sum()) > 0


@pytest.mark.parametrize("chunking", [Chunking(size=1, keep=0), Chunking(size=3), Chunking(tokens=16)], ids=str)
def test_chunks_do_not_change_the_gradient(chunking: Chunking) -> None:
    """The regulariser, which comes in pieces, too."""
    found = []
    for cut in (Chunking(), chunking):
        step = made(cut)
        step.gradients(common.step_batch(step, [{"anchor": text} for text in common.texts(7)]))
        found.append(common.gradients(step))
    assert common.largest_error(found[1], found[0]) < 1e-9
