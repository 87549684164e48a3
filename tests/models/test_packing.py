"""Packed and bucketed runs give what transformers gives on a padded batch, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedkit.models.execution.packing import PACKABLE
from embedkit.models.execution.plan import Plan
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.poolers import poolers
from tests.helpers import tiny


def padded_states(model, inputs: Inputs) -> list[torch.Tensor]:
    """Hidden states of the last layer per sequence, by a plain forward of a freshly padded batch."""
    rows = inputs.rows()
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return [hidden[i, : len(row)] for i, row in enumerate(rows)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equal_to_padded(family: str) -> None:
    model = tiny.text_encoder(family)
    inputs = model.prepare(tiny.SENTENCES)
    with torch.no_grad():
        expected = torch.stack([states.mean(0) for states in padded_states(model, inputs)])
        for way in ("auto", "buckets", "padded"):
            torch.testing.assert_close(model(inputs, packing=way), expected, atol=1e-5, rtol=1e-4)
    assert model.way() == ("packed" if family in PACKABLE else "buckets")
    assert expected.std(0).mean() > 0.01  # the sentences differ, so that equality means something


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_company_does_not_matter(family: str) -> None:
    model = tiny.text_encoder(family)
    with torch.no_grad():
        alone = torch.cat([model(model.prepare([text])) for text in tiny.SENTENCES])
        together = model(model.prepare(tiny.SENTENCES))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_equal_padded(family: str) -> None:
    model = tiny.text_encoder(family).double()
    inputs = model.prepare(tiny.SENTENCES)
    weights = torch.randn(len(inputs), model.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradients(way: str) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (model(inputs, packing=way) * weights).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected, found = gradients("padded"), gradients("auto")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "mpnet", "roberta"])
def test_two_copies_draw_different_masks(family: str) -> None:
    model = tiny.text_encoder(family, dropout=0.2).train()
    inputs = model.prepare(["a man is playing guitar"] * 2 + ["the dog"])
    with torch.no_grad():
        torch.manual_seed(3)
        first = model(inputs)
        torch.manual_seed(3)
        again = model(inputs)
    assert torch.equal(first, again)
    assert (first[0] - first[1]).abs().max() > 1e-3


def test_attention_dropout_alone_changes_the_vectors() -> None:
    model = tiny.text_encoder("bert").train()
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.encoder.encoder.layer:
        layer.attention.self.dropout.p = 0.3
    out = model(model.prepare(["a man is playing guitar"] * 2))
    assert (out[0] - out[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "t5", "modernbert"])
def test_gradient_checkpointing_keeps_the_plan(family: str) -> None:
    model = tiny.text_encoder(family, dropout=0.1).train()
    inputs = model.prepare(tiny.SENTENCES)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        torch.manual_seed(5)
        out = model(inputs)
        out.square().sum().backward()
        return out.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = run()
    model.encoder.gradient_checkpointing_enable()
    found = run()
    assert torch.equal(found[0], expected[0])
    assert len(found[1]) == len(expected[1])
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_plan_by_hand() -> None:
    plan = Plan.of(np.array([3, 1, 3, 2]))
    assert plan.order.tolist() == [1, 3, 0, 2]
    assert plan.starts.tolist() == [0, 1, 3, 6]
    assert [(g.start, g.count, g.length) for g in plan.groups] == [(0, 1, 1), (1, 1, 2), (3, 2, 3)]
    assert plan.places().tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert plan.inverse().tolist() == [2, 0, 3, 1]
    assert (plan.tokens, plan.longest) == (9, 3)


@pytest.mark.parametrize("family", ["albert", "distilbert", "modernbert", "mpnet", "t5"])
def test_first_last_in_other_families(family: str) -> None:
    model = tiny.text_encoder(family, pooling="first-last")
    inputs = model.prepare(tiny.SENTENCES)
    expected = []
    with torch.no_grad():
        for row in inputs.rows():
            output = model.encoder(input_ids=torch.tensor([row]), output_hidden_states=True)
            expected.append(((output.hidden_states[1] + output.last_hidden_state) / 2)[0].mean(0))
        torch.testing.assert_close(model(inputs), torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", list(poolers))
def test_poolers_against_naive(name: str) -> None:
    template = 'this sentence : "{}" means [MASK] .'
    prompts = {"t": template} if name == "mask" else {}
    model = tiny.text_encoder("bert", pooling=name, prompts=prompts, default_prompt="t" if prompts else None)
    inputs = model.prepare(tiny.SENTENCES)
    expected = []
    with torch.no_grad():
        for row in inputs.rows():
            output = model.encoder(input_ids=torch.tensor([row]), output_hidden_states=True)
            first, second, last = output.hidden_states[0][0], output.hidden_states[1][0], output.last_hidden_state[0]
            naive = {
                "cls": last[0], "mean": last.mean(0), "max": last.max(0).values, "last-token": last[-1],
                "mean-sqrt-len": last.sum(0) / len(last) ** 0.5,
                "weighted-mean": sum((i + 1) * x for i, x in enumerate(last)) / sum(range(1, len(last) + 1)),
                "mask": last[row.index(4)] if 4 in row else None,
                "first-last": (second.mean(0) + last.mean(0)) / 2,
                "embedding-last": (first.mean(0) + last.mean(0)) / 2,
                "last-two": (output.hidden_states[-2][0].mean(0) + last.mean(0)) / 2,
            }  # fmt: skip
            expected.append(naive[name])
        torch.testing.assert_close(model(inputs), torch.stack(expected), atol=1e-5, rtol=1e-4)
