"""``embedkit recipes``: the shipped recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from embedkit.cli.output import JsonFile, check_json, console, table, write_json


def recipes(
    show: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe's file.")] = None,
    json_file: JsonFile = None,
) -> None:
    """List the shipped recipes, or print one."""
    from embedkit.resources import recipe_names, recipe_path

    if show is not None:
        typer.echo(recipe_path(show).read_text(encoding="utf-8"), nl=False)
        return
    check_json(json_file)
    from embedkit.recipe_io import load_recipe

    found = [load_recipe(name) for name in recipe_names()]
    console(json_file).print(
        table(["recipe", "method", "what it is"], [[item.name, item.method.name, item.description] for item in found])
    )
    write_json(json_file, [{"name": r.name, "method": r.method.name, "description": r.description} for r in found])
