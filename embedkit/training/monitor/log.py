"""What a run says of itself: a line on the console, a row in ``log.jsonl``, numbers for trackers.

Losses stay on the device between log steps; nothing here waits for the device elsewhere.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedkit.disk import disk_reason, write_durably
from embedkit.training.loop.step import StepResult
from embedkit.training.parallel.distributed import World


class Progress:
    """Shows progress to a person; the default shows nothing. Subclass it for a bar or a notebook."""

    def start(self, total: int | None, done: int) -> None:
        """The run begins at step `done` of `total`."""

    def step(self, done: int, figures: Mapping[str, float] | None) -> None:
        """Step `done` is finished; `figures` are there on log steps."""

    def say(self, line: str) -> None:
        """A line worth reading."""

    def stop(self) -> None:
        """The run ends."""


class RichProgress(Progress):
    """A rich progress bar with the last figures, and log lines above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        # notes quote data and paths, which are no markup and no emoji codes
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        columns = ("step", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        last = TextColumn("{task.fields[last]}", markup=False)
        self._bar = Bar(*columns, last, console=self._console, transient=True)
        self._task = self._bar.add_task("steps", total=None, last="")

    def start(self, total: int | None, done: int) -> None:
        self._bar.update(self._task, total=total, completed=done)
        self._bar.start()

    def step(self, done: int, figures: Mapping[str, float] | None) -> None:
        self._bar.update(self._task, completed=done)
        if figures:
            self._bar.update(self._task, last=f"loss {figures['loss']:.4f}")
        if figures and not self._console.is_terminal:
            self._console.print(log_line(done, figures))

    def say(self, line: str) -> None:
        self._console.print(line)

    def stop(self) -> None:
        self._bar.stop()


def log_line(step: int, figures: Mapping[str, float]) -> str:
    """One line for people: loss, learning rate, speed, padding and waiting shares."""
    first = f"step {step}: loss {figures['loss']:.4f}, lr {figures['lr']:.3g}"
    speed = f"{figures['sentences_per_s']:.0f} sentences/s, {figures['tokens_per_s']:.0f} tokens/s"
    shares = f"padding {figures['padding_share']:.1%}, waiting for data {figures['data_wait_share']:.1%}"
    short = f", {figures['short_batches']:.0f} batches short of negatives" if figures.get("short_batches") else ""
    return f"{first}, {speed}, {shares}{short}"


def _step_of(line: bytes) -> float:
    """The step of a row of the log; infinity for a row that a kill cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return math.inf


class RunLog:
    """Adds up the steps between two log lines.

    Parameters
    ----------
    waited : callable () -> float
        Seconds spent waiting for data since the run began.
    track : callable (figures, step), optional
        Hands figures to experiment trackers.
    """

    def __init__(
        self, path: Path, world: World, progress: Progress, waited: Callable[[], float],
        track: Callable[[dict[str, float], int], None] | None = None,
    ) -> None:  # fmt: skip
        self.path, self.world, self.progress, self._waited, self._track = path, world, progress, waited, track
        self._file_works = True
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self._inputs, self._tokens, self._computed = 0, 0, 0, 0
        self._since, self._waited_before = time.perf_counter(), self._waited()
        self._metrics: dict[str, Tensor] = {}

    def add(self, result: StepResult, inputs: int, tokens: int, computed: int) -> None:
        """Count a step: inputs encoded, real tokens, and tokens computed including padding (this process)."""
        for name, value in {"loss": result.loss, **result.terms}.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._metrics = result.metrics
        self._steps, self._inputs, self._tokens = self._steps + 1, self._inputs + inputs, self._tokens + tokens
        self._computed += computed

    def write(self, step: int, extra: Mapping[str, float]) -> dict[str, float]:
        """Figures since the last log line, summed over processes; written, shown and tracked by the main process."""
        names = sorted(self._sums)
        counts = torch.tensor([float(self._inputs), float(self._tokens), float(self._computed)], dtype=torch.float64)
        device = self.world.device
        sums = torch.stack([self._sums[name].to(device, torch.float32) for name in names])
        losses = (self.world.sum(sums) / max(1, self._steps)).tolist()
        inputs, tokens, computed = self.world.sum(counts.to(device, torch.float32)).tolist()
        seconds = max(1e-9, time.perf_counter() - self._since)
        figures = dict(zip(names, losses, strict=True)) | {n: float(v) for n, v in self._metrics.items()}
        figures |= {
            "sentences_per_s": inputs / seconds,
            "tokens_per_s": tokens / seconds,
            "padding_share": 1.0 - tokens / computed if computed else 0.0,
            "data_wait_share": min(1.0, (self._waited() - self._waited_before) / seconds),
            **extra,
        }
        self.record({"step": step, **figures})
        if self._track is not None:
            self._track(figures, step)
        self._reset()
        return figures

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run writes again."""
        if not (self.world.is_main and self.path.is_file()):
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            write_durably(self.path, b"".join(kept))

    def record(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``log.jsonl``. A log that cannot be written is said once and does not end the run."""
        if not (self.world.is_main and self._file_works):
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self._file_works = False
            said = disk_reason(error, self.path.parent)
            self.progress.say(f"{self.path}: the log cannot be written ({said}); training goes on")
