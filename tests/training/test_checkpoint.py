"""Checkpoints are complete or not there: damage is found, nothing is lost too early, nothing in them is executed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.errors import CheckpointError, DiskError, UserError
from embedkit.system.disk import FolderLock, write_durably
from embedkit.training.state import checkpoint as module
from embedkit.training.state.checkpoint import MANIFEST, Checkpoint, CheckpointStore, verify
from tests.training import runs


def write(store: CheckpointStore, step: int, best: int | None = None) -> Checkpoint:
    """A checkpoint with two tensor files, a document and a text that tell its step."""
    weights = {"w": torch.full((3, 4), float(step)), "b": torch.arange(5)}
    tensors = {"weights": weights, "random": {"cpu": torch.zeros(7, dtype=torch.uint8)}}
    return store.save(step, tensors, {"state": {"step": step}}, {"recipe.yaml": "name: x\n"}, best)


def steps_of(store: CheckpointStore) -> list[int]:
    return runs.steps_kept(store.folder.parent)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


# -- what is written ------------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back(store: CheckpointStore) -> None:
    saved = write(store, 12)
    found, ignored = store.newest()
    assert (found, ignored) == (saved, [])
    assert found is not None
    assert found.step == 12
    tensors = found.tensors("weights")
    assert torch.equal(tensors["w"], torch.full((3, 4), 12.0))
    assert tensors["b"].dtype == torch.int64
    with pytest.raises(CheckpointError, match="ema.safetensors"):
        found.tensors("ema")
    assert found.json("state") == {"step": 12}
    assert found.text("recipe.yaml") == "name: x\n"
    assert {path.suffix for path in found.path.iterdir()} == {".safetensors", ".json", ".yaml"}


def test_nothing_appears_under_its_name_before_it_is_complete(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put, sync, rename = module._put, module.sync_folder, Path.rename

    def watched_put(path: Path, data: Iterable[Any]) -> Any:
        assert not (store.folder / "step-00000001").exists()
        order.append(path.name)
        return put(path, data)

    def watched_rename(self: Path, target: Path) -> Path:
        order.append("rename")
        assert verify(self) is None
        return rename(self, target)

    monkeypatch.setattr(module, "_put", watched_put)
    monkeypatch.setattr(module, "sync_folder", lambda folder: (order.append("sync"), sync(folder))[1])
    monkeypatch.setattr(Path, "rename", watched_rename)
    write(store, 1)
    assert order[-4:] == [MANIFEST, "sync", "rename", "sync"]
    assert "weights.safetensors" in order[:-4]


def test_every_file_is_flushed_to_the_disk(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    path = write(store, 3).path
    names = [Path(name).name for name in synced]
    assert {file.name for file in path.iterdir()} <= set(names)
    assert str(store.folder) in synced


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_modes_honour_the_umask(store: CheckpointStore, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = write(store, 1).path
        write_durably(tmp_path / "recipe.yaml", b"x")
    finally:
        os.umask(before)
    for file in (*path.iterdir(), tmp_path / "recipe.yaml"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


def test_a_linked_output_folder_is_used_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big-disk")
    result = runs.run(tmp_path / "run", None, "train.max_steps=2", "train.save_every=1")
    assert (tmp_path / "run").is_symlink()
    assert runs.steps_kept(tmp_path / "big-disk") == [1, 2]
    assert (tmp_path / "big-disk" / "model").is_dir()
    assert result.steps == 2
    shutil.move(tmp_path / "big-disk" / "checkpoints", tmp_path / "elsewhere")
    (tmp_path / "big-disk" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    runs.run(tmp_path / "run", None, "train.max_steps=2", "train.save_every=1", resume=True)
    assert (tmp_path / "big-disk" / "checkpoints").is_symlink()


# -- retention ------------------------------------------------------------------------------------------------------


def test_the_last_ones_and_the_best_one_stay(store: CheckpointStore) -> None:
    for step in (1, 2, 3, 4, 5):
        write(store, step, best=2)
    assert steps_of(store) == [2, 4, 5]
    write(store, 6, best=6)
    assert steps_of(store) == [5, 6]


def test_older_ones_go_only_when_the_new_one_stands(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, 1)
    write(store, 2)
    real, seen = shutil.rmtree, []

    def watched(path: Any, **options: Any) -> None:
        seen.append(Path(path).name)
        assert verify(store.folder / "step-00000003") is None
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    write(store, 3)
    assert seen == ["step-00000001"]


def test_later_ones_of_an_abandoned_run_go_and_the_users_folders_stay(store: CheckpointStore) -> None:
    for step in (4, 6):
        write(store, step)
    for name in ("step-00000006-good", "step-copy", "notes"):
        shutil.copytree(store.folder / "step-00000004", store.folder / name)
    (store.folder / "step-00000006" / MANIFEST).unlink()
    found, ignored = store.newest()
    assert found is not None
    assert found.step == 4
    assert ignored == [f"ignored damaged step-00000006 (no {MANIFEST})"]
    write(store, 5)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "notes", "step-00000004", "step-00000005", "step-00000006-good", "step-copy",
    ]  # fmt: skip


def test_a_damaged_one_of_the_same_step_is_replaced(store: CheckpointStore) -> None:
    path = write(store, 1).path
    (path / "weights.safetensors").write_bytes(b"")
    write(store, 1)
    assert verify(path) is None


# -- damage ---------------------------------------------------------------------------------------------------------


def _truncate(file: Path, draws: random.Random) -> None:
    os.truncate(file, draws.randrange(file.stat().st_size - 1))


def _flip(file: Path, draws: random.Random) -> None:
    data = bytearray(file.read_bytes())
    place = draws.randrange(len(data))
    data[place] ^= 1 << draws.randrange(8)
    file.write_bytes(bytes(data))


def _lengthen(file: Path, draws: random.Random) -> None:
    with open(file, "ab") as handle:
        handle.write(b"x" * draws.randrange(1, 9))


def _remove(file: Path, draws: random.Random) -> None:
    file.unlink()


def _into_folder(file: Path, draws: random.Random) -> None:
    file.unlink()
    file.mkdir()


FILES = ["weights.safetensors", "random.safetensors", "state.json", "recipe.yaml", MANIFEST]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [_truncate, _flip, _lengthen, _remove, _into_folder], ids=lambda f: f.__name__[1:])
def test_damage_is_found_and_the_previous_one_is_used(
    store: CheckpointStore, file: str, damage: Callable[[Path, random.Random], None]
) -> None:
    write(store, 1)
    path = write(store, 2).path
    whole = {name: (path / name).read_bytes() for name in FILES}
    draws = random.Random(f"{file} {damage.__name__}")
    for _ in range(12 if damage in (_truncate, _flip) else 1):
        damage(path / file, draws)
        if damage is _flip and file == MANIFEST and verify(path) is None:
            # a changed blank, or upper case, says the same thing still
            assert json.loads((path / file).read_text()) == json.loads(whole[file])
        else:
            found, ignored = store.newest()
            assert found is not None
            assert found.step == 1
            assert len(ignored) == 1
            assert ignored[0].startswith("ignored damaged step-00000002 (")
            with pytest.raises(CheckpointError, match="step-00000002"):
                store.at(2)
        if (path / file).is_file():
            (path / file).write_bytes(whole[file])


@pytest.mark.parametrize(
    ("manifest", "what"),
    [
        ('{"files": {"../secret": {"bytes": 6, "sha256": "x"}}}', "a file outside the checkpoint"),
        ('{"files": {"/etc/hostname": {"bytes": 6, "sha256": "x"}}}', "a file outside the checkpoint"),
        ('{"files": {"..": {"bytes": 6, "sha256": "x"}}}', "is missing"),
        ('{"files": {"": {"bytes": 6, "sha256": "x"}}}', "is missing"),
        ('{"files": {"state.json": {"bytes": 6}}}', ""),
        ('{"files": {"state.json": 6}}', "is damaged"),
        ('{"files": {}}', "names no file"),
        ('{"files": []}', "names no file"),
        ('{"files": ["state.json"]}', "is damaged"),
        ("[]", "is damaged"),
        ("null", "is damaged"),
        ("{}", "is damaged"),
        ("", "is damaged"),
        ("\ufffd", "is damaged"),
    ],
)
def test_a_wrong_manifest_is_no_completion_mark(store: CheckpointStore, manifest: str, what: str) -> None:
    (store.folder.parent / "secret").write_text("secret")
    path = write(store, 1).path
    (path / MANIFEST).write_text(manifest)
    problem = verify(path)
    assert problem is not None
    assert what in problem
    assert store.newest()[0] is None


def test_what_an_interrupted_save_left_is_named_and_swept(store: CheckpointStore, tmp_path: Path) -> None:
    write(store, 1)
    for name in (".writing-step-00000002-123", f".writing-step-00000002-{os.getpid()}"):
        (store.folder / name).mkdir()
        (store.folder / name / "weights.safetensors").write_bytes(b"half")
    found, ignored = store.newest()
    assert found is not None
    assert found.step == 1
    assert len(ignored) == 2
    assert all(line.startswith("ignored incomplete .writing-step-00000002") for line in ignored)
    store.sweep()
    assert [path.name for path in store.folder.iterdir()] == ["step-00000001"]


def test_a_run_resumes_past_a_damaged_checkpoint_and_says_so(tmp_path: Path) -> None:
    given = runs.recipe(train={"save_every": 1, "max_steps": 3}, dropout=0.1)
    runs.run(tmp_path / "whole", given)
    runs.run(tmp_path / "run", given)
    wanted = runs.checkpoint(tmp_path / "whole", 3)
    folder = tmp_path / "run" / "checkpoints"
    _flip(folder / "step-00000003" / "optimiser.safetensors", random.Random(3))
    (folder / ".writing-step-00000004-1").mkdir()
    progress = runs.Recorder()
    runs.run(tmp_path / "run", given, resume=True, progress=progress)
    said = "\n".join(progress.lines)
    assert "ignored damaged step-00000003 (optimiser.safetensors has changed since it was written)" in said
    assert "resuming from step 2 " in said
    assert not list(folder.glob(".writing-*"))
    found = runs.checkpoint(tmp_path / "run", 3)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_resume_without_any_whole_checkpoint_starts_anew_and_says_so(tmp_path: Path) -> None:
    given = runs.recipe(train={"max_steps": 2})
    first = runs.run(tmp_path / "run", given)
    (tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="holds a model, but no checkpoint to resume from"):
        runs.run(tmp_path / "run", given, resume=True)
    shutil.rmtree(tmp_path / "run" / "model")
    progress = runs.Recorder()
    again = runs.run(tmp_path / "run", given, resume=True, progress=progress)
    assert any("no complete checkpoint, starting from step 0" in line for line in progress.lines)
    assert again.losses == first.losses


# -- full disks and folders that cannot be written ------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("after", [0, 2, 4], ids=["first file", "tensors", "manifest"])
def test_a_full_disk_keeps_what_is_there(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    write(store, 1)
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    real, calls = module._put, []

    def full(path: Path, data: Iterable[Any]) -> Any:
        calls.append(path)
        if len(calls) > after:
            content = b"".join(bytes(piece) for piece in data)
            path.write_bytes(content[: len(content) // 2])
            raise OSError(number, os.strerror(number), str(path))
        return real(path, data)

    monkeypatch.setattr(module, "_put", full)
    with pytest.raises(DiskError) as caught:
        write(store, 2)
    line = caught.value.line()
    assert "could not save step 2, older checkpoints are untouched: no space left on the disk; free some space" in line
    assert str(store.folder) in line
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
    monkeypatch.setattr(module, "_put", real)
    assert write(store, 2).step == 2  # nothing is in the way once there is space


def test_a_run_on_a_full_disk_ends_with_one_line_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = runs.recipe(train={"save_every": 1, "max_steps": 3})
    runs.run(tmp_path / "whole", given)
    real = module._put

    def full(path: Path, data: Iterable[Any]) -> Any:
        if "step-00000002" in path.parent.name and path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_put", full)
        with pytest.raises(DiskError, match="no space left on the disk"):
            runs.run(tmp_path / "run", given)
    assert runs.steps_kept(tmp_path / "run") == [1]
    runs.run(tmp_path / "run", given, resume=True)
    wanted, found = (runs.checkpoint(tmp_path / name, 3) for name in ("whole", "run"))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="is not a folder"):
        runs.run(tmp_path / "file")
    with pytest.raises(DiskError, match="cannot be locked: Not a directory"):
        runs.run(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_durable_write_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_durably(tmp_path / "f", b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match="no space left"):
            write_durably(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
    write_durably(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


# -- the lock -------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from embedkit.system.disk import FolderLock
lock = FolderLock(Path(sys.argv[1]), "wait for it, or give another")
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_ends_however_it_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {holder.pid}; wait for it, or give another"):
            FolderLock(tmp_path, "wait for it, or give another")
        with pytest.raises(CheckpointError, match="in use by process"):  # also by way of `train`, resumed or not
            runs.run(tmp_path, resume=True)
        assert not (tmp_path / "checkpoints").exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    lock = FolderLock(tmp_path, "wait for it, or give another")
    assert (tmp_path / ".lock").read_text() == str(os.getpid())
    lock.release()
    FolderLock(tmp_path, "wait for it, or give another").release()


def test_the_lock_is_given_back_after_success_and_after_failure(tmp_path: Path) -> None:
    given = runs.recipe(train={"max_steps": 1})
    runs.run(tmp_path, given)
    with pytest.raises(CheckpointError, match="another run"):
        runs.run(tmp_path, given, "seed=8", resume=True)
    FolderLock(tmp_path, "wait for it, or give another").release()


# -- no code is run -------------------------------------------------------------------------------------------------


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path(self.target).write_text, ("executed",))


def test_a_pickle_in_a_checkpoint_is_never_executed(tmp_path: Path) -> None:
    given = runs.recipe(train={"save_every": 1, "max_steps": 2})
    runs.run(tmp_path / "run", given)
    flag = tmp_path / "flag"
    bomb = pickle.dumps(_Bomb(str(flag)))
    assert pickle.loads(bomb) == 8  # noqa: S301 - the bomb works
    flag.unlink()
    path = tmp_path / "run" / "checkpoints" / "step-00000002"
    for name in ("weights.bin", "weights.pt", "optimizer.pt", "pytorch_model.bin", "random_states_0.pkl", "state.pkl"):
        (path / name).write_bytes(bomb)
    runs.run(tmp_path / "run", given, resume=True)
    assert not flag.exists()
    for name in sorted(json.loads((path / MANIFEST).read_text())["files"]):  # even under a manifest made to fit
        whole = (path / name).read_bytes()
        (path / name).write_bytes(bomb)
        _fit_manifest(path)
        with pytest.raises(UserError):
            runs.run(tmp_path / "run", given, resume=True)
        assert not flag.exists(), name
        (path / name).write_bytes(whole)


def _fit_manifest(path: Path) -> None:
    files = json.loads((path / MANIFEST).read_text())["files"]
    known = {name: {"bytes": (path / name).stat().st_size, "sha256": module._digest(path / name)} for name in files}
    (path / MANIFEST).write_text(json.dumps({"files": known}))


def test_a_kill_while_a_checkpoint_is_written_loses_nothing(tmp_path: Path) -> None:
    """A process that saves without end is killed at random moments; the newest whole checkpoint never goes back."""
    script = (
        "import sys, torch, itertools\nfrom pathlib import Path\n"
        "from embedkit.training.state.checkpoint import CheckpointStore\n"
        "store = CheckpointStore(Path(sys.argv[1]), keep=1)\nfound, _ = store.newest()\nstore.sweep()\n"
        "first = 1 if found is None else found.step + 1\nprint('ready', flush=True)\n"
        "for step in itertools.count(first):\n"
        "    store.save(step, {'weights': {'w': torch.full((1000,), float(step))}}, {'state': {}}, {})\n"
    )
    store, last = CheckpointStore(tmp_path / "checkpoints", keep=1), 0
    draws = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", script, str(store.folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + 30
        while store.newest()[0] is None and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(draws.uniform(0.0, 0.15))
        process.kill()
        process.wait(30)
        found, _ = store.newest()
        assert found is not None
        assert found.step >= last
        assert float(found.tensors("weights")["w"][0]) == found.step
        last = found.step
