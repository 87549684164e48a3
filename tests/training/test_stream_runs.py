"""Runs on streams: their length and the ends of their epochs are not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import DataError, RecipeError
from tests.training import runs

SUITE = {"suite": "builtin-sts"}


@pytest.fixture
def stream(tmp_path: Path) -> dict[str, Any]:
    """A stream of 400 rows, fifty steps an epoch, as a data section."""
    rows = "".join(json.dumps({"anchor": f"a cat {i}", "positive": f"the dog {i}"}) + "\n" for i in range(400))
    (tmp_path / "rows.jsonl").write_text(rows)
    return {"train": [{"path": str(tmp_path / "rows.jsonl"), "stream": True}]}


def test_a_stream_is_saved_and_evaluated_though_the_end_of_its_epoch_is_not_known(
    tmp_path: Path, stream: dict[str, Any]
) -> None:
    settings = {"max_steps": 41, "keep_checkpoints": 50}
    runs.run(tmp_path / "run", runs.recipe(data=stream, train=settings))
    assert runs.steps_kept(tmp_path / "run") == [*range(2, 41, 2), 41]
    evaluated = runs.recipe(data=stream, train={**settings, "save_every": 100}, evaluation=SUITE)
    runs.run(tmp_path / "evaluated", evaluated)
    log = [json.loads(line) for line in (tmp_path / "evaluated" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "scores" in row] == [*range(2, 41, 2), 41]


def test_evaluations_by_epoch_are_refused_for_a_stream(tmp_path: Path, stream: dict[str, Any]) -> None:
    given = runs.recipe(data=stream, evaluation={**SUITE, "every": 100, "by_epoch": True})
    with pytest.raises(RecipeError, match=r"evaluation\.by_epoch: the end of an epoch of a stream is not known"):
        runs.run(tmp_path / "run", given)


def test_a_stream_needs_steps_and_more_rows_than_a_batch_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"anchor": f"a cat {i}", "positive": f"the dog {i}"}) + "\n" for i in range(10)))
    source = {"path": str(path)}
    stream = runs.recipe(data={"train": [{**source, "stream": True}]}, train={"max_steps": None, "epochs": 1})
    with pytest.raises(RecipeError, match=r"train\.epochs: a stream has no known length; give train\.max_steps"):
        runs.run(tmp_path / "run", stream)
    assert runs.run(tmp_path / "stream", stream, "train.max_steps=3").steps == 3
    held = runs.recipe(data={"train": [source]}, train={"batch_size": 11})
    with pytest.raises(DataError, match=r"10 rows of .*rows.jsonl do not fill one batch of 11; lower it to 10 or less"):
        runs.run(tmp_path / "run", held)
    assert runs.run(tmp_path / "short", held, "data.drop_last=false").steps == 4
