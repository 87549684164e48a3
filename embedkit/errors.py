"""Errors meant for people: each says what is wrong, where, and how to correct it.

The command line prints the one line of a `UserError` and exits with its `exit_code`; no traceback is shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from embedkit.config.peer_names import ours, plain

_LONGEST = 1500
_SECRET = re.compile(
    r"(?<=://)[^/\s@]+(?=@)"  # https://user:password@host
    r"|(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}"
    r"|(?i:(?<=[?&;])([\w.-]*(?:token|key|secret|password|signature|sig|credential)[\w.-]*)=[^&\s'\"]+)"
)


class EmbedkitError(Exception):
    """Base class of every error that embedkit raises on purpose.

    Examples
    --------
    >>> import embedkit
    >>> try:
    ...     embedkit.load("model.zip")
    ... except embedkit.errors.EmbedkitError as error:
    ...     print(error)
    model.zip: no such model folder; check the path, or give a hub id like org/name
    """


class UserError(EmbedkitError):
    """Something the user can correct: input, settings, files.

    Parameters
    ----------
    what : str
        What is wrong, a short clause without a full stop.
    where : str, optional
        The place: ``file:row``, a recipe key, a column, a checkpoint path.
    remedy : str, optional
        How to correct it.

    Examples
    --------
    >>> raise UserError("unknown key 'lrr'", where="train", remedy="did you mean 'lr'?")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: train: unknown key 'lrr'; did you mean 'lr'?
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.line())

    def line(self) -> str:
        """The message as one line: ``where: what; remedy``."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return one_line(f"{head}; {self.remedy}" if self.remedy else head)

    def move(self, where: str) -> None:
        """Tell another place.

        Examples
        --------
        >>> error = UserError("no text", where="row 3")
        >>> error.move("faq.csv:3")
        >>> print(error)
        faq.csv:3: no text
        """
        self.where = where
        super().__init__(self.line())

    def add(self, clause: str) -> None:
        """Put a clause behind the remedy.

        Examples
        --------
        >>> error = UserError("no text", where="faq.csv:3", remedy="fix the row")
        >>> error.add("the rows before it are kept")
        >>> print(error)
        faq.csv:3: no text; fix the row; the rows before it are kept
        """
        self.remedy = f"{self.remedy}; {clause}" if self.remedy else clause
        super().__init__(self.line())


@contextmanager
def moved(old: str, new: str) -> Iterator[None]:
    """A block whose errors at the place `old`, or below it, are told at `new`: a part knows not where it stands.

    Examples
    --------
    >>> with moved("method", "auxiliary.0"):
    ...     raise UserError("mixup is -1", where="method.heads.0")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: auxiliary.0.heads.0: mixup is -1
    """
    try:
        yield
    except UserError as error:
        if error.where is not None and (error.where == old or error.where.startswith(f"{old}.")):
            error.move(new + error.where.removeprefix(old))
        raise


def one_line(text: str) -> str:
    """`text` on one line, without secrets, and without characters that a terminal would interpret or hide.

    Examples
    --------
    >>> print(one_line("two" + chr(10) + "lines, " + chr(27) + "[31m red"))
    two lines, \\x1b[31m red
    """
    line = without_secrets(" ".join(text.split()))
    if len(line) > _LONGEST:  # a path or a cell of thousands of characters; the remedy stands at the end
        line = f"{line[: _LONGEST - 400]} ... {line[-300:]}"
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def without_secrets(text: str) -> str:
    """`text` with passwords and tokens in URLs, and tokens of the hub, replaced by ``***``.

    Examples
    --------
    >>> without_secrets("https://ann:secret@host/faq.csv?token=1234&limit=5")
    'https://***@host/faq.csv?token=***&limit=5'
    """
    return _SECRET.sub(lambda match: f"{match[1]}=***" if match[1] else "***", text)


class RecipeError(UserError):
    """A recipe or an override cannot be used as it is written.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> load_recipe("pairs", {"train.lrr": 1e-5})
    Traceback (most recent call last):
    ...
    embedkit.errors.RecipeError: in the arguments: unknown key 'train.lrr'; did you mean 'lr'?
    """


class DataError(UserError):
    """A data file, column, row or cell cannot be used.

    Examples
    --------
    >>> import embedkit
    >>> embedkit.train("pairs", data="faq.csv")
    Traceback (most recent call last):
    ...
    embedkit.errors.DataError: .../faq.csv: no such file or folder; check the path
    """


class ModelError(UserError):
    """A model folder or name cannot be loaded, saved or exported.

    Examples
    --------
    >>> import embedkit
    >>> embedkit.load("model.zip")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: model.zip: no such model folder; check the path, or give a hub id like org/name
    """


class UnsafeFileError(ModelError):
    """A file that could run code when read was refused.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.formats.folder import inside
    >>> inside(Path("model"), "../1_Pooling")
    Traceback (most recent call last):
    ...
    embedkit.errors.UnsafeFileError: model/modules.json: module path '../1_Pooling' leaves the model folder; ...
    """


class CheckpointError(UserError):
    """A checkpoint is incomplete, damaged, or belongs to another run.

    Examples
    --------
    >>> from pathlib import Path
    >>> import embedkit
    >>> Path("runs").touch()
    >>> embedkit.train("quickstart", output="runs")
    Traceback (most recent call last):
    ...
    embedkit.errors.CheckpointError: runs: is not a folder; give another train.output
    """


class DiskError(UserError):
    """A file or folder cannot be written: the disk is full, read-only, or closed to this user.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.system.disk import disk_error
    >>> raise disk_error(OSError(28, "No space left on device"), Path("runs"), "the model cannot be written")
    Traceback (most recent call last):
    ...
    embedkit.errors.DiskError: runs: the model cannot be written: no space left on the disk; free some space, or ...
    """


class ProcessLostError(UserError):
    """Another process of the run has ended, and this one cannot continue alone.

    Examples
    --------
    >>> from embedkit.training.parallel.signals import lost_process
    >>> raise lost_process(RuntimeError("Connection closed by peer"), "runs/faq", "add --resume")
    Traceback (most recent call last):
    ...
    embedkit.errors.ProcessLostError: runs/faq: another process of the run has ended or cannot be reached; ...
    """


class MemoryFullError(UserError):
    """The device has not enough memory for a step.

    Examples
    --------
    >>> from embedkit.training.parallel.memory import memory_error
    >>> raise memory_error(RuntimeError("can't allocate memory"), "runs/faq")
    Traceback (most recent call last):
    ...
    embedkit.errors.MemoryFullError: runs/faq: a step does not fit into the memory of the device; set ...
    """


class NonFiniteError(UserError):
    """A loss, gradient, embedding or score is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.retrieval.exact import TopK
    >>> TopK(np.array([[np.nan, 1.0]]), k=1, size=3)
    Traceback (most recent call last):
    ...
    embedkit.errors.NonFiniteError: a query embedding holds NaN or infinity
    """


class MissingExtraError(UserError):
    """An optional package is needed and not installed.

    Examples
    --------
    >>> print(MissingExtraError("peft", "lora", "an adapter of peft"))
    an adapter of peft needs the package 'peft'; pip install "embedkit[lora]"
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}", remedy=f'pip install "embedkit[{extra}]"')


def need(package: str, extra: str, purpose: str, module: str | None = None) -> None:
    """Refuse with the name of the extra when `package`, imported as `module`, is not installed.

    Examples
    --------
    >>> need("scikit-learn", "eval", "a probe", module="sklearn")
    """
    from importlib.util import find_spec

    if find_spec(module or package) is None:
        raise MissingExtraError(package, extra, purpose)


COMMAND_LINE = "on the command line"
"""Where a mistake stands that is neither in a file nor in data."""

NEAREST = 5
"""Names that a message offers at most."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A clause for an unknown `name`: the choice it stands for, or the nearest of `choices`, five at most.

    What other libraries call one of `choices` counts as it (`embedkit.config.peer_names`), a name that begins or ends
    with `name` stands before one that is only spelt alike.

    Examples
    --------
    >>> nearest("lrr", ["lr", "epochs", "batch_size"])
    "did you mean 'lr'?"
    >>> nearest("CoSENTLoss", ["angle", "cosent", "infonce"])
    "did you mean 'cosent'?"
    >>> nearest("colour", ["lr", "epochs", "batch_size"])
    'known: batch_size, epochs, lr'
    """
    names = sorted(choices)
    targets = [own for own in ours(name) for own in (own, own.rpartition(".")[2]) if own in names]
    close = list(dict.fromkeys(targets)) or _close(name, names)
    if close:
        return f"did you mean {listed([repr(one) for one in close], 'or')}?"
    if len(names) <= NEAREST:
        return "known: " + ", ".join(names) if names else "none is known"
    near = difflib.get_close_matches(plain(name), names, n=NEAREST, cutoff=0.0)
    return f"the nearest of {len(names)}: {', '.join(near)}"


def _close(name: str, names: list[str]) -> list[str]:
    """The one name that is clearly meant, or those that are about as near; none where nothing is near."""
    short = plain(name)
    same = [other for other in names if plain(other) == short]
    if same:
        return same[:1]
    ratios = {other: difflib.SequenceMatcher(None, short, plain(other)).ratio() for other in names}
    parts = [one for one in names if len(short) > 2 and (plain(one).startswith(short) or plain(one).endswith(short))]
    by_ratio = [other for other in sorted(names, key=lambda other: -ratios[other]) if ratios[other] >= 0.6]
    if by_ratio and ratios[by_ratio[0]] >= (0.95 if parts else 0.8):
        return by_ratio[:1]
    return list(dict.fromkeys([*parts, *by_ratio]))[:NEAREST]


def listed(names: Sequence[str], joint: str) -> str:
    """`names` in a sentence.

    Examples
    --------
    >>> listed(["a", "b", "c"], "and")
    'a, b and c'
    """
    return f" {joint} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
