"""What `import embedkit` offers: train, export. Thin: each calls the room that does the work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.models import Model
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


def export(
    model: Model | str | Path, path: str | Path, format: str = "sentence-transformers", *, overwrite: bool = False,
    samples: int = 100,
) -> Path:  # fmt: skip
    """Write a model as a folder that another library reads.

    Parameters
    ----------
    model : Model, str or Path
        A loaded model, or what `embedkit.load` takes.
    path : str or Path
        Folder to write.
    format : str
        ``sentence-transformers``, ``transformers`` or ``onnx``; for dual encoders also ``open_clip``, and ``clip``, one
        folder that all three libraries read.
    overwrite : bool
        Replace a folder that is no earlier export.
    samples : int
        Images and texts that are compared for the certificate of a dual encoder.

    Raises
    ------
    ModelError
        The format is unknown, does not fit this model, or the folder holds something else.
    """
    from embedkit.interop import export as write
    from embedkit.models import load

    loaded = load(model, device="cpu") if isinstance(model, str | Path) else model
    return write(loaded, path, format=format, overwrite=overwrite, samples=samples)
