"""``embedkit recipes``: the shipped recipes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from embedkit.cli.completion import recipe_words
from embedkit.cli.output import JsonFile, check_json, console, write_json
from embedkit.errors import COMMAND_LINE, UserError

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe

_WIDTH = 80  # columns, where no terminal says another number


def recipes(
    show: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this recipe's file.", autocompletion=recipe_words)
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With NAME: print every setting, also those of what the file extends.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """List the shipped recipes by what they are for, or print one: a start for a recipe of your own.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["recipes", "quickstart"])
    # A small text encoder from random weights, ...
    method: pairs
    ...
    0
    """
    from embedkit.config.recipe_io import dump_recipe, grouped_recipes, load_recipe
    from embedkit.config.resources import SCHEMA_LINE, recipe_path

    if show is not None:
        text = dump_recipe(load_recipe(show)) if resolved else recipe_path(show).read_text(encoding="utf-8")
        typer.echo(text.removeprefix(SCHEMA_LINE), nl=False)  # for a file beside the schema
        return
    if resolved:
        raise UserError("--resolved needs the NAME of a recipe", where=COMMAND_LINE,
                        remedy="write `embedkit recipes NAME --resolved`")  # fmt: skip
    check_json(json_file)
    entries = grouped_recipes()
    out = console(json_file)
    for line in listing(entries, out.width if sys.stdout.isatty() else _WIDTH):
        out.print(line)
    rows = [
        {"name": one.name, "group": group, "method": one.method.name, "description": one.description}
        for group, one in entries
    ]
    write_json(json_file, rows)


def listing(entries: list[tuple[str, Recipe]], width: int) -> Iterator[str]:
    """The lines of the list, at most `width` characters each: a heading for each group, a line for each recipe.

    Parameters
    ----------
    loaded : list of (str, Recipe)
        As `embedkit.config.recipe_io.grouped_recipes` gives them.
    width : int
        Columns; a description has 16 of them at least.

    Examples
    --------
    >>> from embedkit.config.recipe_io import grouped_recipes
    >>> list(listing(grouped_recipes(), 80))[2:4]
    ['For your own data', '  adapter          A residual adapter on stored vectors for your own task']
    """
    from embedkit.config.recipe_io import GROUPS

    yield "A recipe's file: embedkit recipes NAME. Every setting of it: add --resolved."
    for group, heading in GROUPS.items():
        members = sorted((recipe for other, recipe in entries if other == group), key=lambda recipe: recipe.name)
        column = max(len(recipe.name) for recipe in members)
        yield ""
        yield heading
        for recipe in members:
            yield f"  {recipe.name:{column}}  {shortened(recipe.description, max(width - column - 4, 16))}"


def shortened(text: str, width: int) -> str:
    """As many whole clauses of `text` as `width` characters hold, or else as many words and ``...``.

    Examples
    --------
    >>> shortened("Unsupervised SimCSE, roberta-base, published seven-task average 76.57", 40)
    'Unsupervised SimCSE, roberta-base'
    >>> shortened("A tower (MoCo v2, He et al. 2020)", 25)
    'A tower'
    >>> shortened("A small encoder from scratch", 20)
    'A small encoder ...'
    """
    if len(text) <= width:
        return text
    clauses = [text[: match.start()] for match in re.finditer(r"[,;] | \(", text) if match.start() <= width]
    clauses = [clause for clause in clauses if clause.count("(") == clause.count(")") and len(clause) > width // 4]
    if clauses:
        return clauses[-1]
    return text[: max(text.rfind(" ", 0, width - 3), 0)] + " ..."
