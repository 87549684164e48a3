"""Asked to stop, left alone, started twice, resumed as something else: what is said, and what is on disk."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from eval.benchmarks import kill
from tests.faults.frame import TRACEBACK, Outcome, World, case
from tests.faults.process_kill import BLOCK, ROWS, make_model
from tests.faults.process_start import ALONE, Forked, in_process


def recipe(folder: Path, steps: int = 400, **train: Any) -> Path:
    """The recipe of `eval.benchmarks.kill` over a file of its own."""
    given = kill.recipe(steps)
    given["train"] |= {"log_every": 1, "save_every": 1000, **train}
    rows = [f"a {kind} number {i}\tthe {kind} that is {i}" for i in range(24) for kind in ("dog", "cat")]
    (folder / "rows.tsv").write_text("\n".join(["anchor\tpositive", *rows]) + "\n", encoding="utf-8")
    given["data"] = {"train": [{"path": str(folder / "rows.tsv")}]}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(given), encoding="utf-8")
    return file


def until_logged(output: Path, start: kill.Running, step: int = 2) -> None:
    """Wait until the log of a run has reached a step."""
    log, end = output / "log.jsonl", time.monotonic() + kill.LIMIT
    while not log.exists() or log.read_text().count("\n") < step:
        assert start.poll() is None, start.said[-3000:]
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)


def ends_like(folder: Path, output: Path, steps: int) -> bool:
    """Whether a run ended with the bytes of an unbroken one, which is made here."""
    whole = folder / "whole"
    if not whole.exists():
        start = Forked(1, kill.words(folder / "recipe.yaml", whole, False), folder / "whole.txt")
        assert start.wait() == 0, start.said[-3000:]
    return kill.final_state(output, steps) == kill.final_state(whole, steps)


# -- asked to stop --------------------------------------------------------------------------------------------------


def _stop(world: World, processes: int, ask: Callable[[Forked], None]) -> Outcome:
    file, output = recipe(world.folder), world.folder / "run"
    start = Forked(processes, kill.words(file, output, False), world.folder / "said")
    until_logged(output, start)
    ask(start)
    start.wait()
    assert start.codes == [143] * processes, (start.codes, start.said[-3000:])
    step = kill.step_of(output)
    line = start.lines()[-1]
    assert line == f"embedkit: {output}: stopped after step {step}, saved; resume it with --resume", start.said[-3000:]
    assert TRACEBACK not in start.said
    assert 2 <= step < 400 and not (output / "model").exists()
    again = Forked(processes, kill.words(file, output, True), world.folder / "said")
    until_logged(output, again, step + 1)
    again.signal(signal.SIGTERM)
    assert again.wait() == 143 and f"resuming from step {step} " in again.said, again.said[-3000:]
    return Outcome(f"{line} (exit code 143 on {processes} of {processes})")


@case("process", "SIGTERM: a checkpoint, a line, exit code 143")
def _stop_alone(world: World) -> Outcome:
    return _stop(world, 1, lambda start: start.signal(signal.SIGTERM))


@case("process", "SIGTERM to one of two processes")
def _stop_one(world: World) -> Outcome:
    return _stop(world, 2, lambda start: start.signal(signal.SIGTERM, 1))


@case("process", "SIGTERM to two processes twice, as a scheduler and then the launcher send it")
def _stop_twice(world: World) -> Outcome:
    def ask(start: Forked) -> None:
        start.signal(signal.SIGTERM)
        time.sleep(0.02)
        start.signal(signal.SIGTERM)

    return _stop(world, 2, ask)


@case("process", "SIGTERM to torchrun with two processes, then resumed", long=True)
def _stop_launched(world: World) -> Outcome:
    steps = 40
    file, output = recipe(world.folder, steps), world.folder / "run"
    start = kill.Start(2, kill.words(file, output, False), world.folder / "said.txt")
    until_logged(output, start)
    began = time.monotonic()
    start.process.send_signal(signal.SIGTERM)
    code, seconds = start.wait(), time.monotonic() - began
    step, said = kill.step_of(output), start.said
    assert f"stopped after step {step}, saved; resume it with --resume" in said, said[-3000:]
    assert code != 0 and 2 <= step < steps and seconds < ALONE
    again = kill.Start(2, kill.words(file, output, True), world.folder / "again.txt")
    assert again.wait() == 0 and f"resuming from step {step} " in again.said, again.said[-3000:]
    whole = kill.Start(2, kill.words(file, world.folder / "whole", False), world.folder / "whole.txt")
    assert whole.wait() == 0
    kill.check_processes(output, steps, 2)
    assert kill.final_state(output, steps) == kill.final_state(world.folder / "whole", steps)
    return Outcome(
        f"stopped after step {step}, saved, {seconds:.1f} s after the signal; resumed, equal to the last bit"
    )


# -- left alone -----------------------------------------------------------------------------------------------------


@case("process", "one of two workers dies: the other ends with a line")
def _alone(world: World) -> Outcome:
    file, output, slowest = recipe(world.folder, save_every=2), world.folder / "run", 0.0
    line = ""
    for dying in (1, 0):
        resume = dying == 0
        start = Forked(2, kill.words(file, output, resume), world.folder / "said")
        until_logged(output, start, kill.step_of(output) + 3)
        began = time.monotonic()
        start.signal(signal.SIGKILL, dying)
        start.members[1 - dying].join(ALONE)
        slowest = max(slowest, time.monotonic() - began)
        assert start.codes[1 - dying] is not None, f"still running {ALONE:.0f} s after the other was killed"
        line = start.lines(1 - dying)[-1]
        assert start.codes[1 - dying] == 2 and "another process of the run has ended" in line, start.said[-3000:]
        assert "--resume" in line and str(output) in line and TRACEBACK not in start.said
        assert kill.step_of(output) > 0
    return Outcome(f"after {slowest:.1f} s: {line}", trials=2)


def _join_without(absent: int, seconds: float) -> None:
    """Join the processes of a run, unless this is the one that is absent; the body of a process."""
    import os
    import sys

    from embedkit.errors import EmbedkitError
    from embedkit.system import processes

    if int(os.environ["RANK"]) == absent:
        os.kill(os.getpid(), signal.SIGKILL)
    processes.JOIN_SECONDS = seconds
    try:
        processes.join(cpu=True)
    except EmbedkitError as error:
        print(error)
        sys.stdout.flush()
        os._exit(2)


@case("process", "one of two processes is dead before the other has found it: a line, no endless waiting")
def _never_came(world: World) -> Outcome:
    line = ""
    for absent in (0, 1):
        start = Forked(2, [_join_without, absent, 2.0], world.folder / "said")
        start.wait()
        assert start.codes[1 - absent] == 2 and start.codes[absent] == -signal.SIGKILL, (start.codes, start.said)
        line = start.lines(1 - absent)[-1]
        said = f"process {1 - absent} of 2: waited for the others, which did not all come within 2 s"
        assert said in line, start.said
        assert "use torchrun" in line and TRACEBACK not in start.said
    return Outcome(line, trials=2)


def _broken_decoder(words: list[str], error: BaseException) -> None:
    """``embedkit WORDS`` in which decoding the third group of images raises; the body of a process."""
    import sys

    from embedkit.cli.app import main
    from embedkit.data.images import decoding

    real, calls = decoding._decode, []

    def decode(*given: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise error
        return real(*given)

    decoding._decode = decode
    sys.exit(main(words))


@case("process", "a decoding thread fails (workers are threads: none can be killed alone)")
def _thread(world: World) -> Outcome:
    from tests.helpers import image_data

    folder = world.folder
    rows = ["image\tcaption"]
    for number, (image, text) in enumerate(image_data.samples(64)):
        (folder / f"{number}.png").write_bytes(image)
        rows.append(f"{number}.png\t{text}")
    (folder / "rows.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = {
        "name": "threads", "method": "clip", "model": image_data.DUAL,
        "data": {"train": [{"path": str(folder / "rows.tsv")}], "on_bad_row": "skip", "workers": 2},
        "train": {"max_steps": 20, "batch_size": 8, "save_every": 1, "threads": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    said = []
    for number, error in enumerate((RuntimeError("the decoder broke"), MemoryError("no room"))):
        words = kill.words(folder / "recipe.yaml", folder / f"run-{number}", False)
        start = Forked(1, [_broken_decoder, words, error], folder / "said")
        assert start.wait() == 1, start.said[-3000:]
        line = [line for line in start.lines() if line.startswith("embedkit: ")][-1]
        assert f"internal error: {type(error).__name__}: {error}" in line, line
        assert kill.step_of(folder / f"run-{number}") > 0 and not (folder / f"run-{number}" / "model").exists()
        said.append(line)
    return Outcome(said[0], trials=2)


# -- two in one folder ----------------------------------------------------------------------------------------------


@case("process", "two runs in one folder: the second is refused, also when both start at once")
def _locked(world: World) -> Outcome:
    file, output = recipe(world.folder), world.folder / "run"
    words = kill.words(file, output, False)
    starts = [Forked(1, words, world.folder / f"said-{number}") for number in range(2)]
    while all(start.poll() is None for start in starts):
        time.sleep(0.01)
    [refused] = [start for start in starts if start.poll() is not None]
    [runs] = [start for start in starts if start is not refused]
    line = refused.lines()[-1]
    assert refused.poll() == 2 and ("in use by process" in line or "holds a run" in line), refused.said[-3000:]
    until_logged(output, runs)
    third = Forked(1, kill.words(file, output, True), world.folder / "third")
    assert third.wait() == 2, third.said[-3000:]
    line = third.lines()[-1]
    assert f"{output}: in use by process {runs.members[0].pid}; wait for it" in line, line
    runs.kill(None)
    assert (output / "log.jsonl").is_file()
    return Outcome(line, trials=2)


def _slow_encoding(folder: str, started: str) -> None:
    """Encode in small blocks, slowly; the body of a process."""
    from embedkit.formats import load
    from embedkit.models import encode_file

    place = Path(folder)

    def tell(done: int, total: int) -> None:
        Path(started).touch()
        time.sleep(0.2)

    model = load(str(place / "model"), device="cpu")
    encode_file(model, place / "in.txt", place / "out.npy", block_rows=BLOCK, progress=tell)


@case("process", "two encodings into one file: the second is refused")
def _locked_encoding(world: World) -> Outcome:
    in_process(make_model, str(world.folder / "model"), folder=world.folder)
    (world.folder / "in.txt").write_text("".join(f"the dog number {i} runs\n" for i in range(ROWS)))
    started = world.folder / "started"
    first = Forked(1, [_slow_encoding, str(world.folder), str(started)], world.folder / "first")
    assert kill.wait_for(started, first), first.said[-3000:]
    words = ["encode", world.folder / "model", "-i", world.folder / "in.txt", "-o", world.folder / "out.npy"]
    second = Forked(1, [str(word) for word in words], world.folder / "second")
    assert second.wait() == 2, second.said[-3000:]
    line = second.lines()[-1]
    assert f"in use by process {first.members[0].pid}; wait for it, or give another output" in line, line
    assert first.wait() == 0 and (world.folder / "out.npy").is_file()
    return Outcome(line)


# -- resumed --------------------------------------------------------------------------------------------------------


@case("process", "resumed twice, and once more at the end")
def _resumed(world: World) -> Outcome:
    steps = 9
    file, output = recipe(world.folder, steps, save_every=1), world.folder / "run"
    for number in range(2):
        start = Forked(1, kill.words(file, output, number > 0), world.folder / "said")
        until_logged(output, start, 3 * number + 2)
        start.kill(None)
    for _ in range(2):
        start = Forked(1, kill.words(file, output, True), world.folder / "said")
        assert start.wait() == 0, start.said[-3000:]
        assert ends_like(world.folder, output, steps)
    rows = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows)), f"steps in the log: {rows}"
    return Outcome(start.lines()[0], trials=3)


def _other_version(words: list[str], name: str, value: str) -> None:
    """``embedkit WORDS`` with another version of itself or of torch; the body of a process."""
    import sys

    import torch

    from embedkit.cli.app import main
    from embedkit.training.state import state

    if name == "torch":
        torch.__version__ = value  # type: ignore[misc]
    else:
        state.__version__ = value
    sys.exit(main(words))


@case("process", "resumed with other processes, batch, data, recipe or version: refused, each difference named")
def _otherwise(world: World) -> Outcome:
    file, output = recipe(world.folder, 4, save_every=2), world.folder / "run"
    first = Forked(1, kill.words(file, output, False), world.folder / "said")
    assert first.wait() == 0, first.said[-3000:]
    before = kill.final_state(output, 4)
    words = kill.words(file, output, True)
    refusals: dict[str, tuple[int, list[Any], list[str]]] = {
        "processes": (2, words, ["the number of processes was 1, is 2"]),
        "batch": (1, [*words, "train.batch_size=8"], ["train.batch_size was 16, is 8"]),
        "recipe": (
            1, [*words, "train.lr=0.01", "seed=12", "model.pooling=cls"],
            ["train.lr was 0.001, is 0.01", "seed was 11, is 12", "model.pooling was"],
        ),
        "embedkit": (1, [_other_version, words, "embedkit", "9.9"], ["the version of embedkit was", "is 9.9"]),
        "torch": (1, [_other_version, words, "torch", "2.0.0"], ["the version of torch was", "is 2.0.0"]),
    }  # fmt: skip
    said = []
    for processes, given, parts in refusals.values():
        start = Forked(processes, given, world.folder / "said")
        assert start.wait() == 2, start.said[-3000:]
        line = start.lines()[-1]
        assert "belongs to another run: " in line and all(part in line for part in parts), line
        said.append(line)
    rows = world.folder / "rows.tsv"
    content = rows.read_text()
    rows.write_text(content.replace("dog number 7", "wolf number 7"))
    start = Forked(1, words, world.folder / "said")
    assert start.wait() == 2 and "the data was" in start.lines()[-1], start.said[-3000:]
    rows.write_text(content)
    assert kill.final_state(output, 4) == before
    free = Forked(1, [*words, "train.log_every=3", "train.keep_checkpoints=5"], world.folder / "said")
    assert free.wait() == 0, free.said[-3000:]  # what decides nothing may change
    assert kill.final_state(output, 4) == before
    return Outcome(said[2], trials=len(refusals) + 1, kind="clear error")


@case("process", "a last batch smaller than the number of processes is refused at the start")
def _small_batch(world: World) -> Outcome:
    file, output = recipe(world.folder, 40, batch_size=47), world.folder / "run"  # 48 rows
    words = [*kill.words(file, output, False), "data.drop_last=false"]
    start = Forked(2, words, world.folder / "said")
    assert start.wait() == 2, start.said[-3000:]
    line = start.lines()[-1]
    assert "a batch of 1 rows cannot be shared by 2 processes" in line and "drop_last" in line, line
    assert not (output / "log.jsonl").exists()
    return Outcome(line, kind="clear error")
