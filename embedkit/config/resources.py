"""Files that travel with the package: recipes, evaluation suites, published figures.

In a checkout they stand at the top of the repository (``recipes/``, ``eval/``); in a wheel they are in
``embedkit/shipped/``. Both are found by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embedkit.errors import RecipeError, UserError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent
SCHEMA = "recipe.schema.json"
"""Name of the JSON schema of recipes; the shipped one stands beside the shipped recipes."""
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA}\n"
"""First line of a shipped recipe, by which an editor finds the schema."""


def _folder(name: str) -> Path:
    """``recipes`` or ``eval``: beside the package in a checkout, inside it in a wheel."""
    inside = _PACKAGE / "shipped" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted.

    Examples
    --------
    >>> "pairs" in recipe_names()
    True
    """
    return list(_by_stem(_folder("recipes")))


def recipe_path(name: str) -> Path:
    """File of the shipped recipe `name`, or of the base ``base/NAME`` that recipes extend and no run can be made of.

    Raises
    ------
    RecipeError
        No recipe has that name; the nearest one is offered.

    Examples
    --------
    >>> recipe_path("base/roberta-base").name
    'roberta-base.yaml'
    """
    folder = _folder("recipes")
    paths = _by_stem(folder) | {f"base/{stem}": path for stem, path in _by_stem(folder / "base").items()}
    if name not in paths:
        raise RecipeError(f"no recipe named {name!r}", remedy=_way_to_a_recipe(name, paths))
    return paths[name]


def _way_to_a_recipe(name: str, paths: Mapping[str, Path]) -> str:
    from embedkit.config.peer_names import PARTS

    clause = nearest(name, paths)
    is_loss = name.endswith("Loss") or any(name in ours for peer, ours in PARTS.items() if peer.endswith("loss"))
    if clause.startswith("did you mean") and not is_loss:
        return clause
    if is_loss:
        return f"a loss is a setting of a recipe: `embedkit train pairs FILE loss={name}`"
    return "for your own data there are pairs, scored-pairs, simcse-unsup, clip-small ...; all: `embedkit recipes`"


def schema_path() -> Path:
    """File of the shipped JSON schema of recipes, without the names of plug-ins.

    Examples
    --------
    >>> schema_path().name
    'recipe.schema.json'
    """
    return _folder("recipes") / SCHEMA


def is_shipped(path: Path) -> bool:
    """Whether a recipe file is one of those that travel with the package.

    Examples
    --------
    >>> is_shipped(recipe_path("pairs")), is_shipped(Path("mine.yaml"))
    (True, False)
    """
    return path.resolve().is_relative_to(_folder("recipes").resolve())


def suite_names() -> list[str]:
    """Names of the shipped evaluation suites, sorted.

    Examples
    --------
    >>> "sts" in suite_names()
    True
    """
    return list(_by_stem(_folder("eval")))


def suite_path(name: str) -> Path:
    """File of the shipped evaluation suite `name`.

    Raises
    ------
    UserError
        No suite has that name; the nearest one is offered.

    Examples
    --------
    >>> suite_path("sts").name
    'sts.yaml'
    """
    paths = _by_stem(_folder("eval"))
    if name not in paths:
        raise UserError(f"no evaluation suite named {name!r}", remedy=nearest(name, paths))
    return paths[name]


def published_path(name: str) -> Path:
    """A file of published reference figures, ``eval/published/NAME``.

    Examples
    --------
    >>> published_path("sts.yaml").name
    'sts.yaml'
    """
    path = _folder("eval") / "published" / name
    if not path.is_file():
        raise UserError(f"no published figures named {name!r}", where=str(path.parent))
    return path
