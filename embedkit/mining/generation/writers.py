"""What writes texts: a Python function or a command, called in batches, in parallel, and again when it fails."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess  # nosec B404
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.errors import UserError, one_line
from embedkit.registry import load_object

_LONGEST_PAUSE = 60.0


class WriterError(Exception):
    """A call of a writer failed, which another call may not.

    Examples
    --------
    >>> CommandWriter(["false"], batch_size=1, timeout=10.0)(["a prompt"])
    Traceback (most recent call last):
    ...
    embedkit.mining.generation.writers.WriterError: it ended with code 1
    """


class FunctionWriter:
    """A function of a prompt, or of a list of prompts where a batch holds several.

    Parameters
    ----------
    function : callable or str
        ``write(prompt) -> answer`` where `batch_size` is 1, else ``write(prompts) -> answers``; an answer is a text, or
        a list of texts. As text: ``my.py:write`` or ``package.module:write``.
    batch_size : int
        Prompts of a call.

    Examples
    --------
    >>> FunctionWriter(lambda prompt: prompt.upper(), batch_size=1)(["a cat"])
    ['A CAT']
    """

    def __init__(self, function: Callable[[Any], Any] | str, batch_size: int) -> None:
        is_name = isinstance(function, str | Path)
        self._function: Any = load_object(str(function), "writer") if is_name else function
        self.name = str(function) if is_name else getattr(function, "__qualname__", type(function).__name__)
        self.batch_size = batch_size
        if isinstance(self._function, type) or not callable(self._function):
            raise UserError(f"this {type(self._function).__name__} does not write", where=self.name,
                            remedy="give a function: prompt -> answer")  # fmt: skip

    def __call__(self, prompts: Sequence[str]) -> list[Any]:
        """An answer for each prompt; whatever the function raises is a `WriterError`."""
        try:
            answers = self._function(prompts[0] if self.batch_size == 1 else list(prompts))
        except UserError:
            raise
        except Exception as error:  # the code of a user can raise anything
            raise WriterError(one_line(f"{type(error).__name__}: {error}")) from error
        answers = [answers] if self.batch_size == 1 else answers
        if not isinstance(answers, list | tuple) or len(answers) != len(prompts):
            count = len(answers) if isinstance(answers, list | tuple) else type(answers).__name__
            raise UserError(f"gave {count} answers for {len(prompts)} prompts", where=self.name,
                            remedy="return one answer for each prompt")  # fmt: skip
        for answer in answers:
            if not isinstance(answer, str | list | tuple | dict):
                raise UserError(f"returned {type(answer).__name__}", where=self.name,
                                remedy="return a text, or a list of texts, for each prompt")  # fmt: skip
        return [list(answer) if isinstance(answer, tuple) else answer for answer in answers]


class CommandWriter:
    """A command that reads prompts from its standard input and writes answers to its standard output; no shell runs.

    With one prompt a call it is the text itself and the answer all that is printed; with several, each is a line
    ``{"id": .., "prompt": ..}`` of JSON, and the answers are lines ``{"id": .., "answer": ..}`` in any order.

    Parameters
    ----------
    command : str or sequence of str
        The command with its arguments; a text is cut into words as a shell does.
    batch_size : int
        Prompts of a call.
    timeout : float
        Seconds after which a call counts as failed.

    Raises
    ------
    UserError
        There is no such command.

    Examples
    --------
    >>> CommandWriter("tr a-z A-Z", batch_size=1, timeout=10.0)(["a cat"])
    ['A CAT']
    """

    def __init__(self, command: str | Sequence[str], batch_size: int, timeout: float) -> None:
        try:
            self._words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
        except ValueError as error:
            raise UserError(f"cannot be cut into words ({error})", where=f"command {command}",
                            remedy="close the quotation marks") from error  # fmt: skip
        self.name = shlex.join(self._words)
        self.batch_size, self._timeout = batch_size, timeout
        if not self._words or shutil.which(self._words[0]) is None:
            raise UserError("no such command", where=self.name or "command",
                            remedy="check its name, or give its path")  # fmt: skip

    def __call__(self, prompts: Sequence[str]) -> list[Any]:
        """An answer for each prompt; a `WriterError` when the command fails or takes too long."""
        single = self.batch_size == 1
        lines = [json.dumps({"id": number, "prompt": prompt}) + "\n" for number, prompt in enumerate(prompts)]
        text = prompts[0] if single else "".join(lines)
        try:
            # the command that the user gave, without a shell
            run = subprocess.run(  # nosec B603
                self._words, input=text.encode("utf-8", "replace"), capture_output=True, timeout=self._timeout,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise WriterError(f"no answer after {self._timeout:g} seconds") from error
        except OSError as error:
            raise WriterError(f"it cannot be started: {error.strerror}") from error
        if run.returncode:
            reason = one_line(run.stderr.decode("utf-8", "replace"))[-300:]
            raise WriterError(f"it ended with code {run.returncode}" + (f": {reason}" if reason else ""))
        output = run.stdout.decode("utf-8", "replace")
        return [output.strip()] if single else _numbered(output, len(prompts))


def _numbered(output: str, count: int) -> list[Any]:
    """The answers of lines of JSON, by their ids."""
    answers: dict[int, Any] = {}
    for line in output.splitlines():
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            number, answer = entry["id"], entry["answer"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WriterError('a line is not {"id": .., "answer": ..}: ' + one_line(line)[:80]) from error
        if isinstance(number, int) and 0 <= number < count and isinstance(answer, str | list | dict):
            answers[number] = answer
    missing = [number for number in range(count) if number not in answers]
    if missing:
        raise WriterError(f"no answer for {len(missing)} of {count} prompts")
    return [answers[number] for number in range(count)]


@dataclass(frozen=True)
class Attempt:
    """What came of a batch of prompts.

    Attributes
    ----------
    keys : list of str
        Of the prompts.
    answers : list or None
        One a prompt; None where all calls failed.
    failure : str
        Why the last call failed.
    calls : int
        Calls that were made.

    Examples
    --------
    >>> Attempt(["k1"], ["a text"]).failure
    ''
    """

    keys: list[str]
    answers: list[Any] | None
    failure: str = ""
    calls: int = 1


def run(
    writer: FunctionWriter | CommandWriter, prompts: Sequence[tuple[str, str]], *, parallel: int, retries: int,
    backoff: float,
) -> Iterator[Attempt]:  # fmt: skip
    """The attempts on all prompts, as they end; at most ``2 * parallel`` batches wait or run at a time.

    Parameters
    ----------
    writer : FunctionWriter or CommandWriter
        What is called.
    prompts : sequence of (str, str)
        Key and prompt.
    parallel : int
        Calls at the same time, in threads.
    retries : int
        Further calls after one that failed.
    backoff : float
        Seconds before the first of them; twice as many before each next one, a minute at most.

    Examples
    --------
    >>> writer = FunctionWriter(str.upper, batch_size=1)
    >>> sorted(one.answers[0] for one in run(writer, [("1", "a"), ("2", "b")], parallel=2, retries=0, backoff=0.0))
    ['A', 'B']
    """

    def attempt(batch: Sequence[tuple[str, str]]) -> Attempt:
        keys = [key for key, _ in batch]
        failure = ""
        for call in range(retries + 1):
            if call:
                time.sleep(min(backoff * 2 ** (call - 1), _LONGEST_PAUSE))
            try:
                return Attempt(keys, writer([prompt for _, prompt in batch]), calls=call + 1)
            except WriterError as error:
                failure = str(error)
        return Attempt(keys, None, failure, retries + 1)

    size = writer.batch_size
    batches = iter([prompts[start : start + size] for start in range(0, len(prompts), size)])
    with ThreadPoolExecutor(parallel) as pool:
        pending: set[Future[Attempt]] = set()
        try:
            while True:
                for batch in batches:
                    pending.add(pool.submit(attempt, batch))
                    if len(pending) >= 2 * parallel:
                        break
                if not pending:
                    return
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for one in finished:
                    yield one.result()
        finally:
            for one in pending:
                one.cancel()
