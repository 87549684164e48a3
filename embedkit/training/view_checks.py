"""What of a method's views and groups has no reader or no room, told before a model is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedkit.config.recipe import Recipe
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.roles import IMAGE_ROLES
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.methods.common.usage import Usage
    from embedkit.models.modules.image_towers import ImageTower
    from embedkit.objectives.base import Objective


def check_views(
    recipe: Recipe, method: Method, objective: Objective, config: Mapping[str, Any], contract: Contract
) -> None:  # fmt: skip
    """Refuse groups that nothing compares within and images smaller than a patch; tell the method what is read.

    Parameters
    ----------
    config : mapping
        The objective as `embedkit.objectives.build` takes it.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training.setup import check_all
    >>> check_all(load_recipe("simclr", ["method.groups=4"]))
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.groups: objective 'ntxent' compares nothing within groups of one draw; ...
    """
    from embedkit.methods.common.usage import methods_of, note_views

    note_views(method, config, contract, guide=recipe.guide is not None)
    method.shares_draws = any(getattr(part, "shares_draws", False) for part in objective.modules())
    if method.row_groups is not None and not method.shares_draws:
        raise RecipeError(
            f"objective {config.get('name')!r} compares nothing within groups of one draw", where="method.groups",
            remedy="leave it out, or choose care or gram-equivariance",
        )  # fmt: skip
    _check_parts(recipe, objective, config)
    patch, grid = _patches(recipe)
    if patch is None and (method.view_sizes or any(one.reads_patches for one in methods_of(method))):
        patch, grid = _check_folder(recipe, method)
    if grid is not None:
        method.check_patches(grid)
    for size in method.view_sizes:
        if patch is not None and size < patch:
            raise RecipeError(
                f"images of {size} x {size} pixels are smaller than a patch of the tower, {patch} x {patch}",
                where="method.views", remedy=f"give sizes of {patch} at least",
            )  # fmt: skip
        if patch is not None and size % patch:
            lower = size - size % patch
            raise RecipeError(
                f"images of {size} x {size} pixels are not whole patches of {patch} x {patch}: {size % patch} rows and "
                "columns would not be seen", where="method.views", remedy=f"give {lower} or {lower + patch}",
            )  # fmt: skip


def _check_parts(recipe: Recipe, objective: Objective, config: Mapping[str, Any]) -> None:
    """Refuse parts of vectors that are not those of the prompts whose vectors a text tower puts together."""
    from embedkit.factory.tower_configs import prompt_count
    from embedkit.objectives.losses.statistics.uniformity import PartDiversity

    counts = {part.parts for part in objective.modules() if isinstance(part, PartDiversity)}
    prompts = prompt_count(recipe.model) if counts else 0
    if not prompts or counts <= {prompts}:
        return
    terms = [term.get("name") for term in config.get("terms", ()) if isinstance(term, Mapping)]
    place = f"terms.{terms.index('part-diversity')}.parts" if "part-diversity" in terms else "parts"
    raise RecipeError(f"{min(counts - {prompts})} parts of vectors of {prompts} prompts, each of which gives one part",
                      where=f"objective.{place}", remedy=f"set it to {prompts}")  # fmt: skip


def look_at_pictures(recipe: Recipe, method: Method, rows: TrainingRows) -> None:
    """Add a line to the notes of rows whose pictures are smaller than a crop or a patch, see `small_pictures`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training.setup import build_method, open_rows
    >>> recipe = load_recipe("swav", ["method.views=[{name: simclr, size: 40, count: 2}]"], smoke=True)
    >>> [line for line in open_rows(recipe, build_method(recipe)).notes if "crop" in line]
    ['128 of 128 pictures are smaller than a crop, 40 x 40, and are enlarged; the first: ...']
    """
    from embedkit.training.picture_sizes import small_pictures

    if not rows.roles & set(IMAGE_ROLES):
        return
    patch = None
    if not method.view_sizes:
        patch = _patches(recipe)[0]
        tower = _folder_tower(recipe) if patch is None else None
        patch = patch if tower is None else _patch_side(tower)
    line = small_pictures(rows, image_views(method, rows.roles), min(method.view_sizes, default=None), patch)
    if line is not None:
        rows.add_note(line)


def _check_folder(recipe: Recipe, method: Method) -> tuple[int | None, tuple[int, int] | None]:
    """Refuse the image tower of a folder before it is read; side of a patch, where it has a row of them, and how many
    an image has down and across."""
    tower = _folder_tower(recipe)
    if tower is None:
        return None, None
    with contextlib.suppress(RuntimeError):  # what needs numbers is told when the weights are there
        method.check_tower(tower)
    return _patch_side(tower), tower.grid()


def _folder_tower(recipe: Recipe) -> ImageTower | None:
    from embedkit.factory.tower_configs import folder_tower

    return folder_tower(recipe.model) if recipe.model.kind == "dual" else None


def _patch_side(tower: ImageTower) -> int | None:
    """Side of a patch of a tower with a row of them."""
    try:
        tower.patch_embedding()
    except ModelError:
        return None
    return tower.size[0] // tower.grid()[0]


def _patches(recipe: Recipe) -> tuple[int | None, tuple[int, int] | None]:
    """Side of a patch, and how many an image has down and across, where the recipe says them, not a folder."""
    from embedkit.factory.tower_configs import IMAGE_SIZES

    towers = recipe.model.towers
    image = None if towers is None else towers.image
    if image is None:
        return None, None
    config = image.config or IMAGE_SIZES.get(image.size or "", {})
    patch, sides = config.get("patch_size"), image.preprocess.get("size", config.get("image_size"))
    sides = [sides, sides] if isinstance(sides, int) else sides
    if not isinstance(patch, int):
        return None, None
    if not isinstance(sides, list | tuple) or [isinstance(side, int) for side in sides] != [True, True]:
        return patch, None
    return patch, (sides[0] // patch, sides[1] // patch)


def views_of_one_shape(method: Method, usage: Usage, model: Any) -> list[str]:
    """Views whose images all have one shape, though the model would give each its own (``preprocess.patch``).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.methods import methods
    >>> from embedkit.methods.common.usage import Usage
    >>> from embedkit.models import Preprocess
    >>> model = SimpleNamespace(preprocess=Preprocess(patch=16))
    >>> usage = Usage(frozenset({"image"}))
    >>> views_of_one_shape(methods["densecl"](), usage, model), views_of_one_shape(methods["simclr"](), usage, model)
    (['anchor', 'positive'], [])
    """
    if model.preprocess is None or model.preprocess.patch is None:
        return []
    from embedkit.methods.common.usage import views_of

    views = views_of(method, usage.roles, False)[0]
    return [name for name, view in views.items() if view.tower == "image" and not view.own_shapes]


def image_views(method: Method, roles: frozenset[str]) -> int:
    """How many views of images a row with these roles has.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> image_views(methods["simclr"](), frozenset({"image"})), image_views(methods["pairs"](), frozenset({"anchor"}))
    (2, 0)
    """
    from embedkit.methods.common.usage import views_of

    return sum(view.tower == "image" for view in views_of(method, roles, False)[0].values())
