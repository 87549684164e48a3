"""The parts of a long call: shared among the processes, and kept beside the output until it is written.

The work is cut into parts whose content depends on the input alone, not on the number of processes or on what was done
before. Process k of n does the parts k, k + n, ... and writes each as a file of its own, in one step. When all are
there, every process reads them in their order. A part that is there already is not done again: a call that was killed
goes on where it was, and its output has the same bits.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.stats import Array
from embedkit.system.disk import FolderLock, tell_kept, write_durably, writing

if TYPE_CHECKING:
    from accelerate import PartialState

_CALL = "call.json"
IN_MEMORY = 65_536
"""Vectors that are held in memory where there is no folder for them; more stand in a temporary file."""

Work = Callable[[int], Mapping[str, Array]]
Progress = Callable[[int, int], None]


class Parts:
    """The parts of one call; see `open_parts`.

    Parameters
    ----------
    folder : Path or None
        Where they are kept; without one every part is done when it is asked for, and none is kept.
    state : accelerate.PartialState, optional
        The processes.

    Attributes
    ----------
    reused : int
        Parts that an earlier, stopped call had done.

    Examples
    --------
    >>> [part["ones"].tolist() for part in Parts(None).run("ones", 2, lambda number: {"ones": np.ones(number + 1)})]
    [[1.0], [1.0, 1.0]]
    """

    def __init__(self, folder: Path | None, state: PartialState | None = None) -> None:
        self.folder, self._state, self.reused, self._prefix = folder, state, 0, ""

    @property
    def main(self) -> bool:
        """Whether this process writes what all of them found."""
        return self._state is None or self._state.process_index == 0

    def section(self, name: str) -> Parts:
        """Parts of the same call whose files begin with `name`."""
        part = copy(self)
        part._prefix = f"{self._prefix}{name}-"
        return part

    def wait(self) -> None:
        """Wait for the other processes."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def run(self, name: str, count: int, work: Work, progress: Progress | None = None) -> Iterator[dict[str, Array]]:
        """The arrays of the parts 0 to `count`, excluded, in their order.

        Parameters
        ----------
        name : str
            Of the files.
        count : int
            Number of parts.
        work : callable
            Gets a number and gives the arrays of that part.
        progress : callable, optional
            Gets (parts done, all of them).

        Raises
        ------
        DiskError
            A part cannot be written; those before it stay.
        """
        if self.folder is None:
            for number in range(count):
                arrays = dict(work(number))
                if progress is not None:
                    progress(number + 1, count)
                yield arrays
            return
        self._do(name, count, work, progress)
        for number in range(count):
            yield _read(self._path(name, number))

    def _do(self, name: str, count: int, work: Work, progress: Progress | None) -> None:
        """This process's share of the parts that are not there yet; all are there when it comes back."""
        rank, world = (0, 1) if self._state is None else (self._state.process_index, self._state.num_processes)
        for number in range(rank, count, world):
            path = self._path(name, number)
            if path.is_file():
                self.reused += 1
            else:
                arrays = work(number)
                with writing(path, "a part of the work") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
            if progress is not None:
                progress(min(number + world, count), count)
        self.wait()

    def table(self, name: str, count: int, work: Callable[[int], Array], rows: int) -> Array:
        """The rows (N, D) of all parts as one array, memory-mapped where they are many or have a folder.

        `work` gives the rows (n, D) of a part, `rows` is N.
        """
        if self.folder is None:
            return _fill((part["rows"] for part in self.run(name, count, lambda n: {"rows": work(n)})), rows)
        path = self.folder / f"{self._prefix}{name}.npy"
        is_there = path.is_file()
        self.wait()  # before anybody makes it, so that all see the same
        if not is_there:
            self._do(name, count, lambda number: {"rows": work(number)}, None)
            if self.main:
                self._join(name, count, path, rows)
            self.wait()
        return np.asarray(_load(path))

    def _join(self, name: str, count: int, path: Path, rows: int) -> None:
        """One file of the rows of all parts, which are no longer needed then."""
        first = _read(self._path(name, 0))["rows"]
        with writing(path, "the vectors") as file:
            head = {"descr": "<f4", "fortran_order": False, "shape": (rows, first.shape[1])}
            np.lib.format.write_array_header_2_0(file, head)  # type: ignore[arg-type]
            for number in range(count):
                file.write(np.ascontiguousarray(_read(self._path(name, number))["rows"], dtype="<f4").data)
        for number in range(count):
            self._path(name, number).unlink()

    def _path(self, name: str, number: int) -> Path:
        assert self.folder is not None  # callers have looked
        return self.folder / f"{self._prefix}{name}-{number:06d}.npz"


def _fill(parts: Iterator[Array], rows: int) -> Array:
    table: Array | None = None
    start = 0
    for part in parts:
        if table is None:
            shape = (rows, part.shape[1])
            if rows <= IN_MEMORY:
                table = np.empty(shape, np.float32)
            else:
                file = tempfile.TemporaryFile()  # noqa: SIM115 - gone when the map is
                table = np.memmap(file, np.float32, "w+", shape=shape)
        table[start : start + len(part)] = part
        start += len(part)
    assert table is not None  # there is at least one row
    return table


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy and zipfile raise anything on damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"is no part of the work ({reason})", where=str(path),
                        remedy="delete its folder and repeat the call") from error  # fmt: skip


def _read(path: Path) -> dict[str, Array]:
    with _load(path) as arrays:
        try:
            return {name: arrays[name] for name in arrays.files}
        except Exception as error:  # as above
            raise UserError(f"is no part of the work ({error})", where=str(path),
                            remedy="delete its folder and repeat the call") from error  # fmt: skip


@contextmanager
def open_parts(
    target: Path | None, identity: Callable[[], Mapping[str, Any] | None], state: PartialState | None
) -> Iterator[Parts]:  # fmt: skip
    """The parts of a call whose output is `target`, in a folder beside it that goes when the block ends well.

    Parameters
    ----------
    target : Path or None
        Without an output nothing is kept.
    identity : callable
        Gives what decides the content of the parts, as plain values; None where it cannot be told (a model that is an
        object without a hash), and then those of a stopped call are not used. Not called without an output.
    state : accelerate.PartialState or None
        The processes of the call.

    Raises
    ------
    UserError
        The folder holds the parts of another call, or there are several processes and no output for them to share.
    CheckpointError
        Another call is at work on this output.

    Examples
    --------
    >>> with open_parts(Path("rows.jsonl"), lambda: {"k": 3}, None) as parts:
    ...     _ = list(parts.run("ones", 1, lambda n: {"ones": np.ones(2)}))
    ...     parts.folder.name, (parts.folder / "ones-000000.npz").is_file()
    ('.rows.jsonl.parts', True)
    """
    world = 1 if state is None else state.num_processes
    if target is None:
        if world > 1:
            raise UserError(f"there are {world} processes, and no output beside which they can share the work",
                            where="output", remedy="give one, or start a single process")  # fmt: skip
        yield Parts(None)
        return
    call = identity()
    parts = Parts(target.with_name(f".{target.name}.parts"), state if world > 1 else None)
    assert parts.folder is not None
    with FolderLock(parts.folder, "wait for it, or give another output") if parts.main else nullcontext():
        if parts.main:
            _check_call(parts.folder, call)
        parts.wait()
        try:
            yield parts
        except (UserError, KeyboardInterrupt) as error:
            is_empty = not any(parts.folder.glob("*.np[yz]"))
            # after such an error the same call would come to the same end
            is_idle = type(error) in (DataError, UserError) or (is_empty and isinstance(error, KeyboardInterrupt))
            if is_idle and parts.main:
                shutil.rmtree(parts.folder)
            elif not is_empty and parts.main:
                tell_kept(error, "the parts", parts.folder)
            raise
        parts.wait()
        if parts.main:
            shutil.rmtree(parts.folder)
    parts.wait()


def _check_call(folder: Path, call: Mapping[str, Any] | None) -> None:
    """Refuse the parts of another call; where nobody can tell, begin anew."""
    marker = folder / _CALL
    if call is None:
        for path in folder.glob("*.np[yz]"):
            path.unlink()
        marker.unlink(missing_ok=True)
        return
    text = json.dumps(call, sort_keys=True)
    if not marker.is_file() or not any(folder.glob("*.np[yz]")):
        for path in folder.glob("*.np[yz]"):
            path.unlink()
        write_durably(marker, text.encode(), "the settings of the call")
        return
    try:
        earlier = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        earlier = None
    if earlier != json.loads(text):
        changes = sorted(key for key in call if not isinstance(earlier, dict) or earlier.get(key) != call[key])
        raise UserError(
            f"holds the parts of a stopped call with another {', '.join(changes) or 'version'}", where=str(folder),
            remedy="delete this folder, or repeat that call to finish it",
        )  # fmt: skip


def part_size(candidates: int) -> int:
    """Rows of a part of a search among so many candidates: some seconds of work, whatever the number of processes.

    Examples
    --------
    >>> part_size(200_000), part_size(10**7)
    (8192, 1024)
    """
    return min(8_192, max(1_024, 4 * 10**9 // candidates))


def search_device(device: str | None) -> str:
    """Where the matrix products of a search run: the device that was named, or the best one here.

    Examples
    --------
    >>> search_device("cpu")
    'cpu'
    """
    from embedkit.formats.loading import best_device

    return str(best_device(device))


def digest(*values: Any) -> str:
    """A hash of texts, numbers, None, and lists and mappings of these.

    Examples
    --------
    >>> digest(["a", "b"]) == digest(["ab"]), digest({"k": 1}) == digest({"k": 1})
    (False, True)
    """
    state = xxhash.xxh3_128()
    waiting = [*reversed(values)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            value = [part for item in value.items() for part in item]
        if isinstance(value, list | tuple):
            state.update(b"[%d" % len(value))
            waiting += reversed(value)
        else:
            data = str(value).encode("utf-8", "surrogatepass")
            state.update(b"%s%d:" % (type(value).__name__.encode(), len(data)) + data)
    return state.hexdigest()
