"""What was computed at a price, kept as it comes: a file of lines that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from embedkit.errors import DataError, UserError
from embedkit.system.disk import disk_error, tell_kept

_HEAD = b'{"key": "'
"""How each line begins."""


def key_of(*parts: Any) -> str:
    """A hash of some values, which stands for them in a journal.

    Examples
    --------
    >>> key_of("positives", "a cat") == key_of("positives", "a cat"), len(key_of("x"))
    (True, 32)
    """
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


class Journal:
    """Values by key in a file of JSON lines ``{"key": .., "value": ..}``; each is on the disk when `put` returns.

    A line that a kill cut short is taken away when the file is opened again. One process writes at a time.

    Parameters
    ----------
    path : Path or None
        The file, which is made when it is not there; None keeps values in memory alone.

    Raises
    ------
    UserError
        Another process writes it.
    DataError
        A whole line is no such line: it is another file.
    DiskError
        It cannot be written.

    Examples
    --------
    >>> with Journal(Path("answers.jsonl")) as journal:
    ...     journal.put({"k1": "a text"})
    >>> with Journal(Path("answers.jsonl")) as journal:
    ...     journal["k1"], "k2" in journal
    ('a text', False)
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Journal:
        if self.path is not None:
            try:
                self._file = open(self.path, "a+b")
            except (OSError, ValueError) as error:
                raise disk_error(error, self.path, "what was computed cannot be kept") from error
            try:
                with contextlib.suppress(OSError):  # a disk without locks
                    self._claim(self._file)
                self._read(self._file)
            except BaseException:
                self._file.close()
                raise
        return self

    def _claim(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another process is writing it", where=str(self.path),
                            remedy="wait for it, or give another file") from None  # fmt: skip

    def _read(self, file: IO[bytes]) -> None:
        """Take in all whole lines, and cut off what follows them."""
        file.seek(0)
        end = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and _HEAD.startswith(line[: len(_HEAD)]):  # cut short by a kill
                break
            try:
                entry = json.loads(line)
                self._values[entry["key"]] = entry["value"]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise DataError("is no line of a journal", where=f"{self.path}:{number}",
                                remedy="give another file, or take the line out") from error  # fmt: skip
            end += len(line)
        file.truncate(end)
        file.seek(0, os.SEEK_END)

    @contextlib.contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """What stops the block tells where `what` is kept; an empty file is taken away.

        Examples
        --------
        >>> with Journal(Path("answers.jsonl")) as journal, journal.kept("the answers"):
        ...     journal.put({"k1": "a text"})
        ...     raise UserError("no quota")
        Traceback (most recent call last):
        ...
        embedkit.errors.UserError: no quota; the answers so far are kept in answers.jsonl, and the same call goes on ...
        """
        try:
            yield
        except (UserError, KeyboardInterrupt) as error:
            if self.path is not None and self.path.is_file() and self.path.stat().st_size:
                tell_kept(error, what, self.path)
            elif self.path is not None:
                self.path.unlink(missing_ok=True)
            raise

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written has been reported by `put`
                self._file.close()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def put(self, values: dict[str, Any]) -> None:
        """Keep values, on the disk too; safe to call from several threads."""
        lines = [json.dumps({"key": key, "value": value}) + "\n" for key, value in values.items()]
        with self._lock:
            self._values.update(values)
            if self._file is None:
                return
            try:
                self._file.write("".join(lines).encode("ascii"))
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                assert self.path is not None
                raise disk_error(error, self.path, "what was computed cannot be kept") from error
