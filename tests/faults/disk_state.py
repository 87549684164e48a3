"""Torn and odd files, closed folders, links, modes, a clock that goes back."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eval.benchmarks import kill
from tests.faults.disk_full import _refused
from tests.faults.disk_writers import WRITERS
from tests.faults.frame import NotHere, Outcome, World, case, command
from tests.faults.process_kill import hashes
from tests.faults.process_start import Forked
from tests.faults.process_stop import recipe

STEPS = 4


def _trained(world: World, **train: Any) -> tuple[Path, Path]:
    """Recipe and folder of a finished run with checkpoints at steps 2 and 4."""
    file, output = recipe(world.folder, STEPS, **{"save_every": 2, **train}), world.folder / "run"
    start = Forked(1, kill.words(file, output, False), world.folder / "said")
    assert start.wait() == 0, start.said[-3000:]
    return file, output


# -- torn files -----------------------------------------------------------------------------------------------------


def _truncate(file: Path, draws: random.Random) -> None:
    os.truncate(file, draws.randrange(file.stat().st_size))


def _flip(file: Path, draws: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    file.write_bytes(bytes(data))


def _torn(world: World, damage: Callable[[Path, random.Random], None]) -> Outcome:
    from embedkit.training.state.checkpoint import CheckpointStore

    _, output = _trained(world)
    store, draws = CheckpointStore(output / "checkpoints"), random.Random(world.seed)
    last = store.folder / f"step-{STEPS:08d}"
    files, trials = sorted(last.iterdir()), world.trials or 200
    assert len(files) >= 5
    same, line = 0, ""
    for number in range(trials):
        file = files[number % len(files)]
        whole = file.read_bytes()
        damage(file, draws)
        found, ignored = store.newest()
        if found is not None and found.step == STEPS:  # a blank of the manifest, which says the same
            assert file.name == "complete.json" and json.loads(file.read_text()) == json.loads(whole), file.name
            same += 1
        else:
            assert found is not None and found.step == 2 and len(ignored) == 1, (file.name, ignored)
            line = ignored[0]
            assert line.startswith(f"ignored damaged step-{STEPS:08d} ("), line
        file.write_bytes(whole)
    assert store.newest()[0].step == STEPS  # type: ignore[union-attr]
    detected = f"{trials - same} of {trials - same} found over {len(files)} files"
    return Outcome(f"{detected}{f', {same} changed a blank only' if same else ''}; e.g. {line}", trials, "clear error")


@case("disk", "torn: every file of a checkpoint cut at random offsets")
def _cut(world: World) -> Outcome:
    return _torn(world, _truncate)


@case("disk", "torn: a flipped bit in every file of a checkpoint")
def _flipped(world: World) -> Outcome:
    return _torn(world, _flip)


@case("disk", "torn: a run goes on from the checkpoint before, bit for bit")
def _past_torn(world: World) -> Outcome:
    file, output = _trained(world)
    wanted = kill.final_state(output, STEPS)
    _truncate(output / "checkpoints" / f"step-{STEPS:08d}" / "optimiser.safetensors", random.Random(world.seed))
    start = Forked(1, kill.words(file, output, True), world.folder / "said")
    assert start.wait() == 0, start.said[-3000:]
    [line] = [line for line in start.lines() if "ignored damaged" in line]
    assert "resuming from step 2 " in start.said and kill.final_state(output, STEPS) == wanted
    return Outcome(line)


# -- odd files under a manifest that fits ---------------------------------------------------------------------------


def _odd_states(known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for value in ([], {}, None, 7, "text"):
        yield f"state is {value!r}", value
    for key in known:
        yield f"no {key}", {k: v for k, v in known.items() if k != key}
    for key in ("position", "best", "history", "scale", "samples"):
        for value in (None, 7, "text", [1], {"odd": 1}):
            yield f"{key} is {value!r}", {**known, key: value}
    yield "another step", {**known, "position": {**known["position"], "step": 77}}


def _odd_tensors(path: Path) -> Iterator[tuple[str, bytes]]:
    import torch
    from safetensors.torch import load_file, save

    tensors = load_file(path)
    first = next(iter(tensors))
    yield "empty", b""
    yield "no tensor", save({})
    yield "other names", save({f"odd.{name}": value for name, value in tensors.items()})
    yield "other shapes", save({name: torch.zeros(3, 5) for name in tensors})
    yield "one missing", save({name: value for name, value in tensors.items() if name != first})
    yield "JSON", b"{}"


def _odd(file: str, output: str) -> None:
    """Resume from checkpoints that are whole and hold something odd; the body of a process."""
    from embedkit.training.state.checkpoint import MANIFEST, seal

    last = Path(output) / "checkpoints" / f"step-{STEPS:08d}"
    known = json.loads((last / "state.json").read_text())
    changes: list[tuple[str, str, bytes | None]] = [
        ("state.json", what, json.dumps(value).encode()) for what, value in _odd_states(known)
    ]
    for name in ("weights", "optimiser", "ema", "random"):
        changes += [(f"{name}.safetensors", w, data) for w, data in _odd_tensors(last / f"{name}.safetensors")]
    changes += [
        ("recipe.yaml", "binary", b"\xff\xfe"),
        ("recipe.yaml", "a list", b"- 1\n"),
        ("state.json", "[[", b"[["),
    ]
    changes += [("state.json", "deep", b"[" * 100_000), ("state.json", "not UTF-8", b"\xff")]
    changes += [(file.name, "missing", None) for file in sorted(last.iterdir()) if file.name != MANIFEST]
    line = ""
    for name, what, data in changes:
        whole = (last / name).read_bytes()
        (last / name).write_bytes(data) if data is not None else (last / name).unlink()
        (last / MANIFEST).unlink()
        seal(last)
        ended = command(*kill.words(Path(file), Path(output), True))
        try:
            line = ended.line(str(last))
        except AssertionError as error:
            raise AssertionError(f"{name}: {what}: {error}") from error
        (last / name).write_bytes(whole)
    print(f"{len(changes)} {line}", flush=True)


@case("disk", "odd: a checkpoint whose manifest fits and whose content does not")
def _forged(world: World) -> Outcome:
    file, output = _trained(world)
    start = Forked(1, [_odd, str(file), str(output)], world.folder / "said")
    assert start.wait() == 0, start.said[-3000:]
    count, _, line = start.lines()[-1].partition(" ")
    return Outcome(line, int(count), "clear error")


# -- closed folders, links, modes, clock ----------------------------------------------------------------------------


def _as_nobody(disk: Path, names: list[str]) -> None:
    """Writers in a folder of somebody else; the body of a process."""
    place, spare = disk / "closed", disk / "spare"
    place.mkdir()
    for name in names:
        WRITERS[name](place, 0)
    old = hashes(place)
    for folder in (disk, place, *(p for p in place.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    spare.mkdir(mode=0o777)
    os.chdir("/")
    os.setuid(65534)
    for name in names:
        line = _refused(WRITERS[name], place, 1)
        assert line is not None, f"{name}: written without permission"
        assert "Permission denied" in line and str(place) in line, line
        print(f"1 {line}", flush=True)
    assert hashes(place) == old


@case("disk", "closed: a folder of somebody else, every writer")
def _permission(world: World) -> Outcome:
    if os.geteuid() != 0:
        raise NotHere("only root can become somebody else")
    names = [name for name in WRITERS if not name.startswith("encode")]  # their input is written beside
    place = World(Path("/mnt"), world.trials, world.seed)
    start = Forked(1, [_closed_body, str(place.folder), names], world.folder / "said")
    code = start.wait()
    if code == 77:
        raise NotHere(start.said)
    assert code == 0, start.said[-3000:]
    lines = [line for line in start.lines() if line.startswith("1 ")]
    assert len(lines) == len(names)
    return Outcome(lines[0][2:], len(lines), "clear error")


def _closed_body(disk: str, names: list[str]) -> None:
    from tests.faults.disk_mount import mount

    mount(Path(disk), 64 << 20)
    _as_nobody(Path(disk), names)


def _through_links(folder: str) -> None:
    """Every writer through links; the body of a process."""
    count = 0
    for name, writer in WRITERS.items():
        if name == "lock":
            continue
        plain, linked, real = (Path(folder) / f"{count}-{kind}" for kind in ("plain", "linked", "real"))
        for place in (plain, linked, real):
            place.mkdir()
        writer(plain, 0)
        tops = sorted(path for path in plain.iterdir() if not path.name.startswith("."))
        for number, top in enumerate(tops):
            if top.is_dir():
                (real / top.name).mkdir()
            (linked / top.name).symlink_to(real / top.name if number % 2 else Path("..") / real.name / top.name)
        if name == "model card":
            shutil.copy(plain / "card" / "embedkit.json", real / "card" / "embedkit.json")
        writer(linked, 0)
        for top in tops:
            assert (linked / top.name).is_symlink(), f"{name}: the link {top.name} was replaced"
        assert hashes(real) == hashes(plain), name
        assert not [p for p in linked.rglob(".*") if p.suffix in (".tmp", ".old")]
        count += 1
    print(count, flush=True)


@case("disk", "links: outputs that are links stay links, and their targets get the content")
def _links(world: World) -> Outcome:
    start = Forked(1, [_through_links, str(world.folder)], world.folder / "said")
    assert start.wait() == 0, start.said[-3000:]
    return Outcome(f"{start.lines()[-1]} writers followed the links", int(start.lines()[-1]))


def _modes(folder: str) -> None:
    """Every writer under several masks; the body of a process."""
    count = 0
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        for number, writer in enumerate(WRITERS.values()):
            place = Path(folder) / f"{mask:o}-{number}"
            place.mkdir()
            writer(place, 0)
            for path in place.rglob("*"):
                wanted = (0o777 if path.is_dir() else 0o666) & ~mask
                assert stat.S_IMODE(path.stat().st_mode) == wanted, f"{path}: {path.stat().st_mode:o} under {mask:o}"
                count += 1
        os.umask(before)
    print(count, flush=True)


@case("disk", "modes: every file and folder honours the umask")
def _umask(world: World) -> Outcome:
    start = Forked(1, [_modes, str(world.folder)], world.folder / "said")
    assert start.wait() == 0, start.said[-3000:]
    said = f"{start.lines()[-1]} files and folders of {len(WRITERS)} writers under 022, 077 and 002; 0644 under 022"
    return Outcome(said, 3 * len(WRITERS))


def _backwards(words: list[str]) -> None:
    """``embedkit WORDS`` while the clock goes back an hour a look; the body of a process."""
    import time

    from embedkit.cli.app import main

    now = [time.time()]

    def back() -> float:
        now[0] -= 3600.0
        return now[0]

    time.time = back
    sys.exit(main(words))


@case("disk", "a clock that goes back: the newest checkpoint is the one of the highest step")
def _clock(world: World) -> Outcome:
    file, output = recipe(world.folder, 6, save_every=2, keep_checkpoints=3), world.folder / "run"
    whole = Forked(1, kill.words(file, world.folder / "whole", False), world.folder / "said")
    first = Forked(1, [_backwards, kill.words(file, output, False)], world.folder / "first")
    assert whole.wait() == 0 and first.wait() == 0, first.said[-3000:]
    steps = sorted((output / "checkpoints").glob("step-*"))
    assert len(steps) == 3
    shutil.rmtree(steps[-1]), shutil.rmtree(output / "model")
    for path, year in ((steps[0], 2_000_000_000), (steps[1], 0)):  # the older one is from 2033, the newer from 1970
        for one in (path, *path.iterdir()):
            os.utime(one, (year, year))
    again = Forked(1, [_backwards, kill.words(file, output, True)], world.folder / "said")
    assert again.wait() == 0, again.said[-3000:]
    [line] = [line for line in again.lines() if "resuming from step" in line]
    assert "resuming from step 4 " in line, line
    assert kill.final_state(output, 6) == kill.final_state(world.folder / "whole", 6)
    return Outcome(line)
