"""``embedkit validate``: check a recipe without running it."""

from __future__ import annotations

from embedkit.cli.output import JsonFile, Overrides, RecipeName, Smoke, check_json, console, write_json


def validate(recipe: RecipeName, overrides: Overrides = None, smoke: Smoke = False, json_file: JsonFile = None) -> None:
    """Check a recipe without running it.

    Keys, types, cross-field rules; no data is read and no model loaded.
    """
    check_json(json_file)
    from embedkit.recipe_io import load_recipe

    loaded = load_recipe(recipe, overrides or [], smoke=smoke)
    console(json_file).print(f"{loaded.name}: the recipe is valid")
    write_json(json_file, loaded.model_dump(mode="json"))
