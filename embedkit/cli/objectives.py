"""``embedkit objectives``: the registered objectives."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from embedkit.cli.completion import objective_words
from embedkit.cli.output import JsonFile, check_json, console, entry_of, show, table, write_json


def objectives(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show this one with its settings.", autocompletion=objective_words),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """List the objectives, or show one.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["objectives", "infonce"])
    name: infonce
    paper: van den Oord et al. 2018 ...
    settings and defaults:
      ...
      temperature: 0.05
      ...
    0
    """
    check_json(json_file)
    from embedkit.objectives.registry import presets

    out = console(json_file)
    if name is None:
        rows = [_facts(preset) for _, preset in presets.items()]
        out.print(table(["objective", "family", "paper"], [[r["name"], r["family"], r["paper"]] for r in rows]))
        write_json(json_file, rows)
        return
    facts = _facts(entry_of(presets, name))
    for key, value in facts.items():
        if key != "settings" and value != "":
            out.print(f"{key}: {show(value)}")
    out.print("settings and defaults:")
    for key, value in facts["settings"].items():
        out.print(f"  {key}: {show(value)}")
    write_json(json_file, facts)


def _facts(preset: Any) -> dict[str, Any]:
    """Everything a preset says of itself, as plain values."""
    facts = {key: value for key, value in vars(preset).items() if key not in ("make", "parts")}
    return facts | {"settings": {key: _plain(value) for key, value in preset.settings.items()}}


def _plain(value: Any) -> Any:
    """A default as JSON can hold it."""
    if isinstance(value, dict | list | tuple | str | int | float | bool | None):
        return value
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
