"""A full disk in every writer: the line says so, what was there is as it was, and with space it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eval.benchmarks import kill
from tests.conftest import ROOT
from tests.faults.disk_mount import PAGE, filled, make_read_only, on_a_disk, used
from tests.faults.disk_writers import APPENDING, SLOW_WRITERS, WRITERS, Writer
from tests.faults.frame import TRACEBACK, Outcome, World, case, command
from tests.faults.process_kill import hashes, leftovers
from tests.faults.process_start import Forked
from tests.faults.process_stop import recipe

FULL = "no space left on the disk"


def _refused(writer: Writer, folder: Path, number: int) -> str | None:
    """The line with which a writer fails; None when it does not."""
    from embedkit.errors import UserError

    try:
        writer(folder, number)
    except UserError as error:
        return error.line()
    return None


def _full(disk: Path, name: str) -> None:
    """One writer on a disk with less and less space; the body of a process."""
    writer = {**WRITERS, **SLOW_WRITERS}[name]
    spare = disk.parent / "spare"
    spare.mkdir()
    writer(spare, 1)
    size, lines = used(spare), []
    writer(disk, 0)
    old = hashes(disk)
    for leave in sorted({0, PAGE, size // 3, size * 2 // 3, size - PAGE}):
        with filled(disk, leave):
            line = _refused(writer, disk, 1)
            if line is None and leave > 0 and name not in APPENDING:
                continue  # what it writes first and what stays at the end can be less than `spare` has
            assert line is not None, f"written with {leave} bytes left"
            assert FULL in line and str(disk) in line and "free some space" in line, line
            assert not [one for one in leftovers(disk) if one.endswith((".tmp", ".old"))], leftovers(disk)
        if name not in APPENDING:
            found = {k: v for k, v in hashes(disk).items() if k != "filler"}
            assert found == old, f"with {leave} bytes left: {set(found.items()) ^ set(old.items())}"
        lines.append(line)
    writer(disk, 1)
    assert name in APPENDING or {k: v for k, v in hashes(disk).items() if k in hashes(spare)} == hashes(spare)
    print(f"{len(lines)} {lines[0]}", flush=True)


def _read_only(disk: Path, names: list[str]) -> None:
    """Writers on a disk that has become read-only; the body of a process."""
    for name in names:
        writer = WRITERS[name]
        writer(disk, 0)
        old = hashes(disk)
        make_read_only(disk)
        line = _refused(writer, disk, 1)
        assert line is not None, f"{name}: written on a read-only disk"
        assert "Read-only file system" in line and str(disk) in line, line
        assert hashes(disk) == old
        make_read_only(disk, False)
        print(f"1 {line}", flush=True)


def _register(writers: Mapping[str, Writer], long: bool) -> None:
    for name in writers:

        def run(world: World, name: str = name) -> Outcome:
            start = on_a_disk(world, 64 << 20, _full, name)
            assert start.poll() == 0, start.said[-3000:]
            count, _, line = start.lines()[-1].partition(" ")
            return Outcome(line, trials=int(count), kind="clear error")

        case("disk", f"full: {name}", long=long)(run)


_register(WRITERS, False)
_register(SLOW_WRITERS, True)


@case("disk", "read-only: every writer")
def _writers_read_only(world: World) -> Outcome:
    start = on_a_disk(world, 64 << 20, _read_only, list(WRITERS))
    assert start.poll() == 0, start.said[-3000:]
    lines = [line for line in start.lines() if line.startswith("1 ")]
    assert len(lines) == len(WRITERS)
    return Outcome(lines[0][2:], trials=len(lines), kind="clear error")


# -- whole runs -----------------------------------------------------------------------------------------------------


def _run_until_full(disk: Path, file: str, other: str, steps: int) -> None:
    """A run whose disk has room for one checkpoint and a half; it goes on elsewhere; the body of a process."""
    from embedkit.training.state.checkpoint import CheckpointStore

    output = disk / "run"
    ended = command(*kill.words(Path(file), output, False))
    line = ended.line("could not save step 4, older checkpoints are untouched", FULL, "resume there with --output")
    store = CheckpointStore(output / "checkpoints")
    newest, ignored = store.newest()
    assert newest is not None and newest.step == 2 and ignored == [], (newest, ignored)
    shutil.copytree(output, other)
    again = command(*kill.words(Path(file), Path(other), True))
    assert again.code == 0, again.err[-2000:]
    assert kill.step_of(Path(other)) == steps
    print(line, flush=True)


@case("disk", "full: a run; its last checkpoint goes on in another folder, bit for bit")
def _full_run(world: World) -> Outcome:
    steps = 6
    file = recipe(world.folder, steps, save_every=2, keep_checkpoints=1)
    whole = Forked(1, kill.words(file, world.folder / "whole", False), world.folder / "said")
    assert whole.wait() == 0, whole.said[-3000:]
    size = used(world.folder / "whole" / "checkpoints")
    start = on_a_disk(world, size * 3 // 2, _run_until_full, str(file), str(world.folder / "other"), steps)
    assert start.poll() == 0, start.said[-3000:]
    assert kill.final_state(world.folder / "other", steps) == kill.final_state(world.folder / "whole", steps)
    return Outcome(start.lines()[-1], kind="clear error")


def _run_on_full(disk: Path, words: list[str], leave: int) -> None:
    """``embedkit WORDS`` on a full disk; the body of a process."""
    from embedkit.cli.app import main

    with filled(disk, leave):
        code = main(words)
    sys.exit(code)


@case("disk", "full: on the first of two processes; the other ends too")
def _full_together(world: World) -> Outcome:
    file = recipe(world.folder, 6, save_every=2)
    words = kill.words(file, world.folder / "disk" / "run", False)
    start = on_a_disk(world, 64 << 20, _run_on_full, words, 8 * PAGE, processes=2)
    assert start.codes == [2, 2], (start.codes, start.said[-3000:])
    line = start.lines(0)[-1]
    assert FULL in line and "another process of the run has ended" in start.lines(1)[-1], start.said[-3000:]
    assert TRACEBACK not in start.said
    return Outcome(line, kind="clear error")


def _log_full(disk: Path, words: list[str], output: Path) -> None:
    """A run whose log lies on a full disk by a link; the body of a process."""
    from embedkit.cli.app import main

    output.mkdir()
    (output / "log.jsonl").symlink_to(disk / "log.jsonl")
    (disk / "log.jsonl").touch()
    with filled(disk, 0):
        code = main(words)
    sys.exit(code)


@case("disk", "full: log.jsonl; said once, training continues")
def _full_log(world: World) -> Outcome:
    file, output = recipe(world.folder, 4), world.folder / "run"
    start = on_a_disk(world, 1 << 20, _log_full, kill.words(file, output, False), output)
    assert start.poll() == 0, start.said[-3000:]
    [line] = [line for line in start.lines() if "log cannot be written" in line]
    assert FULL in line and "training continues" in line and (output / "model").is_dir()
    return Outcome(line, kind="clear error")


def _image_cache(disk: Path, file: str) -> None:
    """A run with a locked image tower on a full disk, then with space, then with a torn cache; a process's body."""
    output = disk / "run"
    words = kill.words(Path(file), output, False)
    with filled(disk, 8 * PAGE):
        line = command(*words).line("the image cache cannot be written", FULL, "free some space")
    told = "computing the vectors"
    assert told in command(*words).err
    resumed = command(*kill.words(Path(file), output, True))
    assert resumed.code == 0 and told not in resumed.err, resumed.err
    for damage in (lambda f: os.truncate(f, 5000), lambda f: os.pwrite(os.open(f, os.O_WRONLY), b"x", 4444)):
        damage(output / "image-cache" / "vectors.npy")
        resumed = command(*kill.words(Path(file), output, True))
        assert resumed.code == 0 and told in resumed.err, resumed.err
    print(line, flush=True)


@case("disk", "full, then torn: vectors of images")
def _full_image_cache(world: World) -> Outcome:
    from tests.helpers import image_data

    rows = ["image\tcaption"]
    for number, (image, text) in enumerate(image_data.samples(600)):
        (world.folder / f"{number}.png").write_bytes(image)
        rows.append(f"{number}.png\t{text}")
    (world.folder / "rows.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given: dict[str, Any] = {
        "name": "locked", "method": "lit", "model": image_data.DUAL,
        "data": {"train": [{"path": str(world.folder / "rows.tsv")}]},
        "train": {"max_steps": 1, "batch_size": 8, "threads": 1},
    }  # fmt: skip
    file = world.folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(given))
    start = on_a_disk(world, 64 << 20, _image_cache, str(file))
    assert start.poll() == 0, start.said[-3000:]
    return Outcome(start.lines()[-1], trials=3, kind="clear error")


@case("disk", "full: standard output, and --json on a device, which stays one")
def _full_output(world: World) -> Outcome:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "embedkit"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*call, "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    line = ended.stderr.strip().splitlines()[0]
    assert line.startswith("embedkit: ") and FULL in line and ended.returncode == 2, (ended.returncode, ended.stderr)
    assert TRACEBACK not in ended.stderr
    from embedkit.cli.output import write_json

    refused = _refused(lambda _, number: write_json("/dev/full", {"a": number}), Path(), 1)
    assert refused is not None and FULL in refused
    assert Path("/dev/full").is_char_device()
    return Outcome(line, trials=2, kind="clear error")
