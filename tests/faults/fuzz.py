"""Changing valid files at random, and reading them: every error must be one of embedkit's own, in good time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from embedkit.errors import UserError

LONGEST = 20.0  # seconds of CPU that one input may take
MEMORY = 12 * 2**30  # bytes that a process of the long run may ask for

PIECES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b'"', b"'", b",", b"\t", b"[", b"]", b"{", b"}", b":",
    b"-",
    b"9" * 30, b"-1", b"1e999", b"NaN", b"Infinity", b"null", b"true", b'""', b"[]", b"{}", b"\\ud800", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b"../", b"/", b"\x1b[2J", b"<script>", b"0" * 20, b"&a", b"*a", b"!!x", b"? ", b"%",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b'{"a":' * 40, b"[" * 2000, b"\x1f\x8b",
)  # fmt: skip


class TooLongError(BaseException):
    """An input took more than `LONGEST`; not an Exception, so that no reader takes it for its own."""


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes
    ----------
    name : str
    seeds : list of bytes
        Valid contents, to be changed.
    read : callable (bytes)
        Puts the content where it belongs and reads it.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[bytes], Any]


@dataclass
class Count:
    """What came of a reader: inputs, those that it accepted, and faults by where they were raised."""

    inputs: int = 0
    accepted: int = 0
    faults: dict[str, str] = field(default_factory=dict)


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the valid contents after some bit flips, cuts, splices, repeats and insertions."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(("flip", "cut", "drop", "splice", "repeat", "insert", "replace", "bytes")))
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = min(len(content), start + draw(st.integers(1, 40)))
        if kind == "flip" and content:
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[start:]
        elif kind == "drop":
            del content[start:stop]
        elif kind == "splice":
            other = draw(st.sampled_from(seeds))
            content[start:] = other[draw(st.integers(0, max(0, len(other) - 1))) :]
        elif kind == "repeat":
            content[start:start] = content[start:stop] * draw(st.integers(1, 50))
        elif kind == "insert":
            content[start:start] = draw(st.sampled_from(PIECES))
        elif kind == "replace":
            content[start:stop] = draw(st.sampled_from(PIECES))
        else:
            content[start:start] = draw(st.binary(max_size=20))
    return bytes(content)


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(reader: Reader, content: bytes, count: Count) -> None:
    """Read one input and note what came of it."""
    count.inputs += 1
    try:
        with _in_time():
            reader.read(content)
        count.accepted += 1
    except UserError as error:
        if not error.line().isprintable() or len(error.line()) > 2000:
            count.faults.setdefault(f"the line is not fit to print: {ascii(error.line())[:200]}", content.hex())
    except (Exception, TooLongError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/embedkit/" in f.filename]
        last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        count.faults.setdefault(f"{type(error).__name__} at {last}", f"{str(error)[:150]!r} {content.hex()}")


def fuzz(reader: Reader, examples: int, start: int, count: Count) -> None:
    """Read `examples` inputs made from seed `start`."""

    @seed(start)
    @settings(
        max_examples=examples, database=None, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck)
    )
    @given(content=changed(reader.seeds))
    def run(content: bytes) -> None:
        attempt(reader, content, count)

    run()


def fuzz_for(reader: Reader, seconds: float, start: int, folder: Path) -> Count:
    """Read new inputs for some seconds in a process of its own, which may die."""
    out = folder / "count.json"
    out.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _child(reader, seconds, start, out)
    _, status = os.waitpid(child, 0)
    if not out.is_file():
        return Count(faults={f"the process died with status {status}": ""})
    found = json.loads(out.read_text())
    count = Count(**found)
    if status:
        count.faults[f"the process died with status {status}"] = ""
    return count


def _child(reader: Reader, seconds: float, start: int, out: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    count, ends, code = Count(), time.monotonic() + seconds, 0
    try:
        while time.monotonic() < ends:
            fuzz(reader, 50, start, count)
            start += 1
            out.write_text(json.dumps(vars(count)))
    except BaseException as error:  # the parent tells of it
        count.faults[f"{type(error).__name__}: {error}"] = ""
        out.write_text(json.dumps(vars(count)))
        code = 1
    finally:
        sys.stdout.flush()
        os._exit(code)
