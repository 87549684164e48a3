"""Vectors as inputs of a model: their size, whether it reads them at all, and what it learns from them at first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from embedkit.config.model import FeatureConfig, ModelConfig
from embedkit.data.schema.kinds import OPEN_ROLES
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data import TrainingRows


def fitted(config: ModelConfig, widths: Mapping[str, int], roles: frozenset[str]) -> ModelConfig:
    """The section ``model`` with the width of the data's vectors, where it sets none.

    Parameters
    ----------
    config : ModelConfig
        The section.
    widths : mapping
        Role -> numbers of its vectors, of the roles that hold vectors.
    roles : frozenset of str
        All roles of the rows.

    Raises
    ------
    DataError
        The rows have texts where the model reads vectors, or the other way round, or vectors of another size.

    Examples
    --------
    >>> fitted(ModelConfig(kind="feature"), {"anchor": 384}, frozenset({"anchor"})).feature.width
    384
    """
    if config.kind != "feature":
        role = next((role for role in OPEN_ROLES if role in widths), None)
        if role is None:
            return config
        raise DataError(
            f"{role} is a vector, and a model of kind {config.kind} reads texts", where="data.train",
            remedy="set model: {kind: feature}, or map a column of texts",
        )  # fmt: skip
    for role in OPEN_ROLES:
        if role in roles and role not in widths:
            raise DataError(f"{role} is a text, and a model of kind feature reads vectors", where="data.train",
                            remedy="map a column of vectors, or choose another model.kind")  # fmt: skip
    width = _width_of(config)
    for role, size in sorted(widths.items()):
        width = size if width is None else width
        if size != width:
            raise DataError(f"the vectors of {role} have {size} numbers, the model reads {width}", where="data.train",
                            remedy="give all roles vectors of one encoder, or set model.feature.width")  # fmt: skip
    if config.name is not None or width is None:
        return config
    section = (config.feature or FeatureConfig()).model_copy(update={"width": width})
    return config.model_copy(update={"feature": section})


def _width_of(config: ModelConfig) -> int | None:
    if config.name is not None:
        from embedkit.factory.folder_settings import folder_of
        from embedkit.formats.detect import inspect

        return inspect(folder_of(config)).spec.get("width")
    return None if config.feature is None else config.feature.width


def learn_inputs(model: Any, rows: TrainingRows, say: Callable[[str], None]) -> None:
    """Show a model the vectors of all training rows, where it learns their scale before the first step.

    Every process reads all of them in one order, so that all learn the same.

    Examples
    --------
    >>> from embedkit.models import FeatureEncoder
    >>> learn_inputs(FeatureEncoder(width=2), None, print)  # has nothing to learn
    """
    if not model.learns_inputs:
        return
    model.learn_inputs(itertools.chain.from_iterable(rows.vectors(role) for role in sorted(rows.widths)))
    say(f"the scale of the inputs was learnt from {int(model.count):,} vectors")
