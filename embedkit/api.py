"""`embedkit.train`, a thin layer over the room that does the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe
    from embedkit.training import TrainResult


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: Any = None,
    evaluation_data: Any = None,
    columns: Mapping[str, str] | None = None,
    callbacks: Sequence[Any] = (),
    resume: bool = False,
    smoke: bool = False,
    output: str | Path | None = None,
    **overrides: Any,
) -> TrainResult:
    """The result of a recipe that is trained to its end.

    Parameters
    ----------
    recipe : str, Path, mapping or Recipe
        Name of a shipped recipe, a YAML file, its contents, or a checked recipe.
    data : object, optional
        What to train on in place of the recipe's ``data.train``: a path, or a Python object: a ``datasets.Dataset``, a
        DataFrame or Series of pandas or polars, an Arrow table, a list of dicts or of texts, a dict of columns, or a
        function without arguments that gives rows anew at each call. The same data passed again resumes a run.
    evaluation_data : object, optional
        What the recipe's evaluation scores in place of ``evaluation.data``, given in the same ways.
    columns : mapping, optional
        Column of `data` -> role, where names do not tell: ``{"q": "anchor", "a": "positive"}``.
    callbacks : sequence, optional
        Objects with methods that are called while training; see `embedkit.training.monitor.callbacks`.
    resume : bool
        Resume from the latest complete checkpoint in the output folder.
    smoke : bool
        Apply the recipe's own ``smoke`` settings: a run of seconds.
    output : str or Path, optional
        Folder of the run; wins over ``train.output``.
    **overrides
        Settings that win over the recipe; two underscores stand for a dot: ``train__lr=1e-5`` is ``train.lr``.

    Returns
    -------
    TrainResult
        ``output`` (folder of the saved model), ``steps``, ``loss``, ``scores`` and ``best``.

    Raises
    ------
    RecipeError, DataError, ModelError
        Before training starts: the key, row or file is named.

    Examples
    --------
    >>> import embedkit
    >>> embedkit.train("pairs", data=iter([{"anchor": "a question", "positive": "its answer"}]))
    Traceback (most recent call last):
    ...
    embedkit.errors.DataError: data (list_iterator): it can be read only once; pass the function that makes it
    """
    from embedkit.config.recipe_io import load_recipe

    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    with _paths_of(data, evaluation_data) as (train_path, evaluation_path):
        if train_path is not None:
            source = {"path": train_path, "columns": None if columns is None else dict(columns)}
            settings = {"data.train": [source], **settings}
        elif columns is not None:
            settings = {"data.train.0.columns": dict(columns), **settings}
        if evaluation_path is not None:
            settings = {**settings, "evaluation.data": evaluation_path}  # last: evaluation= gives the whole section
        checked = load_recipe(recipe, settings, smoke=smoke)
        from embedkit.training import train as run

        return run(checked, resume=resume, output=output, callbacks=callbacks)


@contextmanager
def _paths_of(*objects: Any) -> Iterator[list[str | None]]:
    """The path of each object in a recipe, kept for as long as the block runs; None for None."""
    from embedkit.data.sources.objects import hold, release

    paths = [None if one is None else str(one) if isinstance(one, str | Path) else hold(one) for one in objects]
    try:
        yield paths
    finally:
        for one, path in zip(objects, paths, strict=True):
            if path is not None and not isinstance(one, str | Path):
                release(path)
