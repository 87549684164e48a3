"""Processes that must read the same data by the same recipe."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from embedkit.config.recipe import Recipe
from embedkit.errors import RecipeError

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.training.parallel.distributed import World


def check_same(world: World, recipe: Recipe, rows: TrainingRows) -> None:
    """Refuse processes that read different data, or another recipe; called on every process, before the model is made.

    Paths may differ between machines, what they hold may not.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.config.recipe_io import load_recipe
    >>> world = SimpleNamespace(tables=lambda mine: [mine, [mine[0] + 1, mine[1]]])  # two processes
    >>> check_same(world, load_recipe("pairs"), SimpleNamespace(fingerprint="abc"))
    Traceback (most recent call last):
    embedkit.errors.RecipeError: data.train: processes read different data: process 1 has others than process 0; ...
    """
    document = recipe.model_dump(mode="json", exclude={"train": {"output"}, "data": {"train": {"__all__": {"path"}}}})
    texts = [rows.fingerprint, json.dumps(document, sort_keys=True)]
    mine = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") for text in texts]
    every = world.tables(mine)
    for place, (what, where) in enumerate((("data", "data.train"), ("recipes", "recipe"))):
        values = [row[place] for row in every]
        if len(set(values)) > 1:
            odd = [rank for rank, value in enumerate(values) if value != values[0]]
            raise RecipeError(
                f"processes read different {what}: process {odd[0]} has others than process 0", where=where,
                remedy="give every machine the same files and the same recipe",
            )  # fmt: skip
