"""Errors meant for people: each says what is wrong, where, and how to mend it.

The command line prints the one line of a `UserError` and exits with its `exit_code`; no traceback is shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 1500
_SECRET = re.compile(
    r"(?<=://)[^/\s@]+(?=@)"  # https://user:password@host
    r"|(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}"
    r"|(?i:(?<=[?&;])([\w.-]*(?:token|key|secret|password|signature|sig|credential)[\w.-]*)=[^&\s'\"]+)"
)


class EmbedkitError(Exception):
    """Base class of every error that embedkit raises on purpose."""


class UserError(EmbedkitError):
    """Something the user can mend: input, settings, files.

    Parameters
    ----------
    what : str
        What is wrong, a short clause without a full stop.
    where : str, optional
        The place: ``file:row``, a recipe key, a column, a checkpoint path.
    remedy : str, optional
        How to mend it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.line())

    def line(self) -> str:
        """The message as one line: ``where: what; remedy``."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return one_line(f"{head}; {self.remedy}" if self.remedy else head)


def one_line(text: str) -> str:
    """`text` on one line, without secrets, and without characters that a terminal would obey or not show."""
    line = without_secrets(" ".join(text.split()))
    if len(line) > _LONGEST:  # a path or a cell of thousands of characters; the remedy stands at the end
        line = f"{line[: _LONGEST - 400]} ... {line[-300:]}"
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def without_secrets(text: str) -> str:
    """`text` with passwords and tokens in URLs, and tokens of the hub, replaced by ``***``."""
    return _SECRET.sub(lambda found: f"{found[1]}=***" if found[1] else "***", text)


class RecipeError(UserError):
    """A recipe or an override cannot be used as it is written."""


class DataError(UserError):
    """A data file, column, row or cell cannot be used."""


class ModelError(UserError):
    """A model folder or name cannot be loaded, saved or exported."""


class UnsafeFileError(ModelError):
    """A file that could run code when read was refused."""


class CheckpointError(UserError):
    """A checkpoint is incomplete, damaged, or belongs to another run."""


class DiskError(UserError):
    """A file or folder cannot be written: the disk is full, read-only, or closed to this user."""


class ProcessLostError(UserError):
    """Another process of the run has ended, and this one cannot go on alone."""


class MemoryFullError(UserError):
    """The device has not enough memory for a step."""


class NonFiniteError(UserError):
    """A loss, gradient, embedding or score is NaN or infinite."""


class MissingExtraError(UserError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}", remedy=f'pip install "embedkit[{extra}]"')


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that helps with a misspelt `name`: the nearest of `known`, or the list of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)
