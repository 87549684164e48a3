"""The `embedkit` command: its sub-commands and the one place where errors become messages and exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from embedkit import __version__
from embedkit.cli.dedup import dedup
from embedkit.cli.doctor import doctor
from embedkit.cli.encode import encode
from embedkit.cli.evaluate import evaluate
from embedkit.cli.export import export
from embedkit.cli.fuse import fuse
from embedkit.cli.generate import generate
from embedkit.cli.index import index
from embedkit.cli.label import label
from embedkit.cli.methods import methods
from embedkit.cli.mine import mine
from embedkit.cli.mine_texts import mine_bitext, mine_paraphrases, mine_positives
from embedkit.cli.new import new
from embedkit.cli.objectives import objectives
from embedkit.cli.plan import plan
from embedkit.cli.plot import plot
from embedkit.cli.push import push
from embedkit.cli.quickstart import quickstart
from embedkit.cli.recipes import recipes
from embedkit.cli.schema import schema
from embedkit.cli.score import score
from embedkit.cli.search import search
from embedkit.cli.select import select
from embedkit.cli.suites import suites
from embedkit.cli.tokenizer import tokenizer
from embedkit.cli.train import train
from embedkit.cli.usage import HELP_NAMES, Command, RecipeCommand, UsageError, check_command, in_our_words
from embedkit.cli.validate import validate
from embedkit.errors import COMMAND_LINE, DiskError, UserError, one_line

app = typer.Typer(
    name="embedkit",
    help="Train, evaluate and export embeddings of sentences and images.",
    no_args_is_help=True,
    context_settings={"help_option_names": HELP_NAMES},
    rich_markup_mode=None,  # rich would double the time of --help
    pretty_exceptions_enable=False,
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "quickstart": quickstart,
    "new": new,
    "train": train,
    "plan": plan,
    "plot": plot,
    "validate": validate,
    "eval": evaluate,
    "encode": encode,
    "index": index,
    "search": search,
    "mine": mine,
    "generate": generate,
    "score": score,
    "select": select,
    "dedup": dedup,
    "label": label,
    "tokenizer": tokenizer,
    "mine-positives": mine_positives,
    "mine-paraphrases": mine_paraphrases,
    "mine-bitext": mine_bitext,
    "export": export,
    "fuse": fuse,
    "push": push,
    "recipes": recipes,
    "objectives": objectives,
    "methods": methods,
    "suites": suites,
    "doctor": doctor,
    "schema": schema,
}
_OWN_OPTIONS = ("--version", *HELP_NAMES, "--debug", "--install-completion", "--show-completion")
_ON_RECIPES = ("train", "plan", "validate")
for _name, _command in _COMMANDS.items():
    _class = RecipeCommand if _name in _ON_RECIPES else Command
    app.command(_name, cls=_class, context_settings={"help_option_names": HELP_NAMES})(_command)


def _show_version(flag: bool) -> None:
    if flag:
        typer.echo(f"embedkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of any error; may also stand after a command.")
    ] = False,
) -> None:
    """Train, evaluate and export embeddings of sentences and images."""


def _say(line: str) -> None:
    print(f"embedkit: {line}", file=sys.stderr, flush=True)


def _outside(error: RuntimeError | OSError) -> UserError | None:
    """The line for what neither the user's input nor embedkit has done: a full disk, another process that died."""
    from embedkit.system.disk import FULL, disk_reason
    from embedkit.training.parallel.signals import lost_process

    if isinstance(error, OSError):
        reason = disk_reason(error, Path.cwd())
        where = str(error.filename) if error.filename else None
        if reason == FULL:
            return DiskError(FULL, where=where, remedy="free some space")
        return UserError(str(error.strerror), where=where[:200], remedy="check the path") if where else None
    return lost_process(error, "embedkit", "start all of them again; what was finished is kept")


def _fail(error: BaseException, debug: bool) -> int:
    """The exit code of an error, which is reported in one line."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, UserError):
        _say(error.line())
        return error.exit_code
    if isinstance(error, UsageError):
        context = getattr(error, "ctx", None)
        wrong = UserError("the words cannot be read", where=COMMAND_LINE, remedy="see `embedkit --help`")
        if context is not None:
            wrong = in_our_words(error, context.command, (), context.command_path)
        return _fail(wrong, False)
    if isinstance(error, RuntimeError | OSError):
        outside = _outside(error)
        if outside is not None:
            _say(outside.line())
            return outside.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    text = one_line(str(error))[:500]
    report = "please report it with what --debug shows (CONTRIBUTING.md, Reporting a bug)"
    _say(f"internal error: {type(error).__name__}: {text}; {report}")
    return 1


INTERRUPTED = 130
"""Exit code after Ctrl-C, that of a shell."""

_WAITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPINS = "1000"


def _share_cores() -> None:
    """Let the threads of torch sleep soon while they wait for each other; what the user has set is left alone.

    By default they spin for milliseconds at each of the thousands of operations of a training step: beside any other
    process, one of the lowest priority too, a step then takes several times as long. OpenMP reads this once, when torch
    is loaded.
    """
    if not any(name in os.environ for name in _WAITS):  # gate: no setting of embedkit's, and OpenMP has no other door
        os.environ["GOMP_SPINCOUNT"] = SPINS  # gate: the same


@functools.cache
def parser() -> Callable[..., object]:
    """The commands as typer parses them; made once in a process, since making them takes as long as a short command.

    Examples
    --------
    >>> parser()(args=["--version"], prog_name="embedkit", standalone_mode=False)
    embedkit 0.2.0
    0
    """
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line that was run: 0 success, 2 an error of the user, 1 one of embedkit.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``embedkit``; those of the process when not given.

    Examples
    --------
    >>> main(["--version"])
    embedkit 0.2.0
    0
    """
    if arguments is None:  # the process is embedkit's own
        _share_cores()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        check_command(words, _COMMANDS, _OWN_OPTIONS)
        code = parser()(args=words, prog_name="embedkit", standalone_mode=False)
        if code == INTERRUPTED:  # typer has made a code of the Ctrl-C, and says nothing
            _say("interrupted")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has gone; leave nothing that Python would flush into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.ctx.get_help())  # type: ignore[union-attr]
            return 2
        return _fail(error, debug)
    return code if isinstance(code, int) else 0
