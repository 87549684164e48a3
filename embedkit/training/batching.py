"""The batches of a run: how many there are, from where on, how their images are decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedkit.config.recipe import Recipe
from embedkit.errors import RecipeError
from embedkit.methods.base import Method
from embedkit.methods.common.auxiliary import WithAuxiliaries

if TYPE_CHECKING:
    from embedkit.data import TrainingRows
    from embedkit.data.images.decoding import Decoding


@dataclass
class Position:
    """Where a run stands: optimiser steps done, and the next batch as (epoch, step within it).

    Examples
    --------
    >>> Position(step=120, epoch=1, epoch_step=20)
    Position(step=120, epoch=1, epoch_step=20)
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0


def batches_from(rows: TrainingRows, start: Position, rank: int, world: int) -> Iterator[tuple[int, Any]]:
    """(epoch, RowBatch) from a position on, epoch after epoch, without end.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> rows = SimpleNamespace(batches=lambda epoch, first, rank, world: iter(["first", "second"][first:]))
    >>> list(itertools.islice(batches_from(rows, Position(step=1, epoch_step=1), 0, 1), 3))
    [(0, 'second'), (1, 'first'), (1, 'second')]
    """
    first = start.epoch_step
    for epoch in itertools.count(start.epoch):
        any_batch = False
        for batch in rows.batches(epoch, first, rank, world):
            any_batch = True
            yield epoch, batch
        if not any_batch and first == 0:
            raise RecipeError("the data gives no batch", where="data.train", remedy="check limits and batch size")
        first = 0


def check_first_rows(method: Method, rows: TrainingRows) -> None:
    """Let a method that looks at rows before a model is read refuse those of the first batch.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> check_first_rows(methods["pairs"](), None)
    """
    main = method.main if isinstance(method, WithAuxiliaries) else method
    if type(main).check_rows is Method.check_rows:
        return
    first = next(iter(rows.batches(0)), None)
    if first is not None:
        method.check_rows(first.rows)


def notes_of_first_rows(method: Method, model: Any, rows: TrainingRows) -> list[str]:
    """What a method says of the first batch, where it looks at one.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> notes_of_first_rows(methods["pairs"](), None, None)
    []
    """
    main = method.main if isinstance(method, WithAuxiliaries) else method
    if type(main).notes_of_rows is Method.notes_of_rows:
        return []
    first = next(iter(rows.batches(0)), None)
    return [] if first is None else method.notes_of_rows(model, first.rows)


def total_steps(recipe: Recipe, rows: TrainingRows) -> int:
    """Optimiser steps of the whole run.

    Raises
    ------
    RecipeError
        When the data is a stream, whose length is not known, and ``train.max_steps`` is not given or something is to
        be done at the end of its epochs.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("pairs", ["train.epochs=3"])
    >>> total_steps(recipe, SimpleNamespace(steps_per_epoch=100))
    300
    >>> total_steps(recipe, SimpleNamespace(steps_per_epoch=None))
    Traceback (most recent call last):
    embedkit.errors.RecipeError: train.epochs: a stream has no known length; give train.max_steps instead
    """
    if rows.steps_per_epoch is None:
        if recipe.evaluation is not None and recipe.evaluation.by_epoch:
            raise RecipeError(
                "the end of an epoch of a stream is not known", where="evaluation.by_epoch",
                remedy="set it to false, evaluation.every then counts the steps of the run",
            )  # fmt: skip
        if recipe.train.max_steps is None:
            raise RecipeError(
                "a stream has no known length", where="train.epochs", remedy="give train.max_steps instead"
            )
        return recipe.train.max_steps
    by_epochs = None if recipe.train.epochs is None else max(1, round(recipe.train.epochs * rows.steps_per_epoch))
    return min(n for n in (by_epochs, recipe.train.max_steps) if n is not None)


def check_shares(smallest: int | None, processes: int) -> None:
    """Refuse batches that have fewer rows than there are processes; `smallest` is None where that is not known.

    Examples
    --------
    >>> check_shares(16, processes=4)
    >>> check_shares(3, processes=4)
    Traceback (most recent call last):
    embedkit.errors.RecipeError: train.batch_size: a batch of 3 rows cannot be shared by 4 processes; ...
    """
    if smallest is not None and smallest < processes:
        raise RecipeError(
            f"a batch of {smallest} rows cannot be shared by {processes} processes", where="train.batch_size",
            remedy="set data.drop_last: true, raise train.batch_size, or use fewer processes",
        )  # fmt: skip


def decoding(recipe: Recipe, method: Method, model: Any) -> Decoding:
    """How images are decoded: as large as the model and the crops of the method need them.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.training.setup import build_method
    >>> recipe = load_recipe("clip-small", smoke=True)
    >>> decoding(recipe, build_method(recipe), build(recipe.model, 0)).need
    34
    """
    from embedkit.data.images.decoding import Decoding

    preprocess = model.preprocess
    need = None
    if preprocess is not None and preprocess.resize != "none":
        need = method.picture_side(max(preprocess.edge or 0, *preprocess.size))
    data = recipe.data
    return Decoding(need, data.workers, data.max_pixels, data.on_bad_row != "error")
