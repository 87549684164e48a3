"""Tar shards as the webdataset library writes them: files of one sample stand together and share a name.

A sample's files are ``KEY.EXTENSION`` (the key ends at the first dot of the file name), and become columns as
`embedkit.data.sources.formats.samples` says. Nothing is unpacked, no pickle is read.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.files import seekable
from embedkit.data.sources.formats.samples import hidden, sample_cells
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location
from embedkit.errors import DataError

MAX_FILE = 256 * 2**20
"""Largest file in a shard that is read, in bytes."""

MAX_HEADERS = 8
"""Headers of one file at most."""

APART = "files apart"
"""Reason of a sample whose files do not stand together in the shard."""

_STAND_APART = "the files of the sample {!r} do not stand together"
_SORT = "pack the shard in the order of the names, as tar --sort=name does"


def read_shard(path: Location, start: int = 0) -> Iterator[Record]:
    """Samples of a shard, numbered from 1; the first `start` are passed over without reading their files.

    A sample that cannot be used comes as a `BadRow`, so that every sample keeps its number. A shard that breaks off
    ends with a `BadRow` of the reason "damaged shard"; one without samples is a `BadRow` of the reason "empty file".

    Raises
    ------
    DataError
        The file is missing.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("cat.txt").write_text("a cat"), Path("cat.jpg").write_bytes(b"...")
    >>> with tarfile.open("000.tar", "w") as tar:
    ...     tar.add("cat.jpg"), tar.add("cat.txt")
    (None, None)
    >>> list(read_shard(Path("000.tar")))
    [(1, {'__key__': 'cat', 'image': b'...', 'text': 'a cat'})]
    """
    try:
        with _opened(path) as tar:
            for number, (key, members) in enumerate(_samples(tar), 1):
                if number <= start:
                    continue
                if isinstance(members, BadRow):
                    yield number, members.at(str(path))
                else:
                    try:
                        yield number, _cells(tar, key, members)
                    except BadRow as bad:
                        yield number, bad.at(f"{path}:{number} ({key})")
    except BadRow as bad:  # no shard at all
        yield 1, bad


def count_samples(path: Location) -> int:
    """The number of records that `read_shard` gives; only the headers of the files are read.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("cat.txt").write_text("a cat"), Path("dog.txt").write_text("a dog")
    >>> with tarfile.open("000.tar", "w") as tar:
    ...     tar.add("cat.txt"), tar.add("dog.txt")
    (None, None)
    >>> count_samples(Path("000.tar"))
    2
    """
    try:
        with _opened(path) as tar:
            return sum(1 for _ in _samples(tar))
    except BadRow:
        return 1


@contextlib.contextmanager
def _opened(path: Location) -> Iterator[tarfile.TarFile]:
    """The shard, through a temporary file when it is gzipped, because samples are read by place."""
    if not path.is_file():
        raise DataError("no such file", where=str(path), remedy="check the path")
    remedy = "write or copy it again"
    try:
        handle = seekable(path)
    except DataError as error:
        raise BadRow("damaged shard", error.what, where=str(path), remedy=remedy) from error
    with handle:
        try:
            tar = tarfile.open(fileobj=handle, mode="r:", tarinfo=_header())  # noqa: SIM115 - closed below
        except Exception as error:  # as below
            raise BadRow("damaged shard", f"not a tar file ({error})", where=str(path), remedy=remedy) from error
        with tar:
            yield tar


def _header() -> type[tarfile.TarInfo]:
    """The headers of one archive, each of which may stand behind a few that tell of it: a long name, its attributes.

    The library follows such a chain by recursion, to the depth of Python's stack.
    """

    class Header(tarfile.TarInfo):
        depth = 0

        @classmethod
        def fromtarfile(cls, archive: tarfile.TarFile) -> Header:
            Header.depth += 1
            try:
                if Header.depth > MAX_HEADERS:
                    raise tarfile.ReadError(f"more than {MAX_HEADERS} headers for one file")
                return super().fromtarfile(archive)
            finally:
                Header.depth -= 1

    return Header


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tarfile.TarInfo] | BadRow]]:
    """Key and files of each sample."""
    key: str | None = None
    members: list[tarfile.TarInfo] = []
    earlier: set[str | None] = set()
    while True:
        try:
            member = tar.next()
            tar.members.clear()  # type: ignore[attr-defined]  # which would grow with the shard
        except Exception as error:  # headers can be anything: numbers out of range, a thousand links of names
            if members:
                yield key or "", members
            what = f"the shard breaks off or is damaged ({error})"
            yield "", BadRow("damaged shard", what, remedy="write or copy it again")
            return
        if member is None:
            damage = _damage_at_end(tar)
            break
        if not member.isfile() or hidden(PurePosixPath(member.name).name):
            continue
        own = _key(member.name)
        if own != key and members:
            yield key or "", BadRow(APART, _STAND_APART.format(key), remedy=_SORT) if key in earlier else members
            earlier.add(key)
            members = []
        key = own
        members.append(member)
    if members:
        yield key or "", BadRow(APART, _STAND_APART.format(key), remedy=_SORT) if key in earlier else members
    if damage:
        yield "", BadRow("damaged shard", damage, remedy="write or copy it again")
    elif key is None:
        yield "", BadRow("empty file", "the shard has no samples", remedy="remove it, or set data.on_bad_row: skip")


def _damage_at_end(tar: tarfile.TarFile) -> str:
    """What is wrong where the archive seems to end; nothing where its end mark stands, a block of zeros.

    The library takes a damaged or half a header for the end, and all samples after it would be lost silently.
    """
    handle = tar.fileobj
    assert handle is not None
    handle.seek(tar.offset)
    block = handle.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "the shard breaks off: there is no end mark"
    return "the shard is damaged: what follows is no header of a file" if block.strip(b"\0") else ""


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def _cells(tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo]) -> dict[str, Any]:
    files = ((PurePosixPath(member.name).name.partition(".")[2].lower(), member) for member in members)
    return {"__key__": key} | sample_cells(
        (extension, member.name, partial(_content, tar, member)) for extension, member in files
    )


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE:
        raise BadRow("large file", f"{member.name!r} has more than {MAX_FILE >> 20} MiB", remedy="leave it out")
    try:
        handle = tar.extractfile(member)
        content = b"" if handle is None else handle.read()
    except Exception as error:  # as above
        raise BadRow("damaged shard", f"{member.name!r} cannot be read ({error})", remedy="copy it again") from error
    if len(content) != member.size:
        raise BadRow("damaged shard", f"{member.name!r} is truncated", remedy="write or copy the shard again")
    return content


readers.add("webdataset")(Format((".tar", ".tgz"), read_shard, lanes=True))
