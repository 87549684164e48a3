"""Encoders of sequences: ragged equals padded with a mask, and folders keep all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import embedkit
from embedkit.data.vectors.sequences import Sequences
from embedkit.errors import DataError, ModelError, UserError
from embedkit.models import SequenceEncoder
from embedkit.models.augment.counter_rng import seeds_of
from embedkit.models.vectors.steps import positions

LENGTHS = [5, 1, 9, 5, 2]
ROWS = [np.random.default_rng(t).standard_normal((length, 3)).astype(np.float32) for t, length in enumerate(LENGTHS)]
FORMS = ("mean", "attention", "transformer", "gru")


def made(form: str, **more: Any) -> SequenceEncoder:
    torch.manual_seed(0)
    model = SequenceEncoder(3, dim=6, form=form, hidden=8, depth=2, scaling="none", **more).double()  # type: ignore[arg-type]
    if model.query is not None:
        torch.nn.init.normal_(model.query)
    return model.eval()


def padded(model: SequenceEncoder) -> Tensor:
    """All rows padded to the longest, step by step from torch's own layers, with a mask."""
    patches = [-(-length // model.patch) for length in LENGTHS]
    longest = max(patches)
    x = torch.zeros(len(ROWS), longest * model.patch, 3, dtype=torch.float64)
    for i, row in enumerate(ROWS):
        x[i, : len(row)] = torch.from_numpy(row).double()
    h = model.first(x.view(len(ROWS), longest, -1))
    mask = torch.arange(longest) < torch.tensor(patches)[:, None]
    if model.form == "gru":
        layer: Any = model.layers[0]
        states = [layer.gru(h[i : i + 1, :count])[1][-1, 0] for i, count in enumerate(patches)]
        return model.last(model.norm(torch.stack(states)))  # type: ignore[no-any-return]
    if model.form == "transformer":
        h = h + positions(torch.arange(longest), 8).double()
    for layer in model.layers:
        h = _attended(layer, h, mask) if model.form == "transformer" else _convolved(layer, h, mask)
    h = model.norm(h)
    if model.query is None:
        weights = mask / mask.sum(dim=1, keepdim=True)
    else:
        weights = torch.softmax((h @ model.query / 8**0.5).masked_fill(~mask, -torch.inf), dim=1)
    return model.last((weights[..., None] * h).sum(dim=1))  # type: ignore[no-any-return]


def _convolved(layer: Any, h: Tensor, mask: Tensor) -> Tensor:
    inner = F.gelu(layer.norm(h)) * mask[..., None]
    weight = layer.linear.weight.view(8, layer.size, 8).permute(0, 2, 1)
    reach = layer.size // 2 * layer.dilation
    out = F.conv1d(F.pad(inner.transpose(1, 2), (reach, reach)), weight, layer.linear.bias, dilation=layer.dilation)
    return h + out.transpose(1, 2)


def _attended(layer: Any, h: Tensor, mask: Tensor) -> Tensor:
    q, k, v = layer.inputs(layer.first(h)).view(*h.shape[:2], 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask[:, None, None, :], -torch.inf)
    h = h + layer.outputs((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return h + layer.layers(layer.second(h))  # type: ignore[no-any-return]


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_ragged_is_padded_with_a_mask(form: str, patch: int) -> None:
    model = made(form, patch=patch, **({"heads": 2} if form == "transformer" else {}))
    together = model(model.prepare(ROWS))
    assert torch.allclose(together, padded(model), atol=1e-12)
    alone = torch.cat([model(model.prepare([row])) for row in ROWS])
    assert torch.allclose(together, alone, atol=1e-12)
    changed = [row.copy() for row in ROWS]
    changed[2][-1] += 1.0  # no step reads another sequence's
    moved = (model(model.prepare(changed)) - together).abs().amax(dim=1)
    assert moved[2] > 1e-6 and moved[[0, 1, 3, 4]].max() < 1e-12


def test_inputs_of_encode() -> None:
    model = made("mean").float()
    whole = model.encode(ROWS)
    assert whole.shape == (5, 6) and np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    flat = Sequences(np.concatenate(ROWS), np.array(LENGTHS))
    for inputs in ([row.astype(">f8") for row in ROWS], [row.tolist() for row in ROWS], flat):
        assert np.allclose(model.encode(inputs), whole, atol=1e-6)
    assert np.allclose(model.encode(ROWS[2]), whole[2], atol=1e-6)
    for settings in ({"batch_size": 2}, {"batch_tokens": 6}):
        assert np.allclose(model.encode(ROWS, **settings), whole, atol=1e-6)
    series = SequenceEncoder(1, dim=4)
    numbers = np.arange(12.0).reshape(3, 4)
    assert series.encode(numbers).shape == (3, 4) and series.encode(numbers[0]).shape == (4,)
    assert np.allclose(series.encode(numbers)[0], series.encode(numbers[0].tolist()), atol=1e-6)


def test_scale_is_that_of_all_steps(tmp_path: Path) -> None:
    model = SequenceEncoder(3, dim=4, hidden=8)
    assert model.learns_inputs
    steps = np.concatenate(ROWS)
    model.learn_inputs([steps[:7], steps[7:]])
    assert np.allclose(model.mean.numpy(), steps.mean(axis=0), atol=1e-6)
    assert np.allclose(model.deviation.numpy(), steps.std(axis=0), atol=1e-6)
    again = embedkit.load(model.save(tmp_path / "model"))
    assert isinstance(again, SequenceEncoder) and not again.learns_inputs and int(again.count) == len(steps)
    assert np.array_equal(again.encode(ROWS), model.encode(ROWS)) and again.hash() == model.hash()
    assert np.array_equal(again.example_input(), model.example_input())


def test_random_changes_depend_on_the_seed_of_a_sequence_alone() -> None:
    model = made("attention")
    seeds = seeds_of((1, 2), "x", np.arange(5), np.zeros(5, np.int64))
    inputs = model.prepare(ROWS).replace(seeds=seeds)
    plain = model(inputs)
    for settings in ({"noise": 0.5}, {"element_cutoff": 0.5}, {"column_cutoff": 0.5}):
        out = model(inputs, **settings)
        assert not torch.allclose(out, plain)
        assert torch.allclose(model(inputs.select([3, 0]), **settings), out[[3, 0]], atol=1e-12)
    x = model._changed(inputs, 0.0, 0.0, 0.5)
    zero = [(x[inputs.owner == i] == 0).all(dim=0) for i in range(5)]
    assert all(torch.equal((x[inputs.owner == i] == 0).any(dim=0), zero[i]) for i in range(5))
    assert 0 < int(torch.stack(zero).sum()) < 15


def test_a_new_model_starts_at_weights_of_attention_that_are_equal() -> None:
    mean, attention = made("mean"), made("attention")
    state = {name: value for name, value in attention.state_dict().items() if name != "query"}
    mean.load_state_dict(state)
    torch.nn.init.zeros_(attention.query)  # type: ignore[arg-type]
    inputs = mean.prepare(ROWS)
    assert torch.allclose(mean(inputs), attention(inputs), atol=1e-12)


def test_faults_are_told() -> None:
    model = made("mean")
    with pytest.raises(DataError, match=r"the steps have 2 numbers, the model reads 3"):
        model.encode([np.zeros((4, 2))])
    with pytest.raises(DataError, match=r"input 1: step 0: number 2 of the vector is nan"):
        model.encode([ROWS[0], np.array([[0.0, 1.0, np.nan]])])
    with pytest.raises(DataError, match=r"input 0 is str 'a text'"):
        model.encode(["a text"])
    with pytest.raises(UserError, match=r"a sequence model has no token_cutoff"):
        model(model.prepare(ROWS), token_cutoff=0.1)
    with pytest.raises(UserError, match=r"has no prompts"):
        model.encode(ROWS, prompt="query: ")
    with pytest.raises(ModelError, match=r"hidden 8 is no multiple of heads 3"):
        SequenceEncoder(3, form="transformer", hidden=8, heads=3)
