"""``embedkit plan``: what a recipe would do, before it does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedkit.cli.output import JsonFile, Overrides, RecipeName, Smoke, check_json, console, show, table, write_json


def plan(recipe: RecipeName, overrides: Overrides = None, smoke: Smoke = False, json_file: JsonFile = None) -> None:
    """Show what a recipe would do.

    Parameters by group, rows, steps, negatives each anchor sees, memory and evaluations.
    """
    check_json(json_file)
    from embedkit.recipe_io import load_recipe

    loaded = load_recipe(recipe, overrides or [], smoke=smoke)
    from embedkit.training import plan as make_plan

    facts = make_plan(loaded).to_dict()
    if json_file != "-":
        _render(facts)
    write_json(json_file, facts)


def _render(facts: Mapping[str, Any]) -> None:
    """Lists of mappings become tables, mappings indented lines, everything else a line."""
    out = console()
    for name, value in facts.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            columns = list(value[0])
            out.print(f"{title}:")
            out.print(table([c.replace("_", " ") for c in columns], [[row.get(c) for c in columns] for row in value]))
        elif isinstance(value, Mapping):
            out.print(f"{title}:")
            for key, item in value.items():
                out.print(f"  {key.replace('_', ' ')}: {show(item)}")
        else:
            out.print(f"{title}: {show(value)}")
