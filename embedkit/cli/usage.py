"""Words of a command line that cannot be taken, in our words, and options of other trainers as settings of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from embedkit.errors import COMMAND_LINE, UserError, nearest

# Typer brings its own copy of click or depends on it, by version; the class of usage errors is reached through what
# typer itself exports.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

HELP_NAMES = ["--help", "-h"]
RENAMED_OPTIONS = {
    "--dim": "--truncate-dim", "--cross-encoder": "--scorer", "--cross-encoder-label": "--label",
}  # fmt: skip
"""Old or other spelling of an option -> ours; either is read where the command has only the other one."""

_KINDS = {int: "a whole number", float: "a number"}


class Command(TyperCommand):
    """A sub-command whose mistakes are one line in our words.

    Examples
    --------
    >>> import typer
    >>> from embedkit.cli.app import app
    >>> command = typer.main.get_command(app).commands["suites"]
    >>> command.make_context("suites", ["own-sts", "--jsn", "x"])
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: on the command line: unknown option '--jsn'; did you mean '--json'?
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that are left after the options, as click has it; none may be left."""
        words = self.rewritten(list(args))
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, list(words))  # the parser takes words out of its list
        except UsageError as error:
            raise in_our_words(error, self, words, ctx.command_path) from None
        if ctx.args:
            name = "--" + ctx.args[0].partition("=")[0].lstrip("-").replace("_", "-")
            if "=" in ctx.args[0] and name in option_names(self):
                raise UserError(f"{ctx.args[0]!r} is no option", where=COMMAND_LINE,
                                remedy=f"write {name} {ctx.args[0].partition('=')[2]}")  # fmt: skip
            arguments = " ".join(_argument_names(self)) or "no words"
            raise UserError(
                f"one word too many: {ctx.args[0]!r}", where=COMMAND_LINE,
                remedy=f"`{ctx.command_path}` takes {arguments}; see `{ctx.command_path} --help`",
            )  # fmt: skip
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a mistake in a setting is told by the name of its option."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            if not isinstance(self, RecipeCommand):  # there settings are KEY=VALUE
                by_options(error, self)
            raise

    def rewritten(self, words: list[str]) -> list[str]:
        """`words` with options of another spelling by their own name."""
        names = option_names(self)
        result: list[str] = []
        for number, word in enumerate(words):
            if word == "--":
                return result + words[number:]
            name, equals, value = word.partition("=")
            other = self.own_name(name, names)
            if name not in names and other is not None:
                if name not in RENAMED_OPTIONS.values() and name.replace("_", "-") != other:
                    typer.echo(f"embedkit: {name} is called {other} here", err=True)
                word = f"{other}{equals}{value}"
            result.append(word)
        return result

    def own_name(self, name: str, names: Sequence[str]) -> str | None:
        """What an option of another spelling or of another library is called here; None where nothing is."""
        older = {new: old for old, new in RENAMED_OPTIONS.items()}
        others = [name.replace("_", "-"), RENAMED_OPTIONS.get(name), older.get(name), *self.peer_names(name)]
        return next((other for other in others if name.startswith("--") and other in names), None)

    def peer_names(self, name: str) -> Sequence[str]:
        """Our options that other libraries call `name`."""
        from embedkit.cli.peer_options import OPTIONS
        from embedkit.config.peer_names import plain

        return OPTIONS.get(plain(name), ())


class RecipeCommand(Command):
    """A sub-command on a recipe: ``--lr 1e-5`` is the setting ``lr=1e-5``.

    Examples
    --------
    >>> import typer
    >>> from embedkit.cli.app import app
    >>> command = typer.main.get_command(app).commands["train"]
    >>> command.rewritten(["pairs", "--lr", "1e-5", "--smoke"])
    ['pairs', 'lr=1e-5', '--smoke']
    """

    def rewritten(self, words: list[str]) -> list[str]:
        """`words` with each option that is a setting as ``key=value``."""
        own = {name: param for param in self.params for name in (*param.opts, *param.secondary_opts)}
        rest = super().rewritten(words)
        result: list[str] = []
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if word == "--":
                return [*result, word, *rest]
            param = own.get(name)
            if param is not None or not word.startswith("--") or name in HELP_NAMES:
                result.append(word)
                if param is not None and not equals and rest and not getattr(param, "is_flag", False):
                    result.append(rest.pop(0))
                continue
            is_switch = self._check_setting(name, value)
            if not equals and rest and not re.match(r"-(?!\d|\.\d)", rest[0]):
                value = rest.pop(0)
            elif not equals and not is_switch:
                raise UserError(f"{name} needs a value", where=COMMAND_LINE, remedy=f"write {name} VALUE")
            result.append(f"{name.removeprefix('--')}={value if value or equals else 'true'}")
        return result

    def peer_names(self, name: str) -> Sequence[str]:
        """None: they are settings."""
        return ()

    def _check_setting(self, name: str, value: str) -> bool:
        """Whether an option that is a setting may stand without a value; others are refused with the nearest one."""
        from embedkit.config.overrides import full_key
        from embedkit.config.peer_names import FLAGS, plain
        from embedkit.config.recipe_keys import nearest_key, recipe_keys

        key = name.removeprefix("--")
        try:
            dotted = full_key(key, COMMAND_LINE, value)[0]
            return plain(key) in FLAGS or recipe_keys().get(dotted) is bool
        except UserError as error:
            if not error.what.startswith("unknown"):
                raise
            clause = nearest_key(key)
            see = clause if clause.startswith("did you mean") else "`embedkit recipes NAME --resolved` has all settings"
            raise _unknown(name, option_names(self), see) from None


def _unknown(option: str, names: Sequence[str], otherwise: str) -> UserError:
    """The error for an option that is not there: the nearest one, or else what to do."""
    clause = nearest(option, [name for name in names if name.startswith("--")])
    remedy = clause if clause.startswith("did you mean") else otherwise
    return UserError(f"unknown option {option!r}", where=COMMAND_LINE, remedy=remedy)


def option_names(command: Any) -> list[str]:
    """Every spelling of every option of a command.

    Examples
    --------
    >>> import typer
    >>> from embedkit.cli.app import app
    >>> option_names(typer.main.get_command(app).commands["suites"])
    ['--json', '--help', '-h']
    """
    params = [param for param in command.params if param.param_type_name == "option"]
    return [*(name for param in params for name in (*param.opts, *param.secondary_opts)), *HELP_NAMES]


def by_options(error: UserError, command: Any) -> None:
    """Name settings in an error of the Python API as the options of `command`, by which they were given.

    These are: the place of the mistake; ``name=VALUE``; ``name: {...}``; and bare names of several words.

    Examples
    --------
    >>> from embedkit.cli.app import app
    >>> mine = typer.main.get_command(app).commands["mine"]
    >>> error = UserError("ranks 5 to 2 are none", where="range_max", remedy="raise range_max, or set columns: {a: b}")
    >>> by_options(error, mine)
    >>> error.line()
    "--range-max: ranks 5 to 2 are none; raise --range-max, or set --columns '{a: b}'"
    """
    option_of = {one.name: _name(one) for one in command.params if one.param_type_name == "option" and not one.is_flag}
    flag_of = {one.name: _name(one) for one in command.params if getattr(one, "is_flag", False)}
    several = {name: option for name, option in {**option_of, **flag_of}.items() if "_" in name}

    def told(text: str | None) -> str | None:
        if text is None:
            return None
        for name, option in option_of.items():
            text = re.sub(rf"(?<![\w.'\"/-]){name}: ({{[^}}]*}})", rf"{option} '\1'", text)
            text = re.sub(rf"(?<![\w.'\"/-]){name}=(?=\S)", f"{option} ", text)
        for name, option in several.items():
            text = re.sub(rf"(?<![\w.'\"/-]){name}(?![\w'\"/=-]|\.\w)", option, text)
        return text

    where = {**option_of, **flag_of}.get(error.where or "", error.where)
    error.what, error.where, error.remedy = told(error.what) or "", where, told(error.remedy)
    error.args = (error.line(),)


def _argument_names(command: Any) -> list[str]:
    """What stands for each argument of a command in its help, e.g. ``RECIPE``."""
    return [_name(param) for param in command.params if param.param_type_name == "argument"]


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return str(max(param.opts, key=len))


def in_our_words(error: Exception, command: Any, words: Sequence[str], path: str) -> UserError:
    """The error to raise for what click or typer has found wrong with the words after a command.

    Parameters
    ----------
    error : Exception
        Of the classes of usage errors, which are known by their names here.
    command : click command
        Its parameters are named.
    words : sequence of str
        As they were typed.
    path : str
        How the command is called, e.g. ``embedkit train``.

    Examples
    --------
    >>> from embedkit.cli.app import app
    >>> export = typer.main.get_command(app).commands["export"]
    >>> samples = next(param for param in export.params if param.name == "samples")
    >>> error = typer.BadParameter("", param=samples)
    >>> in_our_words(error, export, ["--samples", "x"], "embedkit export").line()
    "on the command line: --samples is 'x'; it must be a whole number, 1 at least"
    """
    help_line = f"see `{path} --help`"
    param, kind = getattr(error, "param", None), type(error).__name__
    option = getattr(error, "option_name", None)
    if kind == "NoSuchOption":
        return _of_peers(str(option), command, path) or _unknown(str(option), option_names(command), help_line)
    if kind == "MissingParameter" and param is not None:
        needed = [one for one in command.params if one.param_type_name == "option" and one.required]
        usage = " ".join([path, *_argument_names(command), *(f"{_name(one)} {one.name.upper()}" for one in needed)])
        return UserError(f"{_name(param)} is missing", where=COMMAND_LINE, remedy=f"write `{usage}`; {help_line}")
    if option is not None:
        owner = next((one for one in command.params if option in (*one.opts, *one.secondary_opts)), None)
        need = "takes no value" if getattr(owner, "is_flag", False) else "needs a value"
        return UserError(f"{option} {need}", where=COMMAND_LINE, remedy=help_line)
    if param is not None:
        kinds, least = _kind(command, param.name)
        rule = f"it must be {kinds}" + ("" if least is None else f", {least} at least")
        value = _value_of(words, (*param.opts, *param.secondary_opts))
        return UserError(f"{_name(param)} is {value!r}", where=COMMAND_LINE, remedy=rule)
    return UserError("the words cannot be taken apart into options and values", where=COMMAND_LINE, remedy=help_line)


def _of_peers(option: str, command: Any, path: str) -> UserError | None:
    """The error for an option of another library that is an argument here, or has something else in its place."""
    from embedkit.cli.peer_options import ANSWERS, ARGUMENTS
    from embedkit.config.peer_names import plain

    arguments = {one.name: _name(one) for one in command.params if one.param_type_name == "argument"}
    word = next((arguments[name] for name in ARGUMENTS.get(plain(option), ()) if name in arguments), None)
    if word is not None:
        usage = " ".join([path, *arguments.values()])
        return UserError(f"{option} is the word {word} here", where=COMMAND_LINE, remedy=f"write `{usage}`")
    answer = ANSWERS.get(plain(option))
    names = [part for part in re.findall(r"--[a-z][a-z-]*", answer or "") if part not in option_names(command)]
    if answer is None or names:  # it speaks of options of another command
        return None
    return UserError(f"{option} is no option of `{path}`", where=COMMAND_LINE, remedy=answer)


def _kind(command: Any, name: str) -> tuple[str, int | None]:
    """What a parameter of a command must be, and its least value; read off the annotation of the function."""
    annotation = get_type_hints(command.callback, include_extras=True)[name]
    inner = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    kinds = [_KINDS[kind] for kind in (inner, *get_args(inner)) if kind in _KINDS]
    least = [info.min for info in getattr(annotation, "__metadata__", ()) if getattr(info, "min", None) is not None]
    return " or ".join(kinds) or "another value", next(iter(least), None)


def _value_of(words: Sequence[str], names: Iterable[str]) -> str:
    """The word that an option was set to."""
    for number, word in enumerate(words):
        for name in names:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
            if word == name and number + 1 < len(words):
                return words[number + 1]
    return ""


def check_command(words: Sequence[str], commands: Iterable[str], own: Iterable[str]) -> None:
    """Refuse a first word that is neither a command nor an option of `embedkit` itself, and words behind completion's.

    Raises
    ------
    UserError
        With the nearest command.

    Examples
    --------
    >>> check_command(["trian"], ["train", "eval"], ["--help"])
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: on the command line: unknown command 'trian'; did you mean 'train'?
    """
    first = next(iter(words), None)
    if first is not None and first.endswith("-completion") and first in own and len(words) > 1:
        raise UserError(f"{words[1]!r} is not read: {first} is for the shell that it is written in",
                        where=COMMAND_LINE, remedy=f"write `embedkit {first}` in that shell")  # fmt: skip
    if first is None or first in commands or first in own:
        return
    if first.startswith("-"):
        name = first.partition("=")[0]
        raise _unknown(name, list(own), "options stand after the command; see `embedkit --help`")
    from embedkit.config.resources import recipe_names

    if first in recipe_names():
        raise UserError(f"{first!r} is a recipe, not a command", where=COMMAND_LINE,
                        remedy=f"write `embedkit train {first}`")  # fmt: skip
    clause = nearest(first, commands)
    remedy = clause if clause.startswith("did you mean") else "see `embedkit --help`"
    raise UserError(f"unknown command {first!r}", where=COMMAND_LINE, remedy=remedy)
