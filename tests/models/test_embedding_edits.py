"""Edits of an encoder's embedding layer: how much is cut, where, from which draws, and that it reaches the vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.models.augment.embedding_augmentation import chain, edits, shuffled
from embedkit.models.inputs.inputs import Inputs
from tests.helpers import tiny

WIDTH = 8
LENGTHS = [1, 4, 10, 7]
TEXTS = [text for text in tiny.SENTENCES if text]


def seeded(inputs: Inputs, first: int = 1) -> Inputs:
    return inputs.replace(seeds=np.arange(first, first + len(inputs), dtype=np.uint64))


@pytest.fixture
def inputs() -> Inputs:
    return seeded(Inputs.of([[2] * length for length in LENGTHS]))


def ones(inputs: Inputs) -> Tensor:
    return torch.ones(inputs.tokens, WIDTH, dtype=torch.float64)


def parts(values: Tensor, inputs: Inputs) -> list[np.ndarray]:
    """The values of each text."""
    return np.split(values.numpy(), inputs.offsets[1:-1])


# --- how much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.5, 0.99])
def test_token_cutoff_zeroes_whole_tokens(inputs: Inputs, rate: float) -> None:
    for part, length in zip(parts(edits["token_cutoff"](rate)(ones(inputs), inputs), inputs), LENGTHS, strict=True):
        cut = (part == 0).all(1)
        assert cut.sum() == int(rate * length)
        assert (part[~cut] == 1).all()


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.99])
def test_feature_cutoff_zeroes_the_same_coordinates_of_every_token(inputs: Inputs, rate: float) -> None:
    chosen = []
    for part in parts(edits["feature_cutoff"](rate)(ones(inputs), inputs), inputs):
        cut = (part == 0).all(0)
        assert cut.sum() == int(rate * WIDTH)
        assert (part[:, ~cut] == 1).all()
        chosen.append(tuple(cut))
    assert rate in (0.0, 0.99) or len(set(chosen)) > 1  # other texts, other coordinates


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.5, 0.99])
def test_element_cutoff_zeroes_single_numbers_and_rescales_none(inputs: Inputs, rate: float) -> None:
    for part, length in zip(parts(edits["element_cutoff"](rate)(ones(inputs), inputs), inputs), LENGTHS, strict=True):
        assert (part == 0).sum() == int(rate * length * WIDTH)
        assert set(np.unique(part)) <= {0.0, 1.0}


@pytest.mark.parametrize("deviation", [0.0, 0.3])
def test_noise_is_added_and_does_not_depend_on_what_it_is_added_to(inputs: Inputs, deviation: float) -> None:
    added = edits["noise"](deviation)(ones(inputs), inputs) - 1
    again = edits["noise"](deviation)(7 * ones(inputs), inputs) - 7
    torch.testing.assert_close(added, again, atol=1e-12, rtol=0)
    double = edits["noise"](2 * deviation)(ones(inputs), inputs) - 1
    torch.testing.assert_close(double, 2 * added, atol=1e-12, rtol=0)
    assert (added.abs().sum() == 0) == (deviation == 0)


# --- from which draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(edits))
def test_an_edit_of_a_text_is_the_same_in_any_company(inputs: Inputs, name: str) -> None:
    edit = edits[name](0.4)
    whole = parts(edit(ones(inputs), inputs), inputs)
    for order in ([2], [3, 1], [0, 2, 1, 3]):
        chosen = inputs.select(order)
        for found, number in zip(parts(edit(ones(chosen), chosen), chosen), order, strict=True):
            np.testing.assert_array_equal(found, whole[number])


@pytest.mark.parametrize("name", list(edits))
def test_another_seed_is_another_edit(inputs: Inputs, name: str) -> None:
    edit = edits[name](0.4)
    assert not torch.equal(edit(ones(inputs), inputs), edit(ones(inputs), seeded(inputs, 50)))


@pytest.mark.parametrize("name", list(edits))
def test_an_edit_keeps_the_type_and_passes_the_gradient(inputs: Inputs, name: str) -> None:
    hidden = ones(inputs).float().requires_grad_()
    out = edits[name](0.4)(hidden, inputs)
    assert out.dtype == torch.float32
    out.sum().backward()
    expected = torch.ones_like(out) if name == "noise" else (out != 0).float()
    torch.testing.assert_close(hidden.grad, expected)


@pytest.mark.parametrize("name", ["token_cutoff", "feature_cutoff", "element_cutoff"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, "half", None, True])
def test_a_rate_that_is_no_share(name: str, rate: Any) -> None:
    with pytest.raises(UserError, match=f"rate is {rate!r}; give a number from 0 on and below 1"):
        edits[name](rate)


def test_without_seeds_nothing_can_be_drawn(inputs: Inputs) -> None:
    plain = Inputs.of([[2, 3]])
    with pytest.raises(UserError, match="random changes need a seed for each input"):
        edits["token_cutoff"](0.5)(torch.ones(2, WIDTH), plain)


# --- orders and chains -----------------------------------------------------------------------------------------------


def test_shuffled_positions_are_a_permutation_of_each_texts_own(inputs: Inputs) -> None:
    found = shuffled(inputs)
    assert found.positions is not None
    assert torch.equal(found.ids, inputs.ids)
    for part, length in zip(np.split(found.positions.numpy(), inputs.offsets[1:-1]), LENGTHS, strict=True):
        assert sorted(part.tolist()) == list(range(length))
    assert not np.array_equal(found.positions.numpy(), inputs.places)


def test_a_chain_is_one_after_the_other_and_of_none_is_none(inputs: Inputs) -> None:
    assert chain([]) is None
    double, plus = (lambda hidden, _: 2 * hidden), (lambda hidden, _: hidden + 1)
    both, other = chain([double, plus]), chain([plus, double])
    assert both is not None and other is not None
    assert both(ones(inputs), inputs).unique().tolist() == [3.0]
    assert other(ones(inputs), inputs).unique().tolist() == [4.0]


# --- in an encoder ---------------------------------------------------------------------------------------------------


def embedded(model: Any, inputs: Inputs, edit: Any, **settings: Any) -> Tensor:
    """Pooled vectors with an edit."""
    with torch.no_grad():
        return model.pooled(inputs, edit=edit, **settings)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "t5", "mpnet", "distilbert"])
@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_an_edit_is_of_the_embedding_layers_output(family: str, packing: str) -> None:
    """With the layer's output put in its place the vectors are the same, and with zeros they are all one."""
    model = tiny.text_encoder(family, normalize=False)
    inputs = seeded(model.prepare(TEXTS))
    seen: list[Tensor] = []

    def watch(hidden: Tensor, _: Inputs) -> Tensor:
        seen.append(hidden.clone())
        return hidden

    plain = model.pooled(inputs).detach()
    torch.testing.assert_close(embedded(model, inputs, watch, packing=packing), plain, atol=1e-5, rtol=1e-4)
    assert seen[0].shape == (inputs.tokens, 32)
    changed = embedded(model, inputs, lambda hidden, _: hidden * 1.5 + 0.2, packing=packing)
    assert (changed - plain).abs().max() > 1e-3
    torch.testing.assert_close(embedded(model, inputs, watch, packing=packing), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5"])
def test_a_cut_token_is_a_zero_vector_for_transformers_too(family: str) -> None:
    model = tiny.text_encoder(family, normalize=False)
    inputs = seeded(model.prepare(TEXTS))
    states: list[Tensor] = []

    def cut(hidden: Tensor, given: Inputs) -> Tensor:
        states.append(edits["token_cutoff"](0.3)(hidden, given))
        return states[-1]

    packed, padded = (embedded(model, inputs, cut, packing=way) for way in ("packed", "padded"))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)
    zero = [(state == 0).all(1).sum().item() for state in states]
    assert zero == [sum(int(0.3 * cost) for cost in inputs.costs)] * 2


def test_the_edit_is_gone_after_an_error() -> None:
    model = tiny.text_encoder()
    inputs = model.prepare(TEXTS)
    before = model.encode(TEXTS)

    def fail(hidden: Tensor, _: Inputs) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.pooled(inputs, edit=fail)
    np.testing.assert_array_equal(model.encode(TEXTS), before)
