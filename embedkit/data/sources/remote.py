"""Files behind an address (``hf://``, ``s3://``, ``gs://``, ``memory://``, ``file://``), through fsspec."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from embedkit.errors import DataError

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(pipe|file|data):", re.IGNORECASE)
"""What begins like an address, and its scheme."""

SCHEMES = ("hf", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory", "file", "local")
"""Schemes that are read. Others start programs, unpack archives, or load whatever a server sends."""

_REMEDY = "check the address and the access to it, or download the file and give its path"


@dataclass(frozen=True)
class _Size:
    """The part of `os.stat_result` that readers use."""

    st_size: int


class _Stream(io.RawIOBase):
    """Bytes of a remote file; whatever its library raises becomes an `OSError`, as readers expect it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._handle.read(len(buffer))
        except Exception as error:  # clients of stores raise errors of their own
            raise OSError(first_line(error)) from error
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._handle.seek(offset, whence))

    def tell(self) -> int:
        return int(self._handle.tell())

    def close(self) -> None:
        self._handle.close()
        super().close()


class RemoteFile:
    """One file behind an address; it has the methods of `pathlib.Path` that readers use.

    Parameters
    ----------
    system : fsspec file system
        Where it lies.
    path : str
        Its path there.

    Examples
    --------
    >>> import fsspec
    >>> system = fsspec.filesystem("memory")
    >>> system.pipe("/faq/train.csv", b"question,answer")
    >>> file = RemoteFile(system, "/faq/train.csv")
    >>> file.name, str(file), file.stat().st_size, file.open().read(8)
    ('train.csv', 'memory:///faq/train.csv', 15, b'question')
    """

    def __init__(self, system: Any, path: str) -> None:
        self._system, self.path = system, path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def __str__(self) -> str:
        return str(self._system.unstrip_protocol(self.path))

    def is_file(self) -> bool:
        """Whether it is there."""
        return bool(self._system.isfile(self.path))

    def stat(self) -> _Size:
        """Its size in bytes."""
        return _Size(int(self._system.size(self.path) or 0))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """A seekable stream of its bytes."""
        try:
            return io.BufferedReader(_Stream(self._system.open(self.path, mode)))
        except FileNotFoundError:
            raise
        except Exception as error:  # as above
            raise OSError(first_line(error)) from error


Location = Path | RemoteFile
"""A file that a reader opens."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it has none.

    Examples
    --------
    >>> first_line(ValueError("one\\ntwo")), first_line(KeyError())
    ('one', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def remote_files(address: str) -> list[tuple[str, RemoteFile]]:
    """Relative name and file of everything behind an address: one file, a folder's files, or those of a pattern.

    Parameters
    ----------
    address : str
        ``SCHEME://...``, with ``*`` and ``?`` where several are meant.

    Raises
    ------
    DataError
        The scheme is not read, its package is missing, nothing is there, or it cannot be reached.

    Examples
    --------
    >>> import fsspec
    >>> fsspec.filesystem("memory").pipe({"/cats/a.csv": b"text", "/cats/b.csv": b"text"})
    >>> [name for name, _ in remote_files("memory://cats")]
    ['a.csv', 'b.csv']
    """
    match = ADDRESS.match(address)
    scheme = (match[1] or match[2] or "").lower() if match else ""
    if scheme not in SCHEMES or "::" in address or (address.lower().startswith("file:") and "://" not in address):
        raise DataError(
            f"no address of this kind is read, but {', '.join(f'{name}://' for name in SCHEMES[:4])} and the like",
            where=address, remedy="download it, and give the path of the file",
        )  # fmt: skip
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(scheme + address[len(scheme) :])
        if "*" in path or "?" in path:
            names = sorted(system.glob(path))
            base = path[: min(place for sign in "*?" if (place := path.find(sign)) >= 0)].rpartition("/")[0]
        elif system.isdir(path):
            names, base = sorted(system.find(path)), path
        else:
            names, base = [path] if system.exists(path) else [], path.rpartition("/")[0]
        files = [name for name in names if not system.isdir(name)]
    except ImportError as error:
        raise DataError(f"{scheme}:// needs another package ({first_line(error)})", where=address,
                        remedy="install it, or download the file and give its path") from error  # fmt: skip
    except Exception as error:  # clients of stores raise errors of their own
        raise DataError(f"cannot be reached ({first_line(error)})", where=address, remedy=_REMEDY) from error
    if not files:
        raise DataError("no such file or folder", where=address, remedy=_REMEDY)
    return [(name.removeprefix(base).lstrip("/"), RemoteFile(system, name)) for name in files]
