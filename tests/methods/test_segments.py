"""Segments of sequences: where they are cut, that the loss sees each row as a document, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.data.vectors.sequences import Sequences
from embedkit.errors import DataError, RecipeError
from embedkit.methods import methods
from embedkit.methods.segments import Segments
from embedkit.models import SequenceEncoder
from embedkit.objectives.base import ObjectiveBatch
from embedkit.views.base import View

ROWS = [{"anchor": np.arange(n, dtype=np.float32)[:, None] + 100 * i} for i, n in enumerate((9, 2, 30, 4))]


def _random(row: int) -> np.random.Generator:
    return np.random.default_rng(row)


def test_a_row_is_cut_into_segments_and_its_rest_is_left_out() -> None:
    view = Segments(length=4, most=3).views(ROWS, _random)["anchor"]
    pieces = [piece[:, 0].tolist() for piece in view.inputs]
    assert pieces[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [100, 101]] and pieces[-1] == [300, 301, 302, 303]
    assert view.owner == [0, 0, 1, 2, 2, 2, 3] and view.places is not None
    assert view.places[:, 0].tolist() == [0, 1, 0, 0, 1, 2, 0]
    starts = set()
    for seed in range(60):
        view = Segments(length=4, most=3).views(ROWS, lambda row, seed=seed: np.random.default_rng([seed, row]))[
            "anchor"
        ]
        starts.add(float(view.inputs[3][0, 0]))
    assert starts == {200.0 + 4 * k for k in range(5)}  # of seven segments three in a row
    close = Segments(length=4, stride=1, most=100).views(ROWS[:1], _random)["anchor"]
    assert [piece[0, 0] for piece in close.inputs] == [0, 1, 2, 3, 4, 5]


def test_the_loss_is_that_of_documents() -> None:
    method = Segments(loss={"name": "cpc", "offsets": 1, "summary": "last"}, length=4)
    torch.manual_seed(0)
    model = SequenceEncoder(1, dim=5, hidden=8, scaling="none").double()
    parts = method.parts(model).double()
    view = method.views(ROWS, _random)["anchor"]
    z = model(model.prepare(view.inputs))
    batch = ObjectiveBatch.of(
        {"row": torch.zeros(4, 1)}, owner={"anchor": torch.tensor(view.owner)}, keys={},
        places={"anchor": torch.from_numpy(view.places)},
    )  # fmt: skip
    (loss,) = method.terms({"anchor": z}, {}, batch, parts).values()
    weight = parts["loss"].maps[0]
    pairs = [(i, i + 1) for i in range(len(z) - 1) if view.owner[i] == view.owner[i + 1]]
    logs = [torch.log_softmax(z @ (weight @ z[i]), 0)[j] for i, j in pairs]
    assert len(pairs) == 7 and torch.allclose(loss, -torch.stack(logs).mean(), atol=1e-12)
    half = ObjectiveBatch(**{**vars(batch), "rows": slice(0, 1)})
    assert torch.allclose(method.terms({"anchor": z}, {}, half, parts)["segments"], loss / 4, atol=1e-12)


def test_beside_a_method_the_segments_are_those_of_its_anchor() -> None:
    method = Segments(loss="temporal-cycle", length=4, most=2)
    own = Sequences.of([row["anchor"] + 0.5 for row in ROWS])
    views = method.beside({"anchor": View(own, [0, 1, 2, 3]), "positive": View(own, [0, 1, 2, 3])})
    assert sorted(views) == ["anchor", "positive"]
    assert [piece[0, 0] for piece in views["positive"].inputs] == [0.5, 4.5, 100.5, 200.5, 204.5, 300.5]
    assert method.beside({}) == {} and method.beside({"anchor": View(["a text"], [0])}) == {}


@pytest.mark.parametrize(
    ("change", "fault", "told"),
    [({"method": {"name": "segments", "loss": "infonce"}}, RecipeError, r"method.loss: 'infonce' reads no order"),
     ({"method": {"name": "segments", "length": 40}}, DataError, r"no sequence .* longest has 12; set it to 3"),
     ({"model": {"kind": "static", "tokenizer": "builtin", "dim": 4}}, DataError, r"and a model of kind static"),
     ({"model": {"kind": "feature"}}, DataError, r"is a sequence, and .* feature reads vectors")],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], fault: type[Exception], told: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", np.random.default_rng(0).standard_normal((16, 12, 2)))
    given = {
        "name": "x", "method": {"name": "segments", "length": 4}, "model": {"kind": "sequence"},
        "data": {"train": [{"path": "s.npy", "columns": {"s": "anchor"}}]},
        "train": {"batch_size": 8, "max_steps": 1, "output": "run", "holdout": 0.0},
    }  # fmt: skip
    with pytest.raises(fault, match=told):
        embedkit.train({**given, **change})


def test_every_loss_of_documents_can_be_taken() -> None:
    for loss in ("cpc", "aligned-cpc", "bidirectional", "context", "temporal-cycle", "order", "bridge"):
        method = methods["segments"](loss=loss)
        assert method.provides == ({"anchor", "positive"} if loss in ("context", "temporal-cycle") else {"anchor"})
