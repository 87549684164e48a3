"""Own code that is told what happens in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import RecipeError
from embedkit.training import Callback
from tests.training import runs


class Everything(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def on_start(self, facts: dict[str, Any]) -> None:
        self.told.append(("start", facts))

    def on_step(self, step: int, figures: dict[str, float] | None) -> None:
        self.told.append(("step", (step, None if figures is None else figures["loss"])))

    def on_evaluate(self, step: int, scores: dict[str, float]) -> None:
        self.told.append(("evaluate", (step, scores)))

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.told.append(("checkpoint", (step, path.name)))

    def on_end(self, result: dict[str, Any]) -> None:
        self.told.append(("end", result))


def test_a_callback_is_told_start_steps_scores_checkpoints_and_end(tmp_path: Path) -> None:
    told = Everything()
    evaluation = {"suite": "builtin-sts", "split": "dev", "every": 2}
    given = runs.recipe(evaluation=evaluation, train={"log_every": 3})
    result = runs.run(tmp_path / "run", given, callbacks=[told])
    assert [name for name, _ in told.told] == [
        "start", "step", "step", "evaluate", "checkpoint", "step", "step", "evaluate", "checkpoint", "end",
    ]  # fmt: skip
    facts = told.told[0][1]
    assert facts == {
        "name": "tiny",
        "output": str(tmp_path / "run"),
        "step": 0,
        "total_steps": 4,
        "batch_size": 8,
        "rows": 64,
    }
    steps = [value for name, value in told.told if name == "step"]
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert [loss for _, loss in steps if loss is not None] == result.losses  # of steps 1, 3 and 4
    assert [value for name, value in told.told if name == "evaluate"][-1] == (4, result.scores)
    assert told.told[-1][1]["steps"] == 4 and told.told[-1][1]["output"] == str(result.output)


def test_any_object_with_some_of_the_methods_will_do(tmp_path: Path) -> None:
    class Steps:
        seen: list[int] = []

        def on_step(self, step: int, figures: Any) -> None:
            self.seen.append(step)

    steps = Steps()
    runs.run(tmp_path / "run", callbacks=[steps])
    assert steps.seen == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Everything, "is a class, not an object"),
        (object(), "has no method that a run calls; give an object with some of on_start"),
        (type("Own", (), {"on_batch": lambda self: None})(), "nothing calls on_batch"),
        (type("Own", (), {"on_steps": lambda self: None})(), "nothing calls on_steps; did you mean 'on_step'"),
    ],
)
def test_what_would_never_be_called_is_refused_before_anything_is_read(
    tmp_path: Path, callback: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        runs.run(tmp_path / "run", callbacks=[callback])
    assert not (tmp_path / "run").exists()
