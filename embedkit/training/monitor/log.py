"""What a run says of itself: a line on the console, a row in ``log.jsonl``, numbers for trackers.

Losses stay on the device between log steps; nothing here waits for the device elsewhere.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedkit.evaluation.report.tables import Table
from embedkit.models.inputs.sequences import SequenceInputs
from embedkit.models.inputs.vectors import VectorInputs
from embedkit.system.disk import disk_reason, write_durably
from embedkit.system.log_file import speed_of
from embedkit.system.notebook import NotebookBar, in_notebook
from embedkit.training.loop.batches import Pool, StepBatch
from embedkit.training.loop.step import StepResult
from embedkit.training.monitor.trackers import Trackers
from embedkit.training.parallel.distributed import World

PARTS = {"images": "patches", "sequences": "steps"}
"""What inputs are made of where it is not tokens; a vector is whole."""


class Progress:
    """Shows progress to a person; the default shows nothing. Subclass it for a bar or a notebook.

    Examples
    --------
    >>> class Lines(Progress):
    ...     def step(self, step, figures):
    ...         if figures:
    ...             print(step, figures["loss"])
    >>> Lines().step(10, {"loss": 0.5})
    10 0.5
    """

    def start(self, total: int | None, step: int) -> None:
        """The run begins at `step` of `total`."""

    def step(self, step: int, figures: Mapping[str, float] | None) -> None:
        """`step` is finished; `figures` are there on log steps."""

    def say(self, line: str) -> None:
        """A line worth reading."""

    def stop(self) -> None:
        """The run ends."""


class RichProgress(Progress):
    """A rich progress bar with the last figures in a terminal; log lines with the time left in a file or a pipe.

    Examples
    --------
    >>> progress = RichProgress()
    >>> progress.start(100, 0)
    >>> progress.say("resuming from step 0")  # on standard error
    >>> progress.stop()
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        # notes quote data and paths, which are no markup and no emoji codes
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        columns = ("step", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        last = TextColumn("{task.fields[last]}", markup=False)
        self._bar = Bar(*columns, last, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("steps", total=None, last="")
        self._total: int | None = None
        self._first, self._since = 0, time.monotonic()

    def start(self, total: int | None, step: int) -> None:
        self._total, self._first, self._since = total, step, time.monotonic()
        self._bar.update(self._task, total=total, completed=step)
        self._bar.start()

    def step(self, step: int, figures: Mapping[str, float] | None) -> None:
        self._bar.update(self._task, completed=step)
        if figures:
            self._bar.update(self._task, last=f"loss {figures['loss']:.4f}")
        if figures and not self._console.is_terminal:
            duration = time.monotonic() - self._since
            self._console.print(log_line(step, figures) + time_left(duration, step - self._first, self._total, step))

    def say(self, line: str) -> None:
        self._console.print(line)

    def stop(self) -> None:
        self._bar.stop()


def time_left(duration: float, steps: int, total: int | None, step: int) -> str:
    """The end of a log line: the time for the steps to come, where the last `steps` took `duration` seconds.

    Empty behind the first step, which alone pays for the warm-up, where the end is unknown, and at the end.

    Examples
    --------
    >>> time_left(duration=40.0, steps=10, total=180, step=10)
    ', about 11 min left'
    >>> time_left(duration=40.0, steps=10, total=12, step=10)
    ', about 8 s left'
    >>> time_left(duration=40.0, steps=1, total=180, step=1)
    ''
    """
    if total is None or steps < 2 or step >= total:
        return ""
    seconds = duration / steps * (total - step)
    if seconds < 100:
        return f", about {seconds:.0f} s left"
    return f", about {seconds / 60:.0f} min left" if seconds < 6000 else f", about {seconds / 3600:.1f} h left"


class NotebookProgress(Progress):
    """A bar below the cell of a notebook, lines as they come; needs no ipywidgets.

    Parameters
    ----------
    every : int
        The bar is drawn anew after so many steps.

    Examples
    --------
    >>> NotebookProgress().say("resuming from step 120")
    resuming from step 120
    """

    def __init__(self, every: int = 10) -> None:
        self._bar, self._every = NotebookBar(), every
        self._total: int | None = None
        self._text = ""

    def start(self, total: int | None, step: int) -> None:
        self._total = total
        self._bar.show(step, total)

    def step(self, step: int, figures: Mapping[str, float] | None) -> None:
        if figures:
            self._text = f"loss {figures['loss']:.4f}"
        if figures or step % self._every == 0:
            self._bar.show(step, self._total, self._text)

    def say(self, line: str) -> None:
        print(line)


def default_progress() -> Progress:
    """The progress of a run that is given none: a notebook's bar in a notebook, else a rich bar on standard error.

    Examples
    --------
    >>> type(default_progress()).__name__  # outside of a notebook
    'RichProgress'
    """
    return NotebookProgress() if in_notebook() else RichProgress()


def log_line(step: int, figures: Mapping[str, float]) -> str:
    """One line for people: loss, learning rate, speed, padding and waiting shares; see `RATES` for what is counted.

    Examples
    --------
    >>> shares = {"padding_share": 0.02, "data_wait_share": 0.1}
    >>> log_line(10, {"loss": 0.5, "lr": 1e-3, "sentences_per_s": 900, "tokens_per_s": 9000, **shares})
    'step 10: loss 0.5000, lr 0.001, 900 sentences/s, 9000 tokens/s, padding 2.0%, waiting for data 10.0%'
    >>> slow = {"loss": 2.0, "lr": 1e-3, "sentences_per_s": 0.42, "tokens_per_s": 5, **shares}
    >>> log_line(10, slow)
    'step 10: loss 2.0000, lr 0.001, 0.42 sentences/s, 5 tokens/s, padding 2.0%, waiting for data 10.0%'
    >>> log_line(10, {"loss": 0.5, "lr": 1e-3, "images_per_s": 90, "tokens_per_s": 900, **shares})
    'step 10: loss 0.5000, lr 0.001, 90 images/s, 900 patches/s, padding 2.0%, waiting for data 10.0%'
    """
    first = f"step {step}: loss {figures['loss']:.4f}, lr {figures['lr']:.3g}"
    noun, rate = speed_of(figures) or ("inputs", 0.0)
    speed = f"{rate:{'.0f' if rate >= 10 else '.2g'}} {noun}/s"
    if noun != "vectors":
        speed += f", {figures['tokens_per_s']:.0f} {PARTS.get(noun, 'tokens')}/s"
    shares = f"padding {figures['padding_share']:.1%}, waiting for data {figures['data_wait_share']:.1%}"
    short = f", {figures['short_batches']:.0f} batches short of negatives" if figures.get("short_batches") else ""
    return f"{first}, {speed}, {shares}{short}"


def _noun(pool: Pool) -> str:
    """What the inputs of a pool are, in the plural."""
    kind = type(pool.inputs)
    if kind in (VectorInputs, SequenceInputs):  # a modality of vectors may be called image
        return "vectors" if kind is VectorInputs else "sequences"
    return "images" if pool.tower == "image" else "sentences"


def _step_of(line: bytes) -> float:
    """The step of a row of the log; infinity for a row that a kill truncated."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return math.inf


@dataclass
class _Window:
    """What is added up between two log lines; `waited` is the time spent waiting for data before the first step."""

    waited: float
    since: float = field(default_factory=time.perf_counter)
    sums: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    inputs: int = 0
    nouns: set[str] = field(default_factory=set)
    tokens: int = 0
    computed: int = 0


class RunLog:
    """Adds up the steps between two log lines.

    Parameters
    ----------
    waited : callable () -> float
        Seconds spent waiting for data since the run began.
    trackers : Trackers, optional
        The experiment trackers that get the figures.

    Examples
    --------
    >>> log = RunLog(Path("log.jsonl"), World(), Progress(), waited=lambda: 0.0)
    >>> log.record({"step": 10, "loss": 0.5})
    >>> log.record({"step": 20, "loss": 0.4})
    >>> log.rewind(10)
    >>> print(Path("log.jsonl").read_text())
    {"step": 10, "loss": 0.5}
    """

    def __init__(
        self, path: Path, world: World, progress: Progress, waited: Callable[[], float],
        trackers: Trackers | None = None,
    ) -> None:  # fmt: skip
        self.path, self.world, self.progress, self._waited = path, world, progress, waited
        self._trackers = trackers or Trackers([])
        self._file_works = True
        self._window = _Window(waited())

    def add(self, result: StepResult, batch: StepBatch) -> None:
        """Count a step of this process: its losses, inputs and tokens."""
        window, tokens = self._window, batch.tokens
        for name, value in {"loss": result.loss, **result.terms}.items():
            window.sums[name] = window.sums.get(name, torch.zeros_like(value)) + value
        window.metrics = result.metrics
        window.steps += 1
        window.inputs += sum(len(pool.inputs) for pool in batch.pools)
        window.nouns |= {_noun(pool) for pool in batch.pools}
        window.tokens += tokens
        window.computed += tokens

    def write(self, step: int, extra: Mapping[str, float]) -> dict[str, float]:
        """Figures since the last log line, summed over processes; written, shown and tracked by the main process."""
        window, device = self._window, self.world.device
        names = sorted(window.sums)
        counts = torch.tensor([float(window.inputs), float(window.tokens), float(window.computed)], dtype=torch.float64)
        sums = torch.stack([window.sums[name].to(device, torch.float32) for name in names])
        losses = (self.world.sum(sums) / max(1, window.steps)).tolist()
        inputs, tokens, computed = self.world.sum(counts.to(device, torch.float32)).tolist()
        seconds = max(1e-9, time.perf_counter() - window.since)
        figures = dict(zip(names, losses, strict=True)) | {n: float(v) for n, v in window.metrics.items()}
        figures |= {
            f"{min(window.nouns) if len(window.nouns) == 1 else 'inputs'}_per_s": inputs / seconds,
            "tokens_per_s": tokens / seconds,
            "padding_share": 1.0 - tokens / computed if computed else 0.0,
            "data_wait_share": min(1.0, (self._waited() - window.waited) / seconds),
            **extra,
        }
        self.record({"step": step, **figures})
        self._trackers.figures(figures, step)
        self._window = _Window(self._waited())
        return figures

    def evaluated(self, step: int, scores: Mapping[str, float], tables: Sequence[Table] = ()) -> None:
        """A row with the scores of an evaluation; trackers get each as ``eval/NAME``, and the tables."""
        self.record({"step": step, "scores": dict(scores)})
        self._trackers.figures({f"eval/{name}": score for name, score in scores.items()}, step)
        for table in tables:
            self._trackers.table(table, step)

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run writes again."""
        if not (self.world.is_main and self.path.is_file()):
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        lines_before = [line for line in lines if _step_of(line) <= step]
        if len(lines_before) < len(lines):
            write_durably(self.path, b"".join(lines_before))

    def record(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``log.jsonl``. A log that cannot be written is reported once and does not end the run."""
        if not (self.world.is_main and self._file_works):
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self._file_works = False
            reason = disk_reason(error, self.path.parent)
            self.progress.say(f"{self.path}: the log cannot be written ({reason}); training continues")
