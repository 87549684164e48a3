"""Experiment trackers of a run, which accelerate opens."""

from __future__ import annotations

import importlib.util

from embedkit.config.recipe import Recipe
from embedkit.errors import RecipeError


def check_trackers(recipe: Recipe) -> None:
    """Refuse a tracker whose package is not installed: accelerate would leave it out in silence.

    Raises
    ------
    RecipeError
        With the command that installs it.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> check_trackers(load_recipe("quickstart"))
    """
    for tracker in recipe.train.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise RecipeError(
                f"the package {tracker!r} is not installed", where="train.trackers",
                remedy=f"pip install {tracker.replace('_', '-')}",
            )  # fmt: skip
