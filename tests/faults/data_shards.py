"""Tar shards: cut, empty, with names that lead elsewhere, with samples that lack a part."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from typing import Any

from tests.faults.data_frame import TEXTS, Broken
from tests.faults.data_images import CLIP, encoded, photo

Member = tuple[str, bytes] | tarfile.TarInfo
"""Name and content of a file, or the header of a link or device."""


def sample(number: int, **parts: bytes | None) -> list[Member]:
    """Image and caption; `parts` changes files by their ending, None leaves one out."""
    files: dict[str, bytes | None] = {"png": encoded(photo(number)), "txt": TEXTS[number % 8][0].encode(), **parts}
    return [(f"{number:04d}.{ending}", data) for ending, data in files.items() if data is not None]


def shard(*bad: Sequence[Member], first: int = 0) -> bytes:
    """Eight samples, those of `bad` in place of the fourth and on."""
    samples: list[Sequence[Member]] = [sample(first + number) for number in range(8)]
    samples[3 : 3 + len(bad)] = bad
    handle = io.BytesIO()
    with tarfile.open(fileobj=handle, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in (member for one in samples for member in one):
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                tar.addfile(header, io.BytesIO(member[1]))
    return handle.getvalue()


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def _empty() -> bytes:
    handle = io.BytesIO()
    tarfile.open(fileobj=handle, mode="w").close()
    return handle.getvalue()


def _bad(name: str, members: Sequence[Member], reason: str, *parts: str) -> Broken:
    return Broken(name, {"s.tar": shard(members)}, ("s.tar:4", *parts), {reason: 1}, change=CLIP)


def _two(name: str, second: bytes, reason: str, *parts: str, count: int = 1, **change: Any) -> Broken:
    """Two shards, the second one broken."""
    files = {"s-0.tar": shard(), "s-1.tar": second}
    return Broken(
        name, files, ("s-1.tar", *parts), {reason: count}, {"path": "s-{0..1}.tar"}, {**CLIP, **change},
    )  # fmt: skip


_CUT = shard(first=8)
_FLIPPED = bytearray(_CUT)
_FLIPPED[_CUT.index(b"0011.png") + 150] ^= 0xFF  # its checksum

REFUSED = [
    _two("an empty shard", _empty(), "empty file", "no samples"),
    _two("a shard of zero bytes", b"", "damaged shard", "empty"),
    _two("a web page as a shard", b"<html>404</html>" * 99, "damaged shard", "not a tar"),
    _two("a shard cut in a header", _CUT[: _CUT.index(b"0011.png") + 100], "damaged shard", "breaks off"),
    _two("a shard cut in an image", _CUT[: _CUT.index(b"0011.png") + 600], "damaged shard", "cannot be read",
         count=2),
    _two("a shard with a flipped byte", bytes(_FLIPPED), "damaged shard", "damaged"),
    _bad("a caption is missing", sample(3, txt=None), "missing column", "0003", "'text'", "lacks"),
    _bad("an image is missing", sample(3, png=None), "missing column", "0003", "'image'", "lacks"),
    _bad("two members of one name", [*sample(3), *sample(3)], "duplicate file", "0003", "'image'", "two files"),
    _bad("a caption of latin-1", sample(3, txt=b"na\xefve"), "not UTF-8", "0003.txt", "UTF-8"),
    _bad("an empty caption in a shard", sample(3, txt=b" \n"), "blank text", "captions are empty"),
    _bad("a NUL in a caption", sample(3, txt=b"a\0dog"), "NUL byte", "'text'", "NUL"),
    _bad("a truncated image in a shard", sample(3, png=encoded(photo(3))[:70]), "damaged image", "'image'", "decoded"),
    _bad("an image of zero bytes in a shard", sample(3, png=b""), "empty image", "'image'", "no bytes"),
    _bad("a key twice in a sample's JSON", sample(3, json=b'{"w": 1, "w": 2}'), "duplicate key", "'w' occurs twice"),
    _bad("a sample's JSON that is none", sample(3, json=b'{"w": '), "bad JSON", "0003.json", "not JSON"),
    _two("a shard without an end mark", _CUT.rstrip(b"\0") + bytes(-len(_CUT.rstrip(b"\0")) % 512), "damaged shard",
         "no end mark"),
    _bad("a lone surrogate in a sample's JSON", sample(3, json=b'{"w": "\\ud83d"}'), "lone surrogate", "U+D83D"),
    _bad("a path in a sample's JSON", sample(3, png=None, json=b'{"image": "../../etc/passwd"}'), "bad path",
         "'image'", "leads out of the data folder"),
    _bad("a symbolic link for an image", [_special("0003.png", tarfile.SYMTYPE, "/etc/hostname"),
         *sample(3, png=None)], "missing column", "'image'", "lacks"),
    _bad("a hard link for an image", [_special("0003.png", tarfile.LNKTYPE, "0001.png"), *sample(3, png=None)],
         "missing column", "'image'", "lacks"),
    _bad("a device for an image", [_special("0003.png", tarfile.CHRTYPE), *sample(3, png=None)], "missing column",
         "'image'", "lacks"),
]  # fmt: skip


def _named(prefix: str) -> bytes:
    return shard([(f"{prefix}{name}", data) for name, data in sample(3) if isinstance(data, bytes)])  # type: ignore[misc]


LEGAL = [
    (Broken("names with ../", {"s.tar": _named("../../")}, change=CLIP), "read, nothing is unpacked"),
    (Broken("absolute names", {"s.tar": _named("/etc/embedkit/")}, change=CLIP), "read, nothing is unpacked"),
    (Broken("a byte order mark in a caption", {"s.tar": shard(sample(3, txt=b"\xef\xbb\xbfa dog"))}, change=CLIP),
     "read"),
]  # fmt: skip
