"""What the commands on a recipe share: reading it, with the words after it."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.errors import COMMAND_LINE, DataError, UserError

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe


def open_recipe(name: str, words: Sequence[str], *, smoke: bool = False) -> Recipe:
    """The recipe of a command line, settings and data files after its name laid over it.

    Raises
    ------
    UserError
        The first word is data, and no recipe.
    RecipeError
        As `embedkit.config.recipe_io.load_recipe`.

    Examples
    --------
    >>> open_recipe("pairs", ["faq.csv", "lr=1e-5"]).train.lr
    1e-05
    """
    from embedkit.config.overrides import is_data_file
    from embedkit.config.recipe_io import load_recipe

    if is_data_file(name) or Path(name).is_dir():
        raise UserError(f"{name!r} is data, and the recipe is missing", where=COMMAND_LINE,
                        remedy=f"write the recipe before it, e.g. `embedkit train pairs {name}`")  # fmt: skip
    return load_recipe(name, words, smoke=smoke)


def check_own_data(name: str, recipe: Recipe, *, smoke: bool, command: str) -> None:
    """Refuse a shipped recipe whose place for one's own data was left as it stands, e.g. ``train.csv`` of pairs.

    Raises
    ------
    DataError
        With the command that names a file.

    Examples
    --------
    >>> check_own_data("pairs", open_recipe("pairs", []), smoke=False, command="train")
    Traceback (most recent call last):
    embedkit.errors.DataError: pairs: its data train.csv is not here; name yours after the recipe, `embedkit train ...
    """
    if Path(name).suffix in (".yaml", ".yml") or not (missing := missing_files(recipe)):
        return
    if missing[0] in missing_files(open_recipe(name, [], smoke=smoke)):
        raise DataError(f"its data {missing[0]} is not here", where=name,
                        remedy=f"name yours after the recipe, `embedkit {command} {name} FILE`")  # fmt: skip


def missing_files(recipe: Recipe) -> list[str]:
    """Paths of sources on this disk that are not there.

    Shards of a pattern such as ``a-{000..012}.tar`` are looked up one by one; names of the hub, addresses and built-in
    data are not looked up.

    Examples
    --------
    >>> missing_files(open_recipe("pairs", ["no-such-faq.csv"]))
    ['no-such-faq.csv']
    """
    from embedkit.config.recipe_io import stage_recipes
    from embedkit.data.sources.sources import expand

    missing = []
    for source in (source for stage in stage_recipes(recipe) for source in stage.data.train):
        local = source.format not in ("hub", "builtin") and "://" not in source.path
        if not local or source.path.startswith("builtin:") or source.file is not None:
            continue
        for path in expand(source.path):
            is_name = path.count("/") == 1 and not Path(path).suffix and not Path(path).parent.is_dir()
            if not (Path(path).exists() or is_name or glob.glob(path, recursive=True)):
                missing.append(path)
    return missing
