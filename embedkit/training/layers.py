"""What lets an objective read the vectors of earlier layers: the method is told, and the model gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.errors import RecipeError
from embedkit.methods.base import Method

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.objectives.base import Objective

_TRIED_LAYERS = 3
"""Layers of the small batch that an objective of several layers is tried on."""


def widen(method: Method, objective: Objective) -> None:
    """Tell a method that its embeddings hold the vectors of several layers, where the objective reads them.

    Raises
    ------
    RecipeError
        The method changes the model's vectors, or another objective stands beside the one that reads layers.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> from embedkit.objectives import build
    >>> method = methods["pairs"]()
    >>> widen(method, build({"name": "adaptive-layers", "objective": "infonce"}))
    >>> method.widths["anchor"]
    3
    """
    from embedkit.methods.common.augmenting import Augmenting
    from embedkit.methods.common.auxiliary import WithAuxiliaries

    readers = [part for part in objective.modules() if getattr(part, "reads_layers", False)]
    if not readers:
        return
    main = method.main if isinstance(method, WithAuxiliaries) else method
    own = [cls for cls in type(main).__mro__ if "project" in vars(cls) and cls not in (Method, Augmenting)]
    if readers != [objective] or own:
        raise RecipeError(
            "the method changes the model's vectors before the objective sees them" if own
            else "other objectives would read the vectors of all layers too", where="objective",
            remedy="use a method such as pairs or simcse-unsup" if own else "put adaptive-layers around all others",
        )  # fmt: skip
    main.widths = dict.fromkeys(main.embedded(main.contract.roles), _TRIED_LAYERS)  # type: ignore[misc]


def give_layers(objective: Objective, model: Model) -> None:
    """Let a model give the vectors of all its layers in training, where the objective reads them.

    Raises
    ------
    ModelError
        When it has no layers, or cannot be cut to the first ones.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.training.setup import build_method, build_objective
    >>> recipe = load_recipe("adaptive-layers", smoke=True)
    >>> model = build(recipe.model)
    >>> give_layers(build_objective(recipe, build_method(recipe), 32), model)
    >>> model.train()(model.prepare(["a cat"])).shape  # of two layers of 32
    torch.Size([1, 64])
    """
    if getattr(objective, "reads_layers", False):
        from embedkit.methods.common.parts import need_text

        need_text(model).train_layers(bool(objective.embedding_layer))
