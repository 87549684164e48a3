"""What all groups share: the registry of cases, what a case gets and gives, the command line in this process."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

GROUPS = ("process", "disk", "data", "images", "numbers", "security", "readers", "soak")
"""Modules of this package that register cases, in the order of the report."""

TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class World:
    """What a case may use.

    Attributes
    ----------
    folder : Path
        An empty folder of the case's own.
    trials : int or None
        How often a case with random moments tries; its own number when None.
    seed : int
        Of everything random.
    shared : Path or None
        The folder of real data, when it is there.
    keep : Path or None
        Where a case may leave what it measured and drew.
    """

    folder: Path
    trials: int | None = None
    seed: int = 0
    shared: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a case that held; one that did not raises AssertionError.

    Attributes
    ----------
    said : str
        What the user saw, or what was counted: one line.
    trials : int
        How many times the fault was made.
    kind : str
        How the product took it, counted by group: "clear error", "accounted skip", "accepted" (legal input), or a
        word of the group's own.
    """

    said: str
    trials: int = 1
    kind: str = "held"


class NotHere(Exception):
    """The case needs something that this machine lacks; the message says what."""


@dataclass(frozen=True)
class Case:
    """A registered case: its group, its name, whether it takes minutes, and the function."""

    group: str
    name: str
    long: bool
    run: Callable[[World], Outcome]

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


@dataclass
class _Registry:
    cases: dict[str, Case] = field(default_factory=dict)


_REGISTRY = _Registry()


def case(group: str, name: str, *, long: bool = False) -> Callable[[Callable[[World], Outcome]], Case]:
    """Register a function as a case; `long` ones run on demand only."""

    def register(function: Callable[[World], Outcome]) -> Case:
        found = Case(group, name, long, function)
        if group not in GROUPS or str(found) in _REGISTRY.cases:
            raise ValueError(f"{found}: unknown group, or registered twice")
        _REGISTRY.cases[str(found)] = found
        return found

    return register


def all_cases() -> list[Case]:
    """Every case of every group, in the order of `GROUPS`."""
    for group in GROUPS:
        importlib.import_module(f"tests.faults.{group}")
    return sorted(_REGISTRY.cases.values(), key=lambda found: GROUPS.index(found.group))


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def line(self, *parts: str, code: int = 2) -> str:
        """The one line of a refusal; it must have this exit code, hold `parts` and show no traceback."""
        assert self.code == code, f"exit code {self.code} instead of {code}: {self.err[-800:]}"
        assert TRACEBACK not in self.err, self.err[-2000:]
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert lines, "nothing was said"
        missing = [part for part in parts if part not in lines[-1]]
        assert not missing, f"{missing} not in: {lines[-1]}"
        return lines[-1]


def command(*words: str | Path) -> Ended:
    """Run ``embedkit WORDS`` in this process; a bug that would show a traceback raises here."""
    from embedkit.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(int(code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def changed(path: Path) -> Iterator[Callable[[], bool]]:
    """Tell whether a file below `path` was changed, added or removed: ``with changed(p) as was: ...; was()``."""

    def state() -> dict[str, bytes]:
        return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}

    before = state()
    yield lambda: state() != before
