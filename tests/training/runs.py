"""Small whole runs for the trainer's tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from embedkit.evaluation import OpenSuite
from embedkit.training import TrainResult, train
from embedkit.training.monitor.log import Progress
from tests.training import common

SETTINGS: dict[str, Any] = {"max_steps": 4, "batch_size": 8, "lr": 1e-3, "log_every": 1}


class Recorder(Progress):
    """Keeps what a run says and the figures of its log steps."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.figures: dict[int, dict[str, float]] = {}

    def step(self, done: int, figures: Mapping[str, float] | None) -> None:
        if figures:
            self.figures[done] = dict(figures)

    def say(self, line: str) -> None:
        self.lines.append(line)


def recipe(dropout: float = 0.0, **sections: Any) -> dict[str, Any]:
    """A recipe of four steps on built-in triplets; `sections` replace single settings of ``model``, ``train`` ..."""
    model = common.model_config(dropout).model_dump(exclude_none=True)
    known: dict[str, Any] = {
        "name": "tiny", "seed": 7, "method": "pairs", "model": model, "train": SETTINGS,
        "data": {"train": [{"path": "builtin:triplets-train", "limit": 64}]},
    }  # fmt: skip
    for name, value in sections.items():
        old = known.get(name)
        known[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return known


def run(output: Path, given: str | dict[str, Any] | None = None, *overrides: str, **settings: Any) -> TrainResult:
    """Train `given`, or the recipe above, silently."""
    settings.setdefault("progress", Recorder())
    return train(recipe() if given is None else given, list(overrides), output=output, **settings)


def checkpoint(output: Path, step: int, file: str = "weights") -> dict[str, Tensor]:
    """The tensors of one file of the checkpoint of a step."""
    return load_file(output / "checkpoints" / f"step-{step:08d}" / f"{file}.safetensors")


def steps_kept(output: Path) -> list[int]:
    """Steps whose checkpoints are on disk."""
    return sorted(int(path.name.removeprefix("step-")) for path in (output / "checkpoints").glob("step-*"))


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[float]:
    """Make evaluations return these scores, one after the other; the list shrinks as they are used."""
    real, left = OpenSuite.run, list(scores)

    def run(self: OpenSuite, *args: Any, **options: Any) -> Any:
        report = real(self, *args, **options)
        report.scores = dict.fromkeys(report.scores, left.pop(0))
        return report

    monkeypatch.setattr(OpenSuite, "run", run)
    return left
