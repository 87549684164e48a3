"""Half an hour of training, evaluation and checkpoints: memory, files and speed stay flat."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.frame import NotHere, Outcome, World, case

COLUMNS = ("seconds", "step", "cpu_seconds", "memory_mib", "open_files", "threads", "pace")
WARM_UP = 0.1
"""Share of the time that is left out before anything is compared."""


def _resident() -> float:
    """Resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _pace() -> float:
    """Processor seconds of a fixed piece of work: how fast this machine is just now, whoever else uses it."""
    import torch

    a = torch.full((160, 160), 0.01)
    began = time.process_time()
    for _ in range(40):
        a = (a @ a).tanh()
    return time.process_time() - began


class Meter:
    """Takes a sample at log steps, one every `every` seconds, and asks the run to end after `seconds`."""

    def __init__(self, seconds: float, every: float) -> None:
        from embedkit.training.monitor.log import Progress

        meter = self

        class Samples(Progress):
            def step(self, done: int, figures: Mapping[str, float] | None) -> None:
                if figures is not None:
                    meter._sample(done)

        self.progress = Samples()
        self.rows: list[dict[str, float]] = []
        self._seconds, self._every, self._began, self._asked = seconds, every, time.monotonic(), False

    def _sample(self, step: int) -> None:
        now = time.monotonic() - self._began
        if self.rows and now - self.rows[-1]["seconds"] < self._every:
            return
        used = time.process_time()
        values = (
            now, step, used, _resident(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), _pace()
        )  # fmt: skip
        self.rows.append(dict(zip(COLUMNS, map(float, values), strict=True)))
        if now > self._seconds and not self._asked:
            self._asked = True
            os.kill(os.getpid(), signal.SIGTERM)


def soak(folder: Path, seconds: float, every: float) -> list[dict[str, float]]:
    """Train a tiny model on a streamed file for so long, with evaluations and checkpoints; the samples."""
    if not Path("/proc/self/statm").is_file():
        raise NotHere("needs /proc")
    import itertools

    from embedkit.data.builtin import sentences as builtin
    from embedkit.training import train
    from embedkit.training.loop.loop import Interrupted
    from tests.training import runs

    source = folder / "rows.jsonl"
    rows = itertools.islice(builtin.rows("triplets-train"), 4000)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = runs.recipe(
        dropout=0.1,
        data={"train": [{"path": str(source), "stream": True}], "shuffle_buffer": 1000},
        train={"max_steps": 10**7, "batch_size": 16, "log_every": 10, "save_every": 100, "schedule": "constant",
               "lr": 1e-4, "threads": 1},
        evaluation={"suite": "builtin-sts", "split": "dev", "every": 200, "load_best": False},
    )  # fmt: skip
    meter = Meter(seconds, every)
    with pytest.raises(Interrupted):
        train(given, output=folder / "run", progress=meter.progress)
    kept = list((folder / "run" / "checkpoints").iterdir())
    assert len(kept) <= 3, f"{len(kept)} checkpoints are kept"
    return meter.rows


def _between(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians of the last fifth over those of the first one, warm-up aside, less 1; speeds are per processor second."""
    after = [row for row in rows if row["seconds"] >= WARM_UP * rows[-1]["seconds"]]
    span = after[-1]["seconds"] - after[0]["seconds"]
    first = [row for row in after if row["seconds"] <= after[0]["seconds"] + span / 5]
    last = [row for row in after if row["seconds"] >= after[-1]["seconds"] - span / 5]

    def middle(part: list[dict[str, float]], name: str) -> float:
        return statistics.median(row[name] for row in part)

    def speed(part: list[dict[str, float]]) -> float:
        return (part[-1]["step"] - part[0]["step"]) / (part[-1]["cpu_seconds"] - part[0]["cpu_seconds"])

    found = {name: middle(last, name) / middle(first, name) - 1 for name in ("memory_mib", "open_files", "threads")}
    plain = speed(last) / speed(first)
    pace = middle(last, "pace") / middle(first, "pace")  # above 1: the machine has become slower
    return {**found, "speed": plain - 1, "speed_at_equal_pace": plain * pace - 1}


def _draw(rows: list[dict[str, float]], title: str) -> str:
    """Memory, open files and speed over the minutes, as SVG; all axes begin at 0."""
    from embedkit.evaluation.report.charts import lines

    minutes = [row["seconds"] / 60 for row in rows]
    wide = max(1, len(rows) // 60)
    speed = [
        (minutes[i + wide], (rows[i + wide]["step"] - rows[i]["step"])
         / (rows[i + wide]["cpu_seconds"] - rows[i]["cpu_seconds"]))
        for i in range(0, len(rows) - wide, wide)
    ]  # fmt: skip
    panels = [
        ("resident memory, MiB", [(m, row["memory_mib"]) for m, row in zip(minutes, rows, strict=True)]),
        ("open files", [(m, row["open_files"]) for m, row in zip(minutes, rows, strict=True)]),
        ("steps a processor second", speed),
    ]
    parts = []
    for place, (name, points) in enumerate(panels):
        chart = lines(name, [(name, points), ("", [(0.0, 0.0)])], f"minutes ({name})", size=700)
        parts.append(chart.replace("<svg ", f'<svg x="0" y="{20 + 200 * place}" width="700" height="195" ', 1))
    style = "text{font:11px sans-serif}.grid{stroke:#ddd}.axis{stroke:#888}polyline{fill:none;stroke-width:1.5}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {30 + 200 * len(panels)}">'
        f'<style>{style}</style><text x="6" y="14">{title}</text>{"".join(parts)}</svg>\n'
    )


def _keep(rows: list[dict[str, float]], folder: Path, title: str) -> None:
    """Write ``soak.csv`` and ``soak.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "soak.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: round(value, 5) for name, value in row.items()} for row in rows)
    (folder / "soak.svg").write_text(_draw(rows, title), encoding="utf-8")


def _said(rows: list[dict[str, float]], change: dict[str, Any]) -> str:
    last = rows[-1]
    changes = ", ".join(f"{name.replace('_', ' ')} {value:+.2%}" for name, value in change.items())
    return (
        f"{last['seconds'] / 60:.1f} min, {last['step']:,.0f} steps, {last['step'] // 200:.0f} evaluations, "
        f"{last['step'] // 100:.0f} checkpoints, {last['memory_mib']:.0f} MiB, {last['open_files']:.0f} open files; "
        f"last fifth against first: {changes}"
    )


@case("soak", "half an hour on a stream: memory, files and speed are flat", long=True)
def half_an_hour(world: World) -> Outcome:
    minutes = world.trials or 30
    rows = soak(world.folder, 60.0 * minutes, max(1.0, minutes / 10))
    change = _between(rows)
    said = _said(rows, change)
    _keep(rows, world.keep or world.folder, said)
    assert change["memory_mib"] <= 0.02, said
    assert change["open_files"] <= 0 and change["threads"] <= 0, said
    assert change["speed_at_equal_pace"] >= -0.05, said
    return Outcome(said)


@case("soak", "a quarter of a minute on a stream: no file is left open, memory stays")
def quarter_of_a_minute(world: World) -> Outcome:
    rows = soak(world.folder, 15.0, 0.2)
    change = _between(rows)
    said = _said(rows, change)
    assert change["memory_mib"] <= 0.2 and change["open_files"] <= 0, said
    return Outcome(said)
