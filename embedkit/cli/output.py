"""What the commands share in talking to people and to programs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from embedkit.cli.completion import recipe_words, setting_words
from embedkit.errors import COMMAND_LINE, UserError, listed

if TYPE_CHECKING:
    from accelerate import PartialState
    from rich.console import Console
    from rich.table import Table

    from embedkit.registry import Registry

T = TypeVar("T")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings that win over the recipe: train.lr=1e-5", autocompletion=setting_words
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a YAML file.", autocompletion=recipe_words),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is standard output.")
]
Smoke = Annotated[bool, typer.Option("--smoke", help="Shrink the run to seconds, as the recipe's `smoke` says.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; the best one when not given.")]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id; a commit pins what is read.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read weights from a pickle, as tensors only.")]

Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="Compute in fp32, bf16, fp16, int8 or auto (the fastest here, measured once)."),
]
Engine = Annotated[
    str | None, typer.Option("--engine", help="Encode on the workers of an engine: ray, or ray:N for N of them.")
]
TruncateDim = Annotated[
    int | None, typer.Option("--truncate-dim", min=1, help="Keep the first coordinates only (Matryoshka).")
]


def console(json_file: str | None = None) -> Console:
    """The console that people read: standard output, or standard error when that carries the JSON.

    Examples
    --------
    >>> console().print("rows: 12")
    rows: 12
    """
    from rich.console import Console

    stream = sys.stderr if json_file == "-" else sys.stdout
    width = None if stream.isatty() else 1000  # a file or a pipe has no edge to wrap at
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def entry_of(registry: Registry[T], name: str) -> T:
    """An entry by its name, for the command that lists the registry.

    Raises
    ------
    UserError
        There is none; a recipe, method or objective of that name is told with the command that shows it.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> entry_of(methods, "dino")
    Traceback (most recent call last):
    embedkit.errors.UserError: no method is named 'dino'; `embedkit recipes dino` and `embedkit ...
    """
    from embedkit.config.resources import recipe_names
    from embedkit.methods import methods
    from embedkit.objectives.registry import presets

    if name not in registry:
        listings: dict[str, Any] = {"recipes": recipe_names(), "methods": methods, "objectives": presets}
        others = [f"`embedkit {command} {name}`" for command, names in listings.items() if name in names]
        if others:
            remedy = f"{listed(others, 'and')} show{'s' if len(others) == 1 else ''} what has this name"
            raise UserError(f"no {registry.noun} is named {name!r}", remedy=remedy)
    return registry[name]


def place(device: str | None) -> tuple[PartialState, str | None]:
    """The processes of the run, and the device for this one where none was chosen and there are several.

    Examples
    --------
    >>> place("cpu")[1]
    'cpu'
    """
    from embedkit.system.processes import join

    state = join(cpu=device == "cpu")
    return state, str(state.device) if device is None and state.num_processes > 1 else device


LOADING = ("device", "dtype", "revision", "trust_remote_code", "allow_pickle")
"""Options of a command that are arguments of `embedkit.load`."""


def model_options(values: dict[str, Any], has_model: bool, names: Sequence[str] = LOADING) -> dict[str, Any]:
    """The options of loading taken out of a command's `values`; refused where they are set and there is no model.

    Examples
    --------
    >>> model_options({"device": "cpu", "dtype": None, "revision": None, "trust_remote_code": False,
    ...                "allow_pickle": False}, has_model=False)
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: on the command line: --device is for a model, and none is given; give --model, or ...
    """
    options = {name: values.pop(name) for name in names}
    name = next((name for name, value in options.items() if value), None)
    if name is not None and not has_model:
        raise UserError(f"--{name.replace('_', '-')} is for a model, and none is given", where=COMMAND_LINE,
                        remedy="give --model, or leave it out")  # fmt: skip
    return options


def mapping_option(text: str | None, option: str) -> Mapping[str, Any] | None:
    """The mapping that an option holds as YAML.

    Examples
    --------
    >>> mapping_option("{question: anchor}", "--columns")
    {'question': 'anchor'}
    """
    from embedkit.config.recipe_io import parse_yaml

    value = None if text is None else parse_yaml(text, option)
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{option} is {text!r}, no mapping", where=COMMAND_LINE,
                        remedy=f"write it like {option} '{{question: anchor}}'")  # fmt: skip
    return value


def single_process(command: str, loading: dict[str, Any]) -> None:
    """Choose the device; refuse to run as several processes, each of which would do all of the work.

    Examples
    --------
    >>> single_process("label", {"device": "cpu"})
    """
    state, loading["device"] = place(loading["device"])
    if state.num_processes > 1:
        raise UserError(
            f"{command} was started as {state.num_processes} processes, and each would do all of the work",
            remedy="start it once, without torchrun or accelerate launch",
        )


def write_json(target: str | None, value: Any) -> None:
    """Write `value` to the file `target`, to standard output for ``-``, or nowhere for None.

    JSON has no NaN and no infinity: null is written for them.

    Raises
    ------
    DiskError
        The file cannot be written.

    Examples
    --------
    >>> write_json("-", {"score": float("nan"), "rows": 3})
    {
      "score": null,
      "rows": 3
    }
    """
    if target is None:
        return
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    from embedkit.system.disk import write_durably

    write_durably(target, text.encode("utf-8"), "the JSON file")


def tell(result: Any, json_file: str | None) -> None:
    """Print the report of a result, where its rows are, and both as JSON where that is asked for.

    Examples
    --------
    >>> import embedkit
    >>> tell(embedkit.dedup(["a cat", "a cat"], output="few.jsonl"), None)
    2 rows read, 1 selected
    ...
    rows in ...few.jsonl
    """
    out = console(json_file)
    for line in (*result.report.notes, *result.report.lines()):
        out.print(line)
    out.print(f"rows in {result.output}")
    write_json(json_file, {"output": result.output, **result.report.to_json()})


def check_json(target: str | None) -> None:
    """Refuse a JSON file that cannot be written before any work is done.

    Examples
    --------
    >>> check_json("no such folder/scores.json")
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: no such folder/scores.json: the folder of the JSON file does not exist; make it first
    """
    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        raise UserError("the folder of the JSON file does not exist", where=target, remedy="make it first")


SECONDS_BETWEEN_LINES = 15.0
"""How often progress is a line where there is no terminal to draw a bar on."""


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with (rows done, rows in all), shown as progress on standard error while the block runs.

    A bar on a terminal; elsewhere, as in a log file, a line every `SECONDS_BETWEEN_LINES`.

    Examples
    --------
    >>> with bar("rows") as progress:
    ...     progress(1, 2)
    """
    from rich.console import Console
    from rich.progress import Progress

    if not sys.stderr.isatty():
        yield _lines(label)
        return
    with Progress(console=Console(stderr=True, force_jupyter=False), transient=True) as display:
        task = display.add_task(label, total=None)
        yield lambda count, total: display.update(task, completed=count, total=total or None)


def _lines(label: str) -> Callable[[int, int], None]:
    """Progress as lines, none in the first seconds."""
    last = time.monotonic()

    def tell(count: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{label}: {count:,}" + (f" of {total:,}" if total else ""), file=sys.stderr, flush=True)

    return tell


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> Table:
    """A plain table; cells are shown as text, numbers aligned to the right.

    Examples
    --------
    >>> console().print(table(["task", "score"], [["stsb", 82.4], ["sickr", 77.0]]))
    task   score
    stsb    82.4
    sickr     77
    """
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(show(cell)) for cell in row))
    return grid


def show(value: Any) -> str:
    """A value as people read it: 12,345, 0.0512, 2e-05, yes/no.

    Examples
    --------
    >>> show(12345), show(0.051234), show(True), show({"rows": [1, None]})
    ('12,345', '0.05123', 'yes', 'rows 1, none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(show(item) for item in value) or "none"
    return str(value)


def _plain(value: Any) -> Any:
    """`value` without what JSON does not have: paths, numpy numbers, NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value) if isinstance(value, Path) else value
