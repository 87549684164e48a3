"""What a run writes of itself: rows of the log, figures for trackers."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import CheckpointError, RecipeError, UserError
from embedkit.system.disk import FolderLock
from embedkit.training import batching
from embedkit.training.monitor.log import NotebookProgress, RichProgress, default_progress
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


Tables = dict[str, dict[int, str]]
"""Name of a table -> step -> its text."""


def _tensorboard(folder: Path) -> tuple[dict[str, dict[int, float]], Tables]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = folder.rglob("events.out.tfevents*.0")
    events = EventAccumulator(str(file))
    events.Reload()
    curves = {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}
    tables = {
        name.removesuffix("/text_summary"): {
            event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(name)
        }
        for name in events.Tags()["tensors"]
    }
    return curves, tables


def _wandb(folder: Path) -> tuple[dict[str, dict[int, float]], Tables]:
    [file] = folder.rglob("*.wandb")
    curves: dict[str, dict[int, Any]] = {}
    tables: Tables = {}
    while (records := _wandb_records(file.read_bytes()))[-1].WhichOneof("record_type") != "exit":
        time.sleep(0.05)  # its own process goes on writing after the run has ended
    for record in records:
        items = {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            curves.setdefault(name, {})[items["_step"]] = value
            if name.endswith("/path"):
                [table] = folder.rglob(Path(value).name)
                tables.setdefault(name.removesuffix("/path"), {})[items["_step"]] = table.read_text()
    return curves, tables


def _wandb_records(data: bytes) -> list[Any]:
    """What a run file of wandb holds: blocks of 32 KiB of parts (check sum, length, type), as LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    records, place, message = [Record()], 7, b""
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (2, 3):  # else the first or a middle part of a record
            records.append(Record.FromString(message))
            message = b""
    return records


def _mlflow(folder: Path) -> tuple[dict[str, dict[int, float]], Tables]:
    import mlflow

    client = mlflow.MlflowClient()
    [experiment] = [one for one in client.search_experiments() if one.name == "embedkit"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params["train.batch_size"] == "8" and run.data.params["method.name"] == "pairs"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    curves = {name: {point.step: point.value for point in points} for name, points in histories.items()}
    tables: Tables = {}
    for logged in json.loads(run.data.tags["mlflow.loggedArtifacts"]):
        path = Path(logged["path"])
        frame = client.load_table(experiment.experiment_id, logged["path"])
        tables.setdefault(path.parent.as_posix(), {})[int(path.stem.removeprefix("step-"))] = frame.to_json()
    return curves, tables


@pytest.mark.parametrize(
    ("tracker", "curves"), [("tensorboard", _tensorboard), ("wandb", _wandb), ("mlflow", _mlflow)]
)  # fmt: skip
def test_trackers_get_figures_and_scores(
    tracker: str, curves: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker, reason=f"needs the package {tracker}")
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    own = tmp_path / "own.csv"
    own.write_text("sentence1,sentence2,score\na cat,a <b>cat</b>,5\na cat,a dog | two,3\na cat,the tax,0\n")
    given = runs.recipe(train={"trackers": [tracker], "holdout": 0.25, "save_every": 2, "max_steps": 4})
    runs.run(tmp_path / "run", given | {"evaluation": {"suite": "own-sts", "data": str(own), "every": 2}})
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found, tables = curves(tmp_path)
    assert [row["step"] for row in rows][-2:] == [4, 2]  # the saved model is an earlier one
    step = 0
    for row in rows:
        step = max(step, row["step"])
        scores = {f"eval/{name.replace('@', '_at_')}": value for name, value in row.get("scores", {}).items()}
        for name, value in (scores or {name: row[name] for name in ("loss", "lr")}).items():
            assert found[name][step] == pytest.approx(value, rel=1e-6), (name, step)
    assert set(tables) == {f"eval/own-sts/{name}" for name in ("scores", "metrics", "worst/own")}
    for name, part in (("scores", "spearman"), ("metrics", "pearson"), ("worst/own", "a dog")):
        steps = tables[f"eval/own-sts/{name}"]
        assert set(steps) >= {2, 4} and all(part in text for text in steps.values()), (name, steps)


def test_trackers_that_are_missing_or_unknown_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "comet_ml" else real(name, *rest))
    with pytest.raises(RecipeError, match=r"'comet_ml' is not installed; pip install comet-ml"):
        runs.run(tmp_path / "other", runs.recipe(train={"trackers": ["comet_ml"]}))
    assert not (tmp_path / "other").exists()
    with pytest.raises(RecipeError, match=r"train.trackers.0.*'wandbb'.*'wandb'"):
        runs.run(tmp_path / "other", runs.recipe(train={"trackers": ["wandbb"]}))


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_cannot_begin_has_nothing_in_its_trackers_and_leaves_the_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """A locked folder, shares that do not fit, a model that is not there, a checkpoint of another recipe."""
    from importlib import util

    from accelerate import Accelerator

    started: list[str] = []
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: real("json" if name == "wandb" else name, *rest))
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, name, **settings: started.append(name))
    given = runs.recipe(train={"trackers": ["wandb"], "max_steps": 1})
    output = tmp_path / "run"
    held = FolderLock(output, "wait")
    with pytest.raises(CheckpointError, match="in use by process"):
        runs.run(output, given, resume=resume)
    held.release()
    with monkeypatch.context() as patch:
        patch.setattr(batching, "check_shares", _refuse)
        with pytest.raises(RecipeError, match="does not fit"):
            runs.run(output, given, resume=resume)
    with pytest.raises(UserError, match="nowhere"):
        runs.run(output, {**given, "model": {"name": "/nowhere/at/all"}}, resume=resume)
    assert started == []
    runs.run(output, given, resume=resume)
    assert started == ["embedkit"]
    with pytest.raises(CheckpointError, match="belongs to another run"):
        runs.run(output, given, "seed=8", resume=True)
    assert started == ["embedkit"]


def _refuse(*given: object) -> None:
    raise RecipeError("does not fit")


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
