"""A disk of a given size that only one process sees: a tmpfs in a mount namespace of its own, gone when it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.frame import NotHere, World
from tests.faults.process_start import Forked

PAGE = 4096
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 16384, 1 << 18
_NOT_HERE = 77


def _call(name: str, *args: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(folder: Path, size: int) -> None:
    """Give this process alone an empty disk of `size` bytes at `folder`."""
    user = os.geteuid()
    try:
        try:
            _call("unshare", _NEW_MOUNTS)
        except PermissionError:
            _call("unshare", _NEW_MOUNTS | _NEW_USER)
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        _call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
        folder.mkdir(exist_ok=True)
        _call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode())
    except OSError as error:
        print(f"a disk of its own: {error}", flush=True)
        os._exit(_NOT_HERE)


def make_read_only(folder: Path, read_only: bool = True) -> None:
    """Remount the disk at `folder` so that nothing can be written, or so that it can again."""
    _call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", _REMOUNT | (_READ_ONLY if read_only else 0), None)


@contextlib.contextmanager
def filled(folder: Path, leave: int) -> Iterator[None]:
    """The disk at `folder` full but for `leave` bytes, rounded down to pages."""
    known = os.statvfs(folder)
    size = known.f_bavail * known.f_frsize - leave // PAGE * PAGE
    filler = folder / "filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(PAGE, size))
    try:
        yield
    finally:
        filler.unlink()


def used(folder: Path) -> int:
    """Bytes of the files below a folder, in whole pages."""
    return sum(-(-f.lstat().st_size // PAGE) * PAGE for f in folder.rglob("*"))


def on_a_disk(world: World, size: int, body: Callable[..., None], *args: Any, processes: int = 1) -> Forked:
    """Run ``body(disk, *args)`` in a process that sees a disk of `size` bytes; what it has said.

    Raises
    ------
    NotHere
        The machine lets nobody mount one.
    """
    start = Forked(processes, [_body, str(world.folder / "disk"), size, body, *args], world.folder / "said")
    code = start.wait()
    if code == _NOT_HERE:
        raise NotHere(start.said)
    return start


def _body(disk: str, size: int, body: Callable[..., None], *args: Any) -> None:
    mount(Path(disk), size)
    body(Path(disk), *args)
