"""Kill a training run at random moments, resume it, and compare the end with an unbroken run bit for bit.

    python eval/benchmarks/kill.py [--trials 20] [--processes 1 2] [--each 4] [--steps 120] [--seed 0] [--recipe FILE]

A tiny encoder with dropout trains on built-in sentences by the command line, on one process and on two
(``torchrun``), with a checkpoint every second step. A trial sends SIGKILL at a moment drawn uniformly from
the time that training takes; on two processes, to all of them in one trial and to a single one in the next. Then the
run is started again with ``--resume``. After ``--each`` kills a run is left to finish, and the bytes of its last
checkpoint (weights, optimiser, random states) and of its model are compared with those of the unbroken run. Exit code
0 when every restart succeeded and every end was equal.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

LIMIT = 600.0  # seconds that any one start of the run may take
ON_CPU = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}  # whatever accelerate's own settings say


@dataclass
class Count:
    """What came of the trials on one number of processes."""

    trials: int = 0
    early: int = 0  # kills before the first checkpoint was complete
    late: int = 0  # kills that came when training was over
    writing: int = 0  # kills that left a half-written checkpoint
    resumed: int = 0
    passed_over: int = 0  # incomplete or damaged checkpoints that a restart named and did not use
    ends: int = 0
    equal: int = 0
    problems: list[str] = field(default_factory=list)


def recipe(steps: int, file: Path | None = None) -> dict[str, Any]:
    """A run whose time goes into steps and checkpoints in equal parts: built in, or the recipe of a file."""
    if file is not None:
        given: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        given["train"] |= {"max_steps": steps, "save_every": 2, "threads": 1}
        return given
    shape = {
        "model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 128, "max_position_embeddings": 64,
    }  # fmt: skip
    return {
        "name": "kill", "seed": 11, "method": "pairs",
        "model": {"config": shape, "tokenizer": "builtin", "max_length": 32, "dropout": 0.1},
        "data": {"train": [{"path": "builtin:triplets-train", "limit": 512}], "sampler": "no-duplicates"},
        "train": {
            "max_steps": steps, "batch_size": 16, "lr": 1e-3, "warmup": 0.1, "ema": 0.99, "save_every": 2,
            "log_every": 20, "chunk_size": 16, "threads": 1,
        },
    }  # fmt: skip


class Running(Protocol):
    """A start of ``embedkit`` on one or more processes, whatever has started them."""

    def poll(self) -> int | None:
        """The exit code, None while it runs."""

    def kill(self, one: random.Random | None) -> None:
        """SIGKILL to all processes, or to one drawn with `one`; then wait until all are gone."""

    def wait(self) -> int:
        """The exit code, once all have ended."""

    @property
    def said(self) -> str:
        """Everything on standard error."""


Starter = Callable[[int, list[str], Path], Running]
"""Starts ``embedkit WORDS`` on a number of processes, standard error into a file."""


def words(file: Path, output: Path, resume: bool) -> list[str]:
    """The words of a run after ``embedkit``."""
    return ["train", str(file), "--output", str(output), *(["--resume"] if resume else [])]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def command(processes: int, given: list[str]) -> list[str]:
    """The command line of ``embedkit GIVEN``."""
    train = ["-m", "embedkit", *given]
    if processes == 1:
        return [sys.executable, *train]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return [sys.executable, *launch, *train]


class Start:
    """One start of the run, in a process group of its own."""

    def __init__(self, processes: int, given: list[str], errors: Path) -> None:
        self._errors = open(errors, "wb")  # noqa: SIM115 - closed when the run has ended
        self.path = errors
        environment = {**os.environ, **ON_CPU, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        root = Path(__file__).resolve().parents[2]
        environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command(processes, given),
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
            env=environment,
        )

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.poll()

    def kill(self, one: random.Random | None) -> None:
        """SIGKILL to all processes, or to a worker drawn with `one`; then wait until all are gone."""
        workers = _children(self.process.pid)
        if one is not None and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.choice(workers), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(120)  # the launcher ends the others
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for worker in workers:  # a launcher may have put its workers into groups of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """The exit code, once the run has ended."""
        try:
            return self.process.wait(LIMIT)
        finally:
            self._errors.close()

    @property
    def said(self) -> str:
        """Everything on standard error."""
        return self.path.read_text(encoding="utf-8", errors="replace")


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for(path: Path, start: Running, newer_than: float = 0.0) -> bool:
    """Wait until a file is there (and newer); False when the run ends first."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if path.exists() and path.stat().st_mtime > newer_than:
            return True
        if start.poll() is not None:
            return False
        time.sleep(0.002)
    raise SystemExit(f"nothing happens in {path.parent}")


def final_state(output: Path, steps: int) -> dict[str, str]:
    """SHA-256 of the tensors of the last checkpoint and of the saved model."""
    last = output / "checkpoints" / f"step-{steps:08d}"
    files = [*sorted(last.glob("*.safetensors")), *sorted((output / "model").rglob("*.safetensors"))]
    return {str(f.relative_to(output)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def check_processes(output: Path, steps: int, processes: int) -> None:
    """Refuse a run that was not made by so many processes."""
    found = json.loads((output / "checkpoints" / f"step-{steps:08d}" / "state.json").read_text())["world"]
    if found != processes:
        raise SystemExit(f"the run was started on {processes} process(es) and ran on {found}")


def trained_seconds(output: Path) -> float:
    """Seconds from the first step to the saved model of an unbroken run, as its files tell."""
    return (output / "result.json").stat().st_mtime - (output / "recipe.yaml").stat().st_mtime


def step_of(output: Path) -> int:
    """The newest checkpoint that has its mark of completion, 0 when there is none."""
    done = (path.parent.name for path in (output / "checkpoints").glob("step-*/complete.json"))
    return max((int(name.removeprefix("step-")) for name in done), default=0)


def killed(output: Path, start: Running, seconds: float, draws: random.Random, one: bool, count: Count) -> None:
    """Let a start train for a random time and kill it."""
    if wait_for(output / "recipe.yaml", start, time.time()):
        end = time.monotonic() + draws.uniform(0.0, seconds)
        while time.monotonic() < end and start.poll() is None:
            time.sleep(0.001)
    finished = start.poll() is not None
    start.kill(draws if one else None)
    count.trials += 1
    count.late += finished
    count.early += step_of(output) == 0
    count.writing += any((output / "checkpoints").glob(".writing-*"))


def check_restart(start: Running, before: int, code: int, count: Count) -> None:
    """Whether a restart went on from the newest whole checkpoint."""
    said = start.said
    found = re.search(r"resuming from step (\d+) ", said)
    anew = "starting from step 0" in said
    good = code == 0 and ((anew and before == 0) or (found is not None and int(found[1]) == before))
    count.resumed += good
    count.passed_over += len(re.findall(r"ignored (?:incomplete|damaged) ", said))
    if not good:
        count.problems.append(f"exit code {code}, newest step {before}: {said[-2000:]}")


def run_trials(
    processes: int, arguments: argparse.Namespace, folder: Path, begin: Starter = Start
) -> tuple[Count, float]:
    """All trials on a number of processes, and the seconds that an unbroken run trains."""
    file, count = folder / "kill.yaml", Count()
    file.write_text(yaml.safe_dump(recipe(arguments.steps, arguments.recipe)), encoding="utf-8")
    whole = folder / f"whole-{processes}"
    unbroken = begin(processes, words(file, whole, False), folder / "errors.txt")
    if unbroken.wait() != 0:
        raise SystemExit(unbroken.said)
    check_processes(whole, arguments.steps, processes)
    wanted, seconds = final_state(whole, arguments.steps), trained_seconds(whole)
    draws = random.Random(f"{arguments.seed} {processes}")
    while count.trials < arguments.trials:
        output = folder / f"run-{processes}-{count.ends}"
        kills = min(arguments.each, arguments.trials - count.trials)
        start, before = begin(processes, words(file, output, False), folder / "errors.txt"), -1
        for _ in range(kills):
            # so that the moments of all kills of a run spread over the whole of it
            killed(output, start, seconds / kills * 1.1, draws, processes > 1 and count.trials % 2 == 1, count)
            if before >= 0:  # this start was a restart
                check_restart(start, before, 0, count)
            before = step_of(output)
            start = begin(processes, words(file, output, True), folder / f"errors-{count.trials}.txt")
        code = start.wait()
        check_restart(start, before, code, count)
        count.ends += 1
        equal = code == 0 and final_state(output, arguments.steps) == wanted
        count.equal += equal
        if not equal:
            count.problems.append(f"{output.name} ends with other bytes")
        print(f"{processes} process(es): {count.trials} kills, {count.equal} of {count.ends} ends equal", flush=True)
    return count, seconds


def main() -> int:
    """Print the table; 0 when nothing was lost and all ends are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="kills on each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--each", type=int, default=4, help="kills of a run before it is left to finish")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--recipe", type=Path, help="another run, e.g. of image_faults.py --write")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    counts: dict[int, tuple[Count, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in arguments.processes:
            counts[processes] = run_trials(processes, arguments, Path(folder))
    rows = [
        *("processes", "seconds of training", "kills (SIGKILL)", "  before the first checkpoint"),
        *("  while one was written", "  after the last step", "successful restarts"),
        *("incomplete checkpoints passed over", "finished runs", "  equal to the unbroken run, bit for bit"),
    ]
    table = [
        [p, f"{s:.1f}", c.trials, c.early, c.writing, c.late, c.resumed, c.passed_over, c.ends, c.equal]
        for p, (c, s) in counts.items()
    ]
    for place, name in enumerate(rows):
        print(f"{name:42}" + "".join(f"{row[place]!s:>10}" for row in table))
    for count, _ in counts.values():
        for problem in count.problems:
            print(f"problem: {problem}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({p: vars(c) for p, (c, _) in counts.items()}, indent=1) + "\n")
    return int(any(c.resumed != c.trials or c.equal != c.ends for c, _ in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
