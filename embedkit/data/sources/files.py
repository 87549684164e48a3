"""Bytes to lines: opening, decompressing and decoding text files, with the exact place in every message."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, cast

from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.remote import Location
from embedkit.errors import DataError

MAX_LINE = 64 * 2**20
"""Longest line that is read, in bytes; it bounds the memory that a damaged or hostile file can take."""

MAX_RATIO = 200
"""A compressed file may unpack to this many times its size (beyond `FREE`); text comes to 3 to 20, a bomb to 1000."""

FREE = 64 * 2**20
"""Unpacked bytes below which no ratio is looked at."""

_BOM = b"\xef\xbb\xbf"


class _Unpacked(io.BufferedReader):
    """The content of a compressed file, and the file itself as `source`."""

    def __init__(self, stream: Any, source: IO[bytes]) -> None:
        super().__init__(stream)
        self.source = source

    def close(self) -> None:
        """Close both."""
        super().close()
        self.source.close()


def _zstandard(source: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(source, "zstd")


_UNPACK: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda source: gzip.GzipFile(fileobj=source),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstandard,
}
"""First bytes of compressed files, and what unpacks them."""

DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
"""What unpacking raises for damaged data."""


def open_bytes(path: Location) -> IO[bytes]:
    """A file open for reading bytes, unpacked where its first bytes say gzip, bzip2, xz or zstandard.

    Raises
    ------
    DataError
        The file is missing, is not a file, is empty, or cannot be opened.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("faq.csv.gz").write_bytes(gzip.compress(b"question,answer"))
    >>> with open_bytes(Path("faq.csv.gz")) as handle:
    ...     handle.read()
    b'question,answer'
    """
    try:
        file = path.open("rb")
        magic = file.read(6)
        if magic:
            unpack = next((unpack for start, unpack in _UNPACK.items() if magic.startswith(start)), None)
            file.seek(0)  # not opened again: behind an address that fetches its first block once more
            return file if unpack is None else cast("IO[bytes]", _Unpacked(unpack(file), file))
        file.close()
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path), remedy="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise DataError(f"cannot be opened ({error})", where=str(path), remedy="check the path") from error
    raise DataError("the file is empty", where=str(path), remedy="check how it was written")


def check_unpacked(handle: IO[bytes], path: Location, unpacked: int) -> None:
    """Refuse a decompression bomb: `unpacked` bytes have come out of so few of `handle` that it cannot be text.

    Raises
    ------
    DataError
        They are more than `MAX_RATIO` times the bytes that were read, and more than `FREE`.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("bomb.gz").write_bytes(gzip.compress(bytes(1000)))
    >>> with open_bytes(Path("bomb.gz")) as handle:
    ...     check_unpacked(handle, Path("bomb.gz"), 2**30)
    Traceback (most recent call last):
    embedkit.errors.DataError: bomb.gz: unpacks to more than 200 times its size, like a decompression bomb; ...
    """
    if unpacked > FREE and isinstance(handle, _Unpacked) and unpacked > MAX_RATIO * handle.source.tell():
        raise DataError(
            f"unpacks to more than {MAX_RATIO} times its size, like a decompression bomb", where=str(path),
            remedy="if that is meant, unpack it and give the unpacked file",
        )  # fmt: skip


def seekable(path: Location) -> IO[bytes]:
    """The file itself, or its unpacked content in a temporary file when it is compressed.

    Raises
    ------
    DataError
        As `open_bytes`; it cannot be unpacked, or is a decompression bomb.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("faq.csv.gz").write_bytes(gzip.compress(b"question,answer"))
    >>> with seekable(Path("faq.csv.gz")) as handle:
    ...     handle.seek(9), handle.read()
    (9, b'answer')
    """
    handle = open_bytes(path)
    if not isinstance(handle, _Unpacked):
        return handle
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    try:
        with handle:
            while block := handle.read(2**20):
                unpacked.write(block)
                check_unpacked(handle, path, unpacked.tell())
    except DataError:
        unpacked.close()
        raise
    except (OSError, *DAMAGED) as error:
        unpacked.close()
        raise DataError(f"cannot be unpacked ({error})", where=str(path), remedy="compress it again") from error
    unpacked.seek(0)
    return unpacked


def text_lines(path: Location) -> Iterator[tuple[int, str | BadRow]]:
    r"""Number (from 1) and text of each line, its ``\n`` or ``\r\n`` kept; a byte order mark is dropped.

    Lines end at ``\n`` only, so that U+2028, form feeds and the like stay inside a text. A line that is not UTF-8 or
    holds a NUL byte comes as a `BadRow`.

    Raises
    ------
    DataError
        The file cannot be opened, is empty, is UTF-16, has damaged gzip data, CR line ends, or a line longer than
        `MAX_LINE`.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("sentences.txt").write_bytes(b"\xef\xbb\xbfa cat\n\xff\n")
    >>> [(number, line if isinstance(line, str) else line.reason) for number, line in text_lines(Path("sentences.txt"))]
    [(1, 'a cat\n'), (2, 'not UTF-8')]
    """
    offset, look = 0, FREE
    with open_bytes(path) as handle:
        for number in itertools.count(1):
            raw = _read_line(handle, path, number)
            if not raw:
                return
            start, offset = offset, offset + len(raw)
            if offset > look:
                check_unpacked(handle, path, offset)
                look += FREE
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError("the file is UTF-16", where=str(path), remedy="save it as UTF-8")
                if b"\r" in raw and not raw.endswith(b"\n"):
                    remedy = "save the file with LF line ends"
                    raise DataError("the lines end in CR, as on old Macs", where=f"{path}:1", remedy=remedy)
                if raw.startswith(_BOM):
                    raw, start = raw[3:], 3
            yield number, _decode(raw, path, number, start)


def chomp(line: str) -> str:
    r"""The line without its final ``\n`` or ``\r\n``.

    Examples
    --------
    >>> chomp("a cat\r\n"), chomp("a cat")
    ('a cat', 'a cat')
    """
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _read_line(handle: IO[bytes], path: Location, number: int) -> bytes:
    try:
        raw = handle.readline(MAX_LINE + 1)
    except DAMAGED as error:
        raise DataError(
            f"damaged or cut compressed data ({error})", where=f"{path}:{number}",
            remedy="copy or compress the file again",
        ) from error  # fmt: skip
    except OSError as error:
        raise DataError(f"cannot be read ({error})", where=f"{path}:{number}", remedy="check the file") from error
    if len(raw) > MAX_LINE:
        raise DataError(
            f"a line is longer than {MAX_LINE >> 20} MiB",
            where=f"{path}:{number}",
            remedy="check the format and the line ends of the file",
        )
    return raw


def _decode(raw: bytes, path: Location, number: int, start: int) -> str | BadRow:
    nul = raw.find(b"\0")
    if nul >= 0:
        return BadRow(
            "NUL byte",
            f"NUL byte at byte {start + nul} of the file",
            where=f"{path}:{number}",
            remedy="the file may be binary or UTF-16: save it as UTF-8 text",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(
            "not UTF-8",
            f"byte {start + error.start} of the file (0x{raw[error.start]:02x}) is not UTF-8",
            where=f"{path}:{number}",
            remedy="save the file as UTF-8, e.g. iconv -f latin1 -t utf-8",
        )
