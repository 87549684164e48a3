"""The `embedkit` command: its sub-commands and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from embedkit import __version__
from embedkit.cli.doctor import doctor
from embedkit.cli.encode import encode
from embedkit.cli.evaluate import evaluate
from embedkit.cli.export import export
from embedkit.cli.methods import methods
from embedkit.cli.objectives import objectives
from embedkit.cli.plan import plan
from embedkit.cli.quickstart import quickstart
from embedkit.cli.recipes import recipes
from embedkit.cli.suites import suites
from embedkit.cli.train import train
from embedkit.cli.validate import validate
from embedkit.errors import DiskError, UserError, one_line

app = typer.Typer(
    name="embedkit",
    help="Train, evaluate and export embeddings of sentences and images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would double the time of --help
    pretty_exceptions_enable=False,
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "quickstart": quickstart,
    "train": train,
    "plan": plan,
    "validate": validate,
    "eval": evaluate,
    "encode": encode,
    "export": export,
    "recipes": recipes,
    "objectives": objectives,
    "methods": methods,
    "suites": suites,
    "doctor": doctor,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)

# Typer brings its own copy of click or depends on it, by version; the class of usage errors is found through what
# typer itself exports.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _show_version(wanted: bool) -> None:
    if wanted:
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
    from embedkit.disk import FULL, disk_reason
    from embedkit.training.parallel.signals import lost_process

    if isinstance(error, OSError):
        said = disk_reason(error, Path.cwd())
        where = str(error.filename) if error.filename else None
        if said == FULL:
            return DiskError(FULL, where=where, remedy="free some space")
        return UserError(str(error.strerror), where=where[:200], remedy="check the path") if where else None
    return lost_process(error, "embedkit", "start all of them again; what was finished is kept")


def _fail(error: BaseException, debug: bool) -> int:
    """Tell of an error in one line, and return the exit code."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, UserError):
        _say(error.line())
        return error.exit_code
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "embedkit"
        text = " ".join(str(getattr(error, "format_message", error.__str__)()).split()).rstrip(".")
        _say(f"{text}; see `{command} --help`")
        return 2
    if isinstance(error, RuntimeError | OSError):
        known = _outside(error)
        if known is not None:
            _say(known.line())
            return known.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _say("interrupted")
        return 130
    text = one_line(str(error))[:500]
    _say(f"internal error: {type(error).__name__}: {text}; please report it with what --debug shows")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 success, 2 an error of the user, 1 one of embedkit.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``embedkit``; those of the process when not given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = app(args=words, prog_name="embedkit", standalone_mode=False)
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
