"""What a run writes of itself: rows of the log, figures for trackers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.factory import build
from embedkit.system.log_file import RATES, speed_of
from embedkit.training import setup
from embedkit.training.monitor.log import NotebookProgress, Progress, RichProgress, RunLog, default_progress, log_line
from embedkit.training.parallel.distributed import World
from embedkit.training.planning import _first_batches
from tests.training import runs


def test_a_resumed_run_does_not_log_a_step_twice(tmp_path: Path) -> None:
    given = runs.recipe(train={"max_steps": 4, "save_every": 2, "log_every": 1})
    runs.run(tmp_path / "run", given)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")  # as if killed on the way to step 4
    shutil.rmtree(tmp_path / "run" / "model")
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 4, "lo')
    runs.run(tmp_path / "run", given, resume=True)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]


def test_the_log_has_a_row_a_log_step_with_means_and_speeds(tmp_path: Path) -> None:
    every = runs.run(tmp_path / "every", runs.recipe(train={"max_steps": 5}))
    progress = runs.Recorder()
    result = runs.run(tmp_path / "run", runs.recipe(train={"max_steps": 5, "log_every": 2}), progress=progress)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 4, 5]  # the first and the last step are always there
    losses = every.losses
    wanted = [losses[0], losses[1], (losses[2] + losses[3]) / 2, losses[4]]
    assert [row["loss"] for row in rows] == pytest.approx(wanted, rel=1e-5)
    assert [row["loss"] for row in rows] == result.losses
    assert result.loss == result.losses[-1]
    for row in rows:
        assert {"lr", "gradient_norm", "sentences_per_s", "tokens_per_s", "padding_share", "data_wait_share"} <= set(
            row
        )
        assert row["sentences_per_s"] > 0
        assert row["tokens_per_s"] > row["sentences_per_s"] * 3  # [CLS], [SEP] and a word at least
        assert 0 <= row["padding_share"] < 1
        assert 0 <= row["data_wait_share"] <= 1
        assert row["gradient_norm"] > 0
        assert progress.figures[row["step"]]["loss"] == row["loss"]
    known = json.loads((tmp_path / "run" / "result.json").read_text())
    assert known["steps"] == 5
    assert known["losses"] == result.losses
    assert load_recipe(tmp_path / "run" / "recipe.yaml").train.log_every == 2
    runs.run(tmp_path / "run", runs.recipe(train={"max_steps": 5, "log_every": 2}), resume=True)  # nothing left to do
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == known
    (tmp_path / "run" / "result.json").unlink()
    runs.run(tmp_path / "run", runs.recipe(train={"max_steps": 5, "log_every": 2}), resume=True)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["loss"] is None


def test_a_log_that_cannot_be_written_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "log.jsonl").mkdir(parents=True)
    progress = runs.Recorder()
    result = runs.run(tmp_path / "run", progress=progress)
    assert result.steps == 4
    assert [line for line in progress.lines if "log cannot be written" in line] == [
        f"{tmp_path / 'run' / 'log.jsonl'}: the log cannot be written (Is a directory); training continues"
    ]


def test_lines_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    shown = RichProgress()
    shown.start(2, 0)
    for line in ("data.train[0]: the cell is '[/i1]'", "runs/[exp]/x: resuming", "runs/:cat:/[red]x[/red]"):
        shown.say(line)
    shown.step(1, {"loss": 0.5, **dict.fromkeys(("lr", "sentences_per_s", "tokens_per_s"), 1.0),
                   "padding_share": 0.0, "data_wait_share": 0.0})  # fmt: skip
    shown.stop()
    told = capsys.readouterr().err
    for line in ("data.train[0]: the cell is '[/i1]'", "runs/[exp]/x: resuming", "runs/:cat:/[red]x[/red]"):
        assert line in told


def test_a_notebook_gets_a_bar_without_widgets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """IPython as far as a kernel has it: a display that is updated, and no ipywidgets."""
    drawn: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            drawn.append(html)

    def display(html: str, display_id: bool = False) -> Handle:
        assert display_id
        drawn.append(html)
        return Handle()

    assert isinstance(default_progress(), RichProgress)
    shell = type("Shell", (), {"kernel": object()})()
    module = ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    shown = ModuleType("IPython.display")
    shown.HTML, shown.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    progress = default_progress()
    assert isinstance(progress, NotebookProgress)
    progress.start(20, 0)
    for step in range(1, 21):
        progress.step(step, {"loss": 0.5} if step in (1, 20) else None)
    progress.say("a <line>")
    progress.stop()
    assert drawn == [
        '<progress value="0" max="20"></progress> 0/20 ',
        '<progress value="1" max="20"></progress> 1/20 loss 0.5000',
        '<progress value="10" max="20"></progress> 10/20 loss 0.5000',
        '<progress value="20" max="20"></progress> 20/20 loss 0.5000',
    ]
    printed = capsys.readouterr()
    assert printed.out == "a <line>\n"
    assert "ipywidgets" not in printed.out + printed.err


def test_off_a_terminal_first_and_last_step_of_a_short_run_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.run(tmp_path / "run", runs.recipe(train={"log_every": 10}), progress=RichProgress())
    told = capsys.readouterr().err
    lines = [line.split(":")[0] for line in told.splitlines() if line.startswith("step ")]
    assert lines == ["step 1", "step 4"]
    assert "\n\n" not in told  # a bar that is not shown leaves no empty lines


def test_off_a_terminal_a_log_line_says_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("embedkit.training.monitor.log.time.monotonic", lambda: now[0])
    shown = RichProgress()
    figures = {"loss": 0.5, **dict.fromkeys(("lr", "sentences_per_s", "tokens_per_s"), 1.0),
               "padding_share": 0.0, "data_wait_share": 0.0}  # fmt: skip
    shown.start(180, 10)  # a resumed run: ten steps belong to another process
    for step, seconds in ((11, 5.0), (20, 40.0), (180, 600.0)):
        now[0] = 100.0 + seconds
        shown.step(step, figures)
    first, second, last = capsys.readouterr().err.splitlines()
    assert second.endswith(", about 11 min left")
    assert "left" not in first + last


@pytest.mark.parametrize(
    ("name", "noun"),
    [("quickstart", "sentences"), ("simclr", "images"), ("clip-small", "inputs"), ("feature-pairs", "vectors"),
     ("time-series", "sequences")],
)  # fmt: skip
def test_the_speed_counts_what_the_model_reads(name: str, noun: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["train.batch_size=4"], smoke=True)
    method = setup.build_method(recipe)
    rows = setup.open_rows(recipe, method)
    recipe = setup.as_opened(recipe, rows)
    model: Any = build(recipe.model)
    batch = _first_batches(recipe, rows, method, model)[0]
    log = RunLog(tmp_path / "log.jsonl", World(), Progress(), waited=lambda: 0.0)
    log.add(SimpleNamespace(loss=torch.ones(()), terms={}, metrics={}), batch)  # type: ignore[arg-type]
    figures = log.write(1, {"lr": 0.1})
    assert [key for key in figures if key in RATES] == [f"{noun}_per_s"]
    assert f" {noun}/s, " in log_line(1, figures)
    assert speed_of(json.loads((tmp_path / "log.jsonl").read_text())) == (noun, figures[f"{noun}_per_s"])
