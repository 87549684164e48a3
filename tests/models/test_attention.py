"""Attention of packed runs against softmax written out in numpy, and recorded attention against transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.models.execution.attention import jagged_attention, packed_attention, padded_attention
from embedkit.models.execution.packing import PACKABLE, is_packable, position_offset, position_table
from embedkit.models.execution.plan import Plan
from tests.helpers import tiny

HEADS, SIZE = 3, 5
TEXTS = [text for text in tiny.SENTENCES if text]


@pytest.fixture
def plan() -> Plan:
    return Plan.of(np.array([4, 1, 4, 2, 7]))


def drawn(plan: Plan, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (T, heads, d)."""
    source = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(plan.tokens, HEADS, SIZE, dtype=torch.float64, generator=source) for _ in range(3))
    return query, key, value


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def by_hand(
    flat: Any, plan: Plan, scale: float, bias: np.ndarray | None = None, prefix: Tensor | None = None,
    window: int | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:  # fmt: skip
    """Output (T, heads, d) and probabilities (heads, l, p + l) of each sequence, one after the other in numpy."""
    q, k, v = (x.numpy() for x in flat)
    outputs, shown = np.empty_like(q), []
    for place, (start, length) in enumerate(zip(plan.starts, plan.lengths, strict=True)):
        part = slice(start, start + length)
        keys, values = k[part].transpose(1, 0, 2), v[part].transpose(1, 0, 2)  # (heads, l, d)
        scores = q[part].transpose(1, 0, 2) @ keys.transpose(0, 2, 1) * scale
        if bias is not None:
            scores = scores + bias[0, :, :length, :length]
        if window is not None:
            i, j = np.indices((length, length))
            scores = np.where(np.abs(i - j) >= window, -np.inf, scores)
        if prefix is not None:
            first = q[part].transpose(1, 0, 2) @ prefix[0, place].numpy().transpose(0, 2, 1) * scale
            scores = np.concatenate([first, scores], -1)
            values = np.concatenate([prefix[1, place].numpy(), values], 1)
        shown.append(softmax(scores))
        outputs[part] = (shown[-1] @ values).transpose(1, 0, 2)
    return outputs, shown


def recorded(
    flat: Any, plan: Plan, scale: float, dropout: float = 0.0, bias: Tensor | None = None, window: int | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Output (T, heads, d) and the probabilities of each group, of layer 4 of an encoder that records them."""
    record: dict[int, list[Tensor]] = {}
    rows = [x.transpose(0, 1)[None] for x in flat]
    out, _ = packed_attention(
        SimpleNamespace(layer_idx=4), *rows, None, dropout=dropout, scaling=scale, plan=plan, position_bias=bias,
        sliding_window=window, record=record,
    )  # fmt: skip
    assert record.keys() == {4}
    return out[0], record[4]


def bias_of(longest: int) -> Tensor:
    source = torch.Generator().manual_seed(9)
    return torch.randn(1, HEADS, longest, longest, dtype=torch.float64, generator=source)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("way", ["grouped", "padded", "recorded"])
def test_each_way_is_softmax_within_a_sequence(plan: Plan, way: str, window: int | None, biased: bool) -> None:
    flat, bias = drawn(plan), bias_of(plan.longest) if biased else None
    expected, _ = by_hand(flat, plan, 0.7, None if bias is None else bias.numpy(), window=window)
    if way == "padded":
        found = padded_attention(flat, plan, 0.7, 0.0, bias, window)
    elif way == "recorded":
        found = recorded(flat, plan, 0.7, 0.0, bias, window)[0]
    else:
        rows = [x.transpose(0, 1)[None] for x in flat]  # (1, heads, T, d), as transformers hands them on
        module = SimpleNamespace(layer_idx=0)
        out, nothing = packed_attention(
            module, *rows, None, scaling=0.7, plan=plan, position_bias=bias, sliding_window=window
        )
        assert nothing is None
        found = out[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_without_a_factor_it_is_one_by_the_root_of_the_size(plan: Plan, scaling: float | None) -> None:
    rows = [x.transpose(0, 1)[None] for x in drawn(plan)]
    out, _ = packed_attention(SimpleNamespace(layer_idx=0), *rows, None, scaling=scaling, plan=plan)
    expected, _ = by_hand(drawn(plan), plan, SIZE**-0.5 if scaling is None else scaling)
    np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-12)


def test_a_prefix_is_seen_by_every_token_of_its_own_sequence_alone(plan: Plan) -> None:
    source = torch.Generator().manual_seed(3)
    prefix = torch.randn(2, 2, len(plan.lengths), HEADS, 3, SIZE, dtype=torch.float64, generator=source)
    rows = [x.transpose(0, 1)[None] for x in drawn(plan)]
    for layer in (0, 1):
        module = SimpleNamespace(layer_idx=layer)
        out, _ = packed_attention(module, *rows, None, scaling=0.5, plan=plan, prefix=prefix)
        expected, _ = by_hand(drawn(plan), plan, 0.5, prefix=prefix[layer])
        np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-12)


def test_recorded_probabilities_are_those_of_each_group(plan: Plan) -> None:
    groups = recorded(drawn(plan), plan, 0.7)[1]
    assert [tuple(p.shape) for p in groups] == [(g.count, HEADS, g.length, g.length) for g in plan.groups]
    expected = iter(by_hand(drawn(plan), plan, 0.7)[1])
    for group in groups:
        for row in group:
            np.testing.assert_allclose(row.numpy(), next(expected), atol=1e-12)
            np.testing.assert_allclose(row.sum(-1).numpy(), 1.0)


def test_dropped_probabilities_are_recorded_as_they_are_used(plan: Plan) -> None:
    torch.manual_seed(0)
    output, shown = recorded(drawn(plan), plan, 0.7, 0.5)
    exact = by_hand(drawn(plan), plan, 0.7)[1]
    value = drawn(plan)[2].numpy()
    place = 0
    for group in shown:
        for row in group:
            kept = row.numpy() != 0
            np.testing.assert_allclose(row.numpy()[kept], 2 * exact[place][kept], rtol=1e-5)
            start, length = plan.starts[place], plan.lengths[place]
            mixed = (row.numpy() @ value[start : start + length].transpose(1, 0, 2)).transpose(1, 0, 2)
            np.testing.assert_allclose(output.numpy()[start : start + length], mixed, atol=1e-12)
            place += 1
    assert 0.3 < np.mean([float((p == 0).double().mean()) for p in shown]) < 0.7


def test_gradients_reach_query_key_value_and_bias(plan: Plan) -> None:
    upstream = torch.randn(plan.tokens, HEADS, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = []
    for attend in (padded_attention, lambda *args: recorded(*args)[0]):
        leaves = [x.clone().requires_grad_() for x in (*drawn(plan), bias_of(plan.longest))]
        attend(tuple(leaves[:3]), plan, 0.7, 0.0, leaves[3], None).backward(upstream)
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_come_through_recorded_probabilities(plan: Plan) -> None:
    """Of a function of the output and of the probabilities, or of the probabilities alone."""
    for with_output in (True, False):
        found = []
        for way in ("recorded", "by autograd"):
            leaves = [x.clone().requires_grad_() for x in drawn(plan)]
            if way == "recorded":
                output, shown = recorded(tuple(leaves), plan, 0.7)
            else:
                blocks = [[x[g.start : g.start + g.tokens].unflatten(0, (g.count, g.length)).transpose(1, 2)
                           for x in leaves] for g in plan.groups]  # fmt: skip
                shown = [torch.softmax(0.7 * q @ k.transpose(-1, -2), -1) for q, k, _ in blocks]
                mixed = [p @ v for p, (_, _, v) in zip(shown, blocks, strict=True)]
                output = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in mixed])
            loss = sum((p.square() * (1 + torch.arange(p.shape[-1]))).sum() for p in shown)
            (loss + with_output * output.square().sum()).backward()
            found.append([torch.zeros_like(x) if x.grad is None else x.grad for x in leaves])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


def test_one_call_over_nested_tensors_is_softmax_within_a_sequence(plan: Plan) -> None:
    upstream = torch.randn(plan.tokens, HEADS, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = []
    for attend in (lambda *args: jagged_attention(*args, dropout=0.0), lambda *args: recorded(*args)[0]):
        leaves = [x.clone().requires_grad_() for x in drawn(plan)]
        output = attend(tuple(leaves), plan, 0.7)
        np.testing.assert_allclose(output.detach().numpy(), by_hand(drawn(plan), plan, 0.7)[0], atol=1e-12)
        output.backward(upstream)
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_nested_tensors_drop_probabilities(plan: Plan) -> None:
    query, key, _ = drawn(plan)
    torch.manual_seed(0)
    sums = jagged_attention((query, key, torch.ones_like(key)), plan, 0.7, dropout=0.5)  # of each row's probabilities
    single = int(plan.starts[0])  # a text of one token, whose only probability is dropped or doubled
    assert set(sums[single].flatten().tolist()) <= {0.0, 2.0}
    assert len(sums.unique()) > plan.tokens
    assert abs(float(sums.mean()) - 1.0) < 0.2


def test_without_a_plan_it_is_transformers_own(plan: Plan) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    source = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, HEADS, 6, SIZE, generator=source) for _ in range(3)]
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    module: Any = torch.nn.Module()
    module.is_causal, module.layer_idx = False, 0
    out, _ = packed_attention(module, *rows, mask, scaling=0.4)
    torch.testing.assert_close(out, sdpa_attention_forward(module, *rows, mask, scaling=0.4)[0])


# --- in an encoder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_recorded_attention_is_transformers_output_attentions(family: str) -> None:
    model = tiny.text_encoder(family)
    record: dict[int, list[Tensor]] = {}
    inputs = model.prepare(TEXTS)
    with torch.no_grad():
        states = model.token_states(inputs, record=record)
    layers = model.encoder.config.num_hidden_layers
    assert sorted(record) == list(range(layers))
    model.encoder.set_attn_implementation("eager")
    rows = inputs.rows()
    with torch.no_grad():
        theirs = [model.encoder(input_ids=torch.tensor([row]), output_attentions=True).attentions for row in rows]
    for layer in range(layers):
        flat = [row for group in record[layer] for row in group]
        for place, number in enumerate(states.plan.order):
            torch.testing.assert_close(flat[place], theirs[number][layer][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("packing", ["buckets", "padded"])
def test_attention_is_recorded_in_packed_runs_only(packing: str) -> None:
    model = tiny.text_encoder()
    with pytest.raises(UserError, match=f"recorded in packed runs, not in {packing} ones; use packing 'packed'"):
        model.token_states(model.prepare(TEXTS), packing=packing, record={})


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_which_architectures_run_packed(family: str) -> None:
    model = tiny.text_encoder(family)
    assert is_packable(model.encoder) == (family in PACKABLE)
    assert model.way() == ("packed" if family in PACKABLE else "buckets")
    model.encoder.set_attn_implementation("eager")  # a user's own choice is kept
    assert model.way() == "buckets"


@pytest.mark.parametrize(("family", "first"), [("bert", 0), ("roberta", 1), ("xlm-roberta", 1), ("t5", 0)])
def test_the_first_position_of_a_family(family: str, first: int) -> None:
    """RoBERTa counts from behind its padding token, which is 0 here."""
    encoder = tiny.text_encoder(family).encoder
    assert position_offset(encoder) == first
    assert (position_table(encoder) is None) == (family == "t5")
