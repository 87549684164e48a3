"""Draws from seeds, what goes with inputs, and changed forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedkit.errors import UserError
from embedkit.models.augment.counter_rng import ranks, seeds_of, uniforms
from embedkit.models.augment.embedding_augmentation import edits
from embedkit.models.inputs.inputs import Inputs
from tests.helpers import tiny

ROWS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3]]


def seeded(rows: list[list[int]], first: int = 1) -> Inputs:
    return Inputs.of(rows).replace(seeds=np.arange(first, first + len(rows), dtype=np.uint64))


def test_uniform_numbers_are_uniform_and_differ_by_stream_seed_and_place() -> None:
    inputs = seeded([[1] * 50] * 400)
    a, b, wide = uniforms(inputs, "a"), uniforms(inputs, "b"), uniforms(inputs, "a", 30)
    for drawn in (a, b, wide.ravel()):
        assert 0 <= drawn.min() < drawn.max() < 1
        assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(len(drawn) / 10, rel=0.1)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    table = a.reshape(400, 50)
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.03  # neighbouring seeds
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.03  # neighbouring places
    assert len(np.unique(a)) == len(a)


def test_draws_go_with_the_text() -> None:
    inputs = seeded(ROWS)
    parts = np.split(uniforms(inputs, "x"), inputs.offsets[1:-1])
    chosen = uniforms(inputs.select([2, 0]), "x")
    assert np.array_equal(chosen, np.concatenate([parts[2], parts[0]]))
    both = Inputs.concat([inputs.select([1]), inputs.select([0])])
    assert np.array_equal(uniforms(both, "x"), np.concatenate([parts[1], parts[0]]))
    assert [p.tolist() for p in np.split(ranks(inputs, uniforms(inputs, "x")), inputs.offsets[1:-1])] == [
        np.argsort(np.argsort(part)).tolist() for part in parts
    ]


def test_seeds_differ_by_step_view_row_and_copy() -> None:
    rows, copies = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 0])
    found = [seeds_of((1, 0, step), name, rows, copies) for step in (0, 1) for name in ("anchor", "positive")]
    assert len(np.unique(found)) == 16
    assert np.array_equal(seeds_of((1, 0, 0), "anchor", rows[2:], copies[2:]), found[0][2:])  # another process's part


def test_data_and_positions_go_with_their_text() -> None:
    inputs = Inputs.of(ROWS, marks=[1, 0, 2], data={"x": np.array([[1, 2], [3, 4], [5, 6]]), "y": torch.arange(3)})
    inputs = inputs.replace(positions=torch.arange(13))
    found = inputs.select([2, 1])
    assert found.positions.tolist() == [7, 8, 9, 10, 11, 12, 4, 5, 6]
    assert (found.data["x"].tolist(), found.data["y"].tolist()) == ([[5, 6], [3, 4]], [2, 1])
    again = Inputs.concat([found, inputs.select([0])])
    assert (again.marks.tolist(), again.data["y"].tolist()) == ([2, 0, 1], [2, 1, 0])
    assert again.positions.tolist()[-4:] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="with and without x"):
        Inputs.concat(
            [inputs, inputs.replace().select([0]).replace(z=np.zeros(1)).select([0]), Inputs.of(ROWS, [0] * 3)]
        )
    with pytest.raises(UserError, match="with and without positions"):
        Inputs.concat([Inputs.of(ROWS), Inputs.of(ROWS).replace(positions=torch.arange(13))])


def test_kept_tokens_stay_at_their_places() -> None:
    inputs = Inputs.of(ROWS, data={"x": np.arange(3)})
    kept = inputs.keep(np.asarray([1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0, 1], dtype=bool))
    assert kept.rows() == [[2, 6, 3], [2, 7], [8, 10, 3]]
    assert kept.positions.tolist() == [0, 2, 3, 0, 1, 1, 3, 5]
    assert kept.data["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_positions_are_those_of_the_inputs(packing: str) -> None:
    model = tiny.text_encoder("bert", packing=packing)
    inputs = Inputs.of(ROWS)
    places = torch.tensor([0, 5, 6, 7, 3, 1, 0, 0, 1, 2, 9, 10, 11])
    found = model(inputs.replace(positions=places))
    for row, at, z in zip(ROWS, places.split([4, 3, 6]), found, strict=True):
        whole = model.encoder(input_ids=torch.tensor([row]), position_ids=at[None]).last_hidden_state[0]
        assert torch.allclose(z, whole.mean(0), atol=1e-5)
    assert not torch.allclose(found, model(inputs), atol=1e-3)


def test_what_an_encoder_cannot_do_is_refused() -> None:
    positions = torch.arange(13)
    with pytest.raises(UserError, match="t5 has no position ids"):
        tiny.text_encoder("t5")(Inputs.of(ROWS).replace(positions=positions))
    with pytest.raises(UserError, match="recorded in packed runs, not in padded ones"):
        tiny.text_encoder("bert", packing="padded")(Inputs.of(ROWS), record={})


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "mpnet", "albert"])
def test_a_view_may_have_its_own_dropout_rate(family: str) -> None:
    model = tiny.text_encoder(family, dropout=0.3).train()
    inputs = Inputs.of(ROWS)
    still = model(inputs, dropout=0.0)
    assert torch.equal(still, model(inputs, dropout=0.0))
    assert torch.allclose(still, model.eval()(inputs), atol=1e-5)
    model.train()
    spread = [(model(inputs, dropout=rate) - still).norm().item() for rate in (0.02, 0.6)]
    assert 0 < spread[0] < spread[1]
    assert not torch.equal(model(inputs), model(inputs))  # the model's own rate is back


def test_noise_is_normal_and_of_the_size_asked_for() -> None:
    inputs = seeded([[1] * 20] * 100)
    drawn = edits["noise"](0.5)(torch.zeros(2000, 8, dtype=torch.float64), inputs)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.02)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.01)
    assert float((drawn.abs() > 1.0).double().mean()) == pytest.approx(0.0455, abs=0.006)  # beyond two deviations


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert", "mpnet", "t5"])
@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_named_edits_run_in_every_family(family: str, packing: str) -> None:
    model = tiny.text_encoder(family, dropout=0.0, packing=packing)
    inputs = seeded(ROWS)
    found = model(inputs, token_cutoff=0.4, noise=0.1)
    assert torch.allclose(found[2], model(inputs.select([2]), token_cutoff=0.4, noise=0.1)[0], atol=1e-4)
    assert not torch.allclose(found, model(inputs), atol=1e-3)
