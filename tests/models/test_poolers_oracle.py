"""Poolers against loops over single texts, for every length, every architecture's way, every type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, UserError
from embedkit.models.execution.plan import Plan
from embedkit.models.modules.poolers import TokenStates, poolers
from tests.helpers import tiny

ORACLES: dict[str, Callable[[dict[int, torch.Tensor], int], torch.Tensor]] = {
    "cls": lambda layers, mark: layers[-1][0],
    "mean": lambda layers, mark: layers[-1].mean(0),
    "max": lambda layers, mark: layers[-1].max(0).values,
    "last-token": lambda layers, mark: layers[-1][-1],
    "mean-sqrt-len": lambda layers, mark: layers[-1].sum(0) / len(layers[-1]) ** 0.5,
    "weighted-mean": lambda layers, mark: (
        sum((i + 1) * row for i, row in enumerate(layers[-1])) / sum(range(1, len(layers[-1]) + 1))
    ),
    "mask": lambda layers, mark: layers[-1][mark],
    "first-last": lambda layers, mark: ((layers[1] + layers[-1]) / 2).mean(0),
    "embedding-last": lambda layers, mark: ((layers[0] + layers[-1]) / 2).mean(0),
    "last-two": lambda layers, mark: ((layers[-2] + layers[-1]) / 2).mean(0),
}
"""The vector of one text from its token vectors (l, H) by layer, and the place of its mark."""


def states(lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[TokenStates, list[dict[int, torch.Tensor]]]:
    """Random token vectors in the order of a plan, and those of each place alone."""
    plan = Plan.of(np.array(lengths))
    generator = torch.Generator().manual_seed(sum(lengths))
    layers = {
        layer: torch.randn(plan.tokens, 6, generator=generator, dtype=torch.float64).to(dtype)
        for layer in (0, 1, -2, -1)
    }
    marks = torch.tensor([int(length) // 2 for length in plan.lengths])
    ends = zip(plan.starts, plan.starts + plan.lengths, strict=True)
    single = [{layer: hidden[start:stop] for layer, hidden in layers.items()} for start, stop in ends]
    return TokenStates(layers, plan, marks), single


def test_every_pooler_has_an_oracle() -> None:
    assert set(ORACLES) == set(poolers)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [2, 1], [5, 3, 9, 3, 1], [7] * 4, list(range(1, 40)), [300, 1, 2]])
def test_a_pooler_equals_a_loop_over_texts(name: str, lengths: list[int]) -> None:
    packed, single = states(lengths)
    pooled = poolers[name].pool(packed)
    assert packed.marks is not None
    wanted = [ORACLES[name](layers, int(mark)) for layers, mark in zip(single, packed.marks, strict=True)]
    torch.testing.assert_close(pooled, torch.stack(wanted), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ORACLES)
def test_a_pooler_reads_the_layers_that_it_names(name: str) -> None:
    packed, _ = states([4, 2])
    few = TokenStates({layer: packed.layers[layer] for layer in poolers[name].layers}, packed.plan, packed.marks)
    torch.testing.assert_close(poolers[name].pool(few), poolers[name].pool(packed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_of_half_precision_are_summed_in_single(dtype: torch.dtype) -> None:
    packed, single = states([2000], dtype)
    packed.layers[-1].fill_(1.0)[0] = 200.0  # in half precision the sum would lose the ones
    wanted = single[0][-1].double().mean(0)
    torch.testing.assert_close(poolers["mean"].pool(packed).double(), wanted[None], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("name", ["mean", "max", "first-last"])
def test_gradients_of_a_pooler_are_those_of_the_loop(name: str) -> None:
    packed, _ = states([5, 3, 9, 3])
    leaves = {layer: hidden.clone().requires_grad_() for layer, hidden in packed.layers.items()}
    weights = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    used = [leaves[layer] for layer in poolers[name].layers]
    ours = torch.autograd.grad((poolers[name].pool(TokenStates(leaves, packed.plan)) * weights).sum(), used)
    rows = []
    for start, length in zip(packed.plan.starts, packed.plan.lengths, strict=True):
        rows.append(ORACLES[name]({layer: x[start : start + length] for layer, x in leaves.items()}, 0))
    wanted = torch.autograd.grad((torch.stack(rows) * weights).sum(), used)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_mask_pooling_without_a_template_says_what_to_set() -> None:
    packed, _ = states([3])
    with pytest.raises(UserError, match="needs a template that holds the mask token; set model.prompts"):
        poolers["mask"].pool(TokenStates(packed.layers, packed.plan))


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "mpnet"])
@pytest.mark.parametrize("name", [name for name in ORACLES if name != "mask"])
def test_a_models_pooling_is_that_of_transformers_one_text_at_a_time(family: str, name: str) -> None:
    model = tiny.text_encoder(family, pooling=name)
    inputs = model.prepare(tiny.SENTENCES)
    with torch.no_grad():
        pooled = model(inputs)
        for place, row in enumerate(inputs.rows()):
            output = model.encoder(input_ids=torch.tensor([row]), output_hidden_states=True)
            hidden = [layer[0] for layer in output.hidden_states]
            layers = {0: hidden[0], 1: hidden[1], -2: hidden[-2], -1: output.last_hidden_state[0]}
            torch.testing.assert_close(pooled[place], ORACLES[name](layers, 0), atol=1e-5, rtol=1e-4)


def test_the_setter_checks_as_the_constructor_does() -> None:
    model = tiny.text_encoder()
    for wrong in ("means", "middle", ""):
        with pytest.raises(ModelError, match=f"unknown pooler '{wrong}'"):
            model.pooling = wrong
        with pytest.raises(ModelError, match=f"unknown pooler '{wrong}'"):
            tiny.text_encoder(pooling=wrong)
    assert model.pooling == "mean"
    model.pooling = "max"
    inputs = model.prepare(["the dog"])
    with torch.no_grad():
        torch.testing.assert_close(model(inputs)[0], model.token_states(inputs).last.max(0).values)
