"""What `import embedkit` offers: `train`. Thin: it calls the room that does the work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.recipe import Recipe
    from embedkit.training import TrainResult


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    resume: bool = False,
    smoke: bool = False,
    output: str | Path | None = None,
    **overrides: Any,
) -> TrainResult:
    """Train by a recipe.

    Parameters
    ----------
    recipe : str, Path, mapping or Recipe
        Name of a shipped recipe, a YAML file, its contents, or a checked recipe.
    resume : bool
        Go on from the newest complete checkpoint of the output folder.
    smoke : bool
        Apply the recipe's own ``smoke`` settings: a run of seconds.
    output : str or Path, optional
        Folder of the run; wins over ``train.output``.
    **overrides
        Settings that win over the recipe; two underscores stand for a dot: ``train__lr=1e-5`` is ``train.lr``.

    Raises
    ------
    RecipeError, DataError, ModelError
        Before training starts: the key, row or file is named.
    """
    from embedkit.recipe_io import load_recipe
    from embedkit.training import train as run

    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return run(load_recipe(recipe, settings, smoke=smoke), resume=resume, output=output)
