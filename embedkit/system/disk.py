"""Files and folders that are whole or not there, also after a kill, on a full disk, or when the power goes.

What is written stands beside its place first, under ``.NAME.tmp``, is synced, and takes the place in one step. The
writer holds a lock on it, and what a killed writer left is taken over by the next one. Links are followed, devices and
pipes are written to as they are, and modes follow the umask.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from embedkit.errors import CheckpointError, DiskError, UserError

_log = logging.getLogger(__name__)

FULL = "no space left on the disk"


def disk_reason(error: BaseException, folder: Path) -> str | None:
    """Why the disk refused a write, in words; None when `error` does not come from the disk.

    Libraries hide a full disk behind errors of their own, so causes and texts count, and whether `folder` is full.

    Examples
    --------
    >>> disk_reason(OSError(errno.ENOSPC, "No space left on device"), Path())
    'no space left on the disk'
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    numbers = [one.errno for one in chain if isinstance(one, OSError)]
    if any(n in (errno.ENOSPC, errno.EDQUOT) for n in numbers) or any("No space left" in str(one) for one in chain):
        return FULL
    reason = next((one.strerror for one in chain if isinstance(one, OSError) and one.strerror), None)
    return reason or (FULL if _is_full(folder) else None)


def _is_full(folder: Path) -> bool:
    try:
        space = os.statvfs(folder)
    except (OSError, ValueError):
        return False
    return space.f_blocks > 0 and space.f_bavail == 0


@contextlib.contextmanager
def refusals(path: Path, what: str) -> Iterator[None]:
    """A block that writes at `path` by itself; what the disk refuses is one line, with `what` and the reason.

    Examples
    --------
    >>> with refusals(Path("ids.jsonl"), "the ids cannot be written"):
    ...     raise OSError(errno.EROFS, "Read-only file system")
    Traceback (most recent call last):
    ...
    embedkit.errors.DiskError: ids.jsonl: the ids cannot be written: Read-only file system; write somewhere else
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path, what) from error


def _is_foreign(error: BaseException) -> bool:
    """Whether an error may come from the disk: it is neither a line for the user nor a wish to stop."""
    return isinstance(error, Exception) and not isinstance(error, UserError)


def tell_kept(error: BaseException, what: str, place: Path) -> None:
    """Say where the work so far is kept: in the line of an error, or in one of its own after Ctrl-C.

    Examples
    --------
    >>> error = UserError("no quota")
    >>> tell_kept(error, "the answers", Path("answers.jsonl"))
    >>> print(error)
    no quota; the answers so far are kept in answers.jsonl, and the same call goes on from there
    """
    text = f"{what} so far are kept in {place}, and the same call goes on from there"
    if isinstance(error, UserError):
        error.add(text)
    else:
        _log.warning("%s", text)


def disk_error(error: BaseException, path: Path, what: str, remedy: str = "write somewhere else") -> DiskError:
    """The error for a write that failed: what cannot be written at `path`, and why.

    Examples
    --------
    >>> print(disk_error(OSError(errno.EROFS, "Read-only file system"), Path("out"), "the model cannot be written"))
    out: the model cannot be written: Read-only file system; write somewhere else
    """
    reason = disk_reason(error, path if path.is_dir() else path.parent) or str(error)
    return DiskError(
        f"{what}: {reason}", where=str(path), remedy=f"free some space, or {remedy}" if reason == FULL else remedy
    )


@contextlib.contextmanager
def writing(path: str | Path, what: str = "the file") -> Iterator[IO[bytes]]:
    """An open binary file that takes the place of `path` when the block ends without an error.

    Parameters
    ----------
    path : str or Path
        Its folder is made. A link is followed; what is no regular file (a device, a pipe) is written to directly.
    what : str
        Names the file in the error.

    Raises
    ------
    DiskError
        It cannot be written; an older file is as it was, and nothing is left beside it.

    Examples
    --------
    >>> with writing("numbers.txt") as file:
    ...     _ = file.write(b"1 2 3")
    >>> Path("numbers.txt").read_text()
    '1 2 3'
    """
    target = Path(path)
    try:
        special = _is_special(target)
        target = target.resolve() if target.is_symlink() and not special else target
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(target, "wb") if special else _beside(target)  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise disk_error(error, target, f"{what} cannot be written") from error
    try:
        yield file
        file.flush()
        if not special:
            os.fsync(file.fileno())
            os.replace(_temporary(target), target)
            sync_folder(target.parent)
    except BaseException as error:
        reason = disk_reason(error, target.parent) if _is_foreign(error) else None
        if not special:
            _temporary(target).unlink(missing_ok=True)
        if reason is None:
            raise
        raise disk_error(error, target, f"{what} cannot be written") from error
    finally:
        with contextlib.suppress(OSError):  # what could not be flushed above fails again here
            file.close()


def write_durably(path: str | Path, data: bytes, what: str = "the file") -> Path:
    """Write a whole file in one step; see `writing`.

    Examples
    --------
    >>> write_durably("numbers.txt", b"1 2 3").name
    'numbers.txt'
    """
    with writing(path, what) as file:
        file.write(data)
    return Path(path)


def _is_special(path: Path) -> bool:
    """Whether something is there that must not be replaced: a device, a pipe, standard output."""
    place = path.absolute()
    if place.parent == Path("/dev") or place.is_relative_to("/dev/fd") or place.is_relative_to("/proc"):
        return True
    return place.exists() and not place.is_file()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp")


def _beside(target: Path) -> IO[bytes]:
    """The temporary file of a target, locked and empty; another writer of the same target is waited for."""
    path = _temporary(target)
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if _locked(handle, path):
            os.truncate(handle, 0)
            return os.fdopen(handle, "wb")
        os.close(handle)


def _locked(handle: int, path: Path) -> bool:
    """Wait for the lock of an open file or folder; False when `path` has become another one meanwhile."""
    with contextlib.suppress(OSError):  # a disk without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def filling(path: str | Path, what: str = "the folder") -> Iterator[Path]:
    """An empty folder that takes the place of `path`, with all that is in it, when the block ends without an error.

    Parameters
    ----------
    path : str or Path
        The folders above it are made; a link is followed. What is there is replaced.
    what : str
        Names the folder in the error.

    Raises
    ------
    DiskError
        It cannot be written; what was there is as it was.

    Examples
    --------
    >>> with filling("model") as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    >>> [path.name for path in Path("model").iterdir()]
    ['config.json']
    """
    target = Path(path).expanduser().absolute()
    target = target.resolve() if target.is_symlink() else target
    folder, old = _temporary(target), target.with_name(f".{target.name}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _empty(folder)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise disk_error(error, target, f"{what} cannot be written") from error
    try:
        if old.exists():  # a writer was killed in the last step
            _remove(old) if target.exists() else old.rename(target)
        yield folder
        _settle(folder)
        if target.exists():
            target.rename(old)
        folder.rename(target)
        sync_folder(target.parent)
        _remove(old)
    except BaseException as error:
        reason = disk_reason(error, target.parent) if _is_foreign(error) else None
        shutil.rmtree(folder, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        if reason is None:
            raise
        raise disk_error(error, target, f"{what} cannot be written") from error
    finally:
        os.close(handle)


def _empty(folder: Path) -> int:
    """Make or take over the folder, lock it and empty it; the handle that holds the lock."""
    while True:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if _locked(handle, folder):
            for path in folder.iterdir():
                _remove(path)
            return handle
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Modes by the umask (safetensors writes 0600) and everything on the disk."""
    probe = folder / ".mode"
    probe.touch()  # asking the umask itself would set it for all threads
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in [folder, *folder.rglob("*")]:
        path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk.

    Examples
    --------
    >>> sync_folder(Path())
    """
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderLock:
    """An exclusive lock on a folder, released at the end of its `with` block or of the process, however they end.

    Parameters
    ----------
    folder : Path
        Made when it is not there.
    remedy : str
        What the user of a second process can do.

    Raises
    ------
    CheckpointError
        Another process holds it; its number is named.
    DiskError
        The folder cannot be written.

    Examples
    --------
    >>> with FolderLock(Path("run"), "wait for it"):
    ...     (Path("run") / ".lock").read_text() == str(os.getpid())
    True
    """

    def __init__(self, folder: Path, remedy: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held until release
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.seek(0)
                owner = self._file.read().strip() or "unknown"
                self._file.close()
                raise CheckpointError(f"in use by process {owner}", where=str(folder), remedy=remedy) from None
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        except (OSError, ValueError) as error:  # as above
            raise disk_error(error, folder, "the folder cannot be locked", remedy) from error

    def release(self) -> None:
        """Give the folder back."""
        self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
