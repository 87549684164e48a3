"""SIGKILL at random moments: training goes on bit for bit, the rest is whole or not there and can be repeated."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks import kill
from tests.faults.frame import Outcome, World, case
from tests.faults.process_start import Forked, in_process

ROWS, BLOCK = 240, 16
FORMATS = ("sentence-transformers", "transformers", "onnx")


def kills(name: str, **trials: tuple[int, int]) -> Callable[[Callable[[World, int, int], Outcome]], None]:
    """Register cases of a function of world, processes and trials: a few kills for every day, many on demand.

    `trials` holds both numbers for ``alone`` (1 process) and ``together`` (2).
    """

    def register(function: Callable[[World, int, int], Outcome]) -> None:
        for how, numbers in trials.items():
            processes = {"alone": 1, "together": 2}[how]
            title = f"kill -9: {name}, {processes} process{'es' * (processes > 1)}"
            for count, suffix, long in zip(numbers, ("", f", {numbers[1]} times"), (False, True), strict=True):
                case("process", title + suffix, long=long)(
                    lambda world, processes=processes, count=count: function(world, processes, world.trials or count)
                )

    return register


# -- training -------------------------------------------------------------------------------------------------------


@kills("train and resume", alone=(2, 30), together=(2, 20))
def _train(world: World, processes: int, trials: int) -> Outcome:
    settings = argparse.Namespace(trials=trials, each=2, steps=16, seed=world.seed, recipe=None)
    with contextlib.redirect_stdout(io.StringIO()):
        count, seconds = kill.run_trials(processes, settings, world.folder, Forked)
    assert not count.problems, "\n".join(count.problems)
    assert count.resumed == count.trials == trials
    assert count.equal == count.ends > 0
    said = (
        f"{count.trials} kills over {seconds:.1f} s of training ({count.early} before the first checkpoint, "
        f"{count.writing} while one was written, {count.late} after the end), {count.resumed} restarts, "
        f"{count.equal} of {count.ends} ends bit for bit"
    )
    return Outcome(said, trials)


# -- evaluation, encoding, export -----------------------------------------------------------------------------------


@dataclass
class Tally:
    """Where the kills of a case came."""

    before: int = 0
    writing: int = 0
    after: int = 0
    away: int = 0  # the old folder was set aside, and the new one not yet there
    alone: list[float] = field(default_factory=list)

    def said(self, trials: int) -> str:
        """The outcome in a line."""
        text = f"{trials} kills ({self.before} between writes, {self.writing} in the middle of one, {self.after} after "
        text += "the end); nothing half under a final name, repeats give the same"
        if self.away:
            text += f"; {self.away} in the moment between old and new"
        return text + (f"; the other process ended within {max(self.alone):.1f} s" if self.alone else "")


@dataclass(frozen=True)
class Job:
    """A command that is killed and repeated.

    `given(folder)` is what to start in a copy of the prepared folder, `check(folder)` looks at what a kill has left,
    `result(folder)` must be the same after a repeat as after an unbroken run.
    """

    given: Callable[[Path], Sequence[Any]]
    check: Callable[[Path], None]
    result: Callable[[Path], Any]
    processes: int = 1


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders in a folder."""
    return sorted(p.name for p in folder.rglob(".*") if p.suffix in (".tmp", ".old", ".parts"))


def strike(world: World, job: Job, prepared: Path, trials: int) -> Tally:
    """Kill the job at random moments of an unbroken run, look, repeat it, and compare."""
    draws, tally = random.Random(f"{world.seed} {prepared.name}"), Tally()
    whole = world.folder / "whole"
    shutil.copytree(prepared, whole)
    began = time.monotonic()
    start = Forked(job.processes, job.given(whole), world.folder / "said")
    assert start.wait() == 0, start.said[-3000:]
    seconds, wanted = time.monotonic() - began, job.result(whole)
    for number in range(trials):
        folder = world.folder / f"trial-{number}"
        shutil.copytree(prepared, folder)
        start = Forked(job.processes, job.given(folder), world.folder / "said")
        end = time.monotonic() + seconds * draws.uniform(0.0, 1.05)
        if number % 2:  # from the moment on that something is written
            while not leftovers(folder) and start.poll() is None:
                time.sleep(0.0005)
            end = time.monotonic() + seconds * draws.choice([0.0, 0.0, 0.01, 0.1]) * draws.random()
        while time.monotonic() < end and start.poll() is None:
            time.sleep(0.0005)
        finished = start.poll() is not None
        one = draws if job.processes > 1 and number % 4 > 1 else None
        start.kill(one)
        if one is not None and not finished:
            tally.alone.append(start.alone)
        left = leftovers(folder)
        tally.after, tally.writing = tally.after + finished, tally.writing + (bool(left) and not finished)
        tally.before += not left and not finished
        tally.away += any(name.endswith(".old") for name in left)
        job.check(folder)
        again = Forked(job.processes, job.given(folder), world.folder / "said")
        assert again.wait() == 0, f"trial {number}: {again.said[-3000:]}"
        found = job.result(folder)
        assert found == wanted, f"trial {number}: another result after a kill: {difference(found, wanted)}"
        assert not leftovers(folder), leftovers(folder)
        shutil.rmtree(folder)
    return tally


def difference(found: Any, wanted: Any, at: str = "") -> str:
    """The first place where two results differ."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        key = next((key for key in found if found[key] != wanted[key]), None)
        return f"equal at {at}" if key is None else difference(found[key], wanted[key], f"{at}/{key}")
    return f"{at}: {str(found)[:600]} instead of {str(wanted)[:600]}"


def hashes(folder: Path, pattern: str = "*") -> dict[str, str]:
    """SHA-256 of the files below a folder that are no leftovers."""
    files = {str(f.relative_to(folder)): f for f in sorted(folder.rglob(pattern)) if f.is_file()}
    kept = {name: f for name, f in files.items() if not any(part.startswith(".") for part in Path(name).parts)}
    return {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in kept.items()}


def make_model(folder: str, seed: int = 0) -> None:
    """A saved tiny encoder; the body of a process."""
    from tests.helpers import tiny

    tiny.text_encoder("bert", seed=seed).save(folder)


def _scores(folder: Path) -> Any:
    report = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    report.pop("timing", None)
    report["model"].pop("name"), report["settings"].pop("date", None)
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    text = (folder / "model" / "README.md").read_text(encoding="utf-8").replace(str(folder), "")
    card = [line for line in text.splitlines() if not line.startswith("Split ")]  # that line has the date
    return {"report": report, "weights": hashes(folder / "model", "*.safetensors"), "card": card}


def _check_evaluation(folder: Path) -> None:
    from embedkit.evaluation.core.cache import EmbeddingCache

    for name in ("scores.json", "report.html"):
        if (folder / name).exists():
            text = (folder / name).read_text(encoding="utf-8")
            assert json.loads(text) if name.endswith("json") else text.rstrip().endswith("</html>")
    for space in (folder / "cache").glob("*"):
        EmbeddingCache(folder / "cache")._open(space.name)  # raises for a damaged file


@kills("eval with cache, JSON, report and card", alone=(2, 10), together=(1, 10))
def _evaluate(world: World, processes: int, trials: int) -> Outcome:
    prepared = world.folder / f"eval-{processes}"
    in_process(make_model, str(prepared / "model"), folder=world.folder)

    def given(folder: Path) -> list[str]:
        files = ["--cache", folder / "cache", "--json", folder / "scores.json", "--report", folder / "report.html"]
        return ["eval", str(folder / "model"), "--suite", "builtin-sts", *map(str, files)]

    tally = strike(world, Job(given, _check_evaluation, _scores, processes), prepared, trials)
    return Outcome(tally.said(trials), trials)


def encode(folder: str, suffix: str) -> None:
    """Encode the lines of a folder in many small blocks; the body of a process."""
    from embedkit.formats import load
    from embedkit.models import encode_file

    place = Path(folder)
    encode_file(
        load(str(place / "model"), device="cpu"), place / "in.txt", place / f"out{suffix}", block_rows=BLOCK,
        overwrite=True,
    )  # fmt: skip


def _check_vectors(folder: Path) -> None:
    if (folder / "out.npy").exists():
        assert np.load(folder / "out.npy").shape == (ROWS, 32)
    if (folder / "out.parquet").exists():
        import pyarrow.parquet as pq

        assert pq.read_table(folder / "out.parquet").num_rows == ROWS


@kills("encode to npy and parquet", alone=(2, 10), together=(1, 10))
def _encode(world: World, processes: int, trials: int) -> Outcome:
    tallies = []
    for suffix, share in ((".npy", trials - trials // 2), (".parquet", trials // 2)):
        place = World(world.folder / suffix[1:], world.trials, world.seed)
        prepared = place.folder / f"encode-{processes}"
        in_process(make_model, str(prepared / "model"), folder=world.folder)
        (prepared / "in.txt").write_text("".join(f"the dog number {i} runs\n" for i in range(ROWS)))
        job = Job(
            lambda folder, suffix=suffix: [encode, str(folder), suffix],  # type: ignore[misc]
            _check_vectors, lambda folder: hashes(folder, "out.*"), processes,
        )  # fmt: skip
        if share:
            tallies.append(strike(place, job, prepared, share))
    total = Tally(*(sum(getattr(t, name) for t in tallies) for name in ("before", "writing", "after", "away")))
    total.alone = [seconds for tally in tallies for seconds in tally.alone]
    return Outcome(total.said(trials), trials)


def export(folder: str, format: str, seed: int) -> None:
    """Export a tiny model; the body of a process."""
    import embedkit
    from tests.helpers import tiny

    embedkit.export(tiny.text_encoder("bert", seed=seed), Path(folder) / "out", format=format)


def _export(world: World, trials: int, formats: Sequence[str]) -> Outcome:
    total = Tally()
    for place, format in enumerate(formats):
        share = trials * (place + 1) // len(formats) - trials * place // len(formats)
        part = World(world.folder / format, world.trials, world.seed)
        prepared = part.folder / format
        prepared.mkdir(parents=True)
        in_process(export, str(prepared), format, 1, folder=world.folder)
        old = hashes(prepared / "out")
        known: list[dict[str, str]] = [old]

        def result(folder: Path, known: list[dict[str, str]] = known) -> dict[str, str]:
            found = hashes(folder / "out")
            known.append(found)
            return found

        def check(folder: Path, known: list[dict[str, str]] = known) -> None:
            # the old export or the new one, all of it; or neither in the moment between
            assert hashes(folder / "out") in known[:2] or (folder / ".out.old").is_dir()

        job = Job(lambda folder, format=format: [export, str(folder), format, 0], check, result)  # type: ignore[misc]
        tally = strike(part, job, prepared, share)
        for name in ("before", "writing", "after", "away"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    return Outcome(f"over an older export, {', '.join(formats)}: {total.said(trials)}", trials)


case("process", "kill -9: export")(lambda world: _export(world, world.trials or 2, FORMATS[:2]))
case("process", "kill -9: export, 10 times", long=True)(lambda world: _export(world, world.trials or 10, FORMATS))
