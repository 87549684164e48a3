"""Trackers of a run get its figures and the tables of its evaluations: each that is installed, offline and for real."""

from __future__ import annotations

import json
import sqlite3
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import CheckpointError, RecipeError, UserError
from embedkit.evaluation.report.tables import Table
from embedkit.system.disk import FolderLock
from embedkit.training import batching
from embedkit.training.monitor.trackers import Trackers, open_trackers
from tests.training import runs

Curves = dict[str, dict[int, float]]
"""Name of a figure -> step -> its value."""

Tables = dict[str, dict[int, str]]
"""Name of a table -> step -> its text."""


def _tensorboard(folder: Path) -> tuple[Curves, Tables]:
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


def _wandb(folder: Path) -> tuple[Curves, Tables]:
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


def _mlflow(folder: Path) -> tuple[Curves, Tables]:
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


def _trackio(folder: Path) -> tuple[Curves, Tables]:
    curves: Curves = {}
    tables: Tables = {}
    with sqlite3.connect(folder / "trackio" / "embedkit.db") as base:
        rows = base.execute("select step, metrics from metrics order by id").fetchall()
    for step, text in rows:
        for name, value in json.loads(text).items():
            if isinstance(value, dict):
                tables.setdefault(name, {})[step] = json.dumps(value)
            else:
                curves.setdefault(name, {})[step] = value
    return curves, tables


def _comet(folder: Path) -> tuple[Curves, Tables]:
    curves: Curves = {}
    tables: Tables = {}
    [archive] = folder.rglob("*.zip")
    with zipfile.ZipFile(archive) as file:
        for message in map(json.loads, file.read("messages.json").splitlines()):
            payload = message["payload"]
            if message["type"] == "metric_msg":
                metric = payload["metric"]
                curves.setdefault(metric["metricName"], {})[metric["step"]] = metric["metricValue"]
            name = Path((payload.get("additional_params") or {}).get("fileName") or "")
            if name.suffix == ".csv":
                text = file.read(Path(payload["file_path"]).name).decode()
                tables.setdefault(name.parent.as_posix(), {})[int(name.stem.removeprefix("step-"))] = text
    return curves, tables


def _aim(folder: Path) -> tuple[Curves, Tables]:
    from aim import Repo, Run

    [name] = Repo.from_path(str(folder / "run")).list_all_runs()
    run = Run(
        name, repo=str(folder / "run"), system_tracking_interval=None
    )  # to read alone it needs its server's index
    curves: Curves = {}
    tables: Tables = {}
    for metric in run.metrics():
        steps, values = metric.data.items_list()
        curves[metric.name] = dict(zip(steps, values[0], strict=True))
    for name, context, _ in run.iter_sequence_info_by_type("aim.text"):
        steps, texts = run.get_text_sequence(name, context).data.items_list()
        tables[name] = {step: text.data for step, text in zip(steps, texts[0], strict=True)}
    return curves, tables


def _dvclive(folder: Path) -> tuple[Curves, Tables]:
    curves: Curves = {}
    start = folder / "dvclive" / "plots" / "metrics"
    for file in start.rglob("*.tsv"):
        rows = [line.split("\t") for line in file.read_text().splitlines()[1:]]
        curves[file.relative_to(start).with_suffix("").as_posix()] = {int(step): float(value) for step, value in rows}
    return curves, {}


def _clearml(folder: Path) -> tuple[Curves, Tables]:
    curves: Curves = {}
    tables: Tables = {}
    [file] = folder.rglob("metrics.jsonl")
    for event in (event for line in file.read_text().splitlines() for event in json.loads(line)):
        if event["type"] == "plot":
            tables.setdefault(event["metric"], {})[event["iter"]] = event["plot_str"]
        else:
            curves.setdefault(event["metric"], {})[event["iter"]] = event["value"]
    return curves, tables


def _swanlab(folder: Path) -> tuple[Curves, Tables]:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    curves: Curves = {}
    tables: Tables = {}
    [file] = folder.rglob("*.swanlab")
    reader = DataStoreReader()
    reader.open(file)
    for record in map(Record.FromString, reader):
        if record.HasField("scalar"):
            curves.setdefault(record.scalar.key, {})[record.scalar.step] = record.scalar.value.number
        elif record.HasField("media"):
            [text] = file.parent.rglob(record.media.value.items[0].filename)
            tables.setdefault(record.media.key, {})[record.media.step] = text.read_text()
    return curves, tables


_READERS: dict[str, Callable[[Path], tuple[Curves, Tables]]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio, "comet_ml": _comet,
    "aim": _aim, "dvclive": _dvclive, "clearml": _clearml, "swanlab": _swanlab,
}  # fmt: skip


@pytest.mark.parametrize("tracker", _READERS)
def test_trackers_get_figures_and_scores(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true", "COMET_START_ONLINE": "0", "TRACKIO_DIR": f"{tmp_path}/trackio",
        "CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": f"{tmp_path}/clearml", "SWANLAB_MODE": "offline",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    pytest.importorskip(tracker, reason=f"needs the package {tracker}")  # some read their folder here
    own = tmp_path / "own.csv"
    own.write_text("sentence1,sentence2,score\na cat,a <b>cat</b>,5\na cat,a dog | two,3\na cat,the tax,0\n")
    given = runs.recipe(train={"trackers": [tracker], "holdout": 0.25, "save_every": 2, "max_steps": 4})
    runs.run(tmp_path / "run", given | {"evaluation": {"suite": "own-sts", "data": str(own), "every": 2}})
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found, tables = _READERS[tracker](tmp_path)
    assert [row["step"] for row in rows][-2:] == [4, 2]  # the saved model is an earlier one
    step = 0
    for row in rows:
        step = max(step, row["step"])
        scores = {f"eval/{name.replace('@', '_at_')}": value for name, value in row.get("scores", {}).items()}
        for name, value in (scores or {name: row[name] for name in ("loss", "lr")}).items():
            assert found[name][step] == pytest.approx(value, rel=1e-6), (name, step)
    if tracker == "dvclive":  # it has none
        assert tables == {}
        return
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


def test_names_that_trackers_cannot_tell_apart_stay_two() -> None:
    got: list[tuple[str, int | None]] = []

    class Tracker:
        name = "tensorboard"

        @property
        def writer(self) -> Any:
            return self

        def log(self, values: dict[str, float], step: int) -> None:
            got.extend(values.items())

        def add_text(self, name: str, text: str, global_step: int) -> None:
            got.append((name, None))

    trackers = Trackers([Tracker()])
    for _ in range(2):
        trackers.figures({"a@1": 1, "a?1": 2, "a_1": 3, "a_at_1": 4, "a#1": 5}, step=1)
        trackers.table(Table("b?", ["x"], []), step=1)
        trackers.table(Table("b_", ["x"], []), step=1)
        assert sorted(got, key=lambda one: one[1] or 9) == [
            ("a_at_1_2", 1), ("a_1_3", 2), ("a_1", 3), ("a_at_1", 4), ("a_1_2", 5), ("b_", None), ("b__2", None),
        ]  # fmt: skip
        got.clear()


def test_a_tracker_that_does_not_start_is_a_line_without_its_key() -> None:
    class Accelerator:
        log_with: Any = ("tensorboard", "wandb", "aim")
        trackers: Any = ()

        def init_trackers(self, project: str, config: dict[str, Any]) -> None:
            if self.log_with == ["wandb"]:
                raise ValueError("The given API key 'Ab3dEf6hIj9lMn2pQr5t' is\ninvalid.")
            self.trackers = list(self.log_with)

    accelerator = Accelerator()
    with pytest.raises(RecipeError) as caught:
        open_trackers(accelerator, {"seed": 7})
    assert caught.value.line() == (
        "train.trackers: the tracker 'wandb' does not start: The given API key '***' is invalid; log in as its "
        "documentation says, or set WANDB_MODE=offline in the environment to keep the run on this machine"
    )
    assert accelerator.trackers == ["tensorboard"]  # which the run ends
