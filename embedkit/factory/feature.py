"""Encoders of vectors and of sequences for training, from the `model` section of a recipe."""

from __future__ import annotations

from typing import Any

from embedkit.config.model import FeatureConfig, ModelConfig, SequenceConfig
from embedkit.errors import ModelError
from embedkit.factory.folder_settings import folder_of
from embedkit.factory.registry import builders
from embedkit.factory.settings import taken
from embedkit.formats.detect import inspect
from embedkit.formats.loading import assemble
from embedkit.models.vectors.feature import FeatureEncoder
from embedkit.models.vectors.places import waves_width
from embedkit.models.vectors.sequence import SequenceEncoder


@builders.add("feature")
def _feature(config: ModelConfig) -> FeatureEncoder:
    """An encoder of vectors: a new one, or that of a folder with all that it has learnt.

    Raises
    ------
    ModelError
        The folder holds another kind of model, or nothing says how many numbers a vector has.
    """
    if config.name is not None:
        return _of_folder(config)
    settings: Any = config.feature or FeatureConfig()
    if settings.width is None:
        raise ModelError("nothing says how many numbers a vector has", where="model.feature.width", remedy="set it")
    return FeatureEncoder(
        settings.width, settings.dim, settings.form, scaling=settings.scaling, waves=settings.waves,
        normalize=config.normalize is not False, **taken(settings, _of_form(settings)),
    )  # fmt: skip


def _of_form(settings: Any) -> list[str]:
    """The settings that a form has: those of its hidden layers, and where its linear map starts."""
    width = settings.width if settings.waves is None else waves_width(settings.waves)
    has_map = settings.form == "linear" or (settings.form == "residual" and settings.dim not in (None, width))
    return [*(() if settings.form == "linear" else ("hidden", "depth", "dropout")), *(("start",) if has_map else ())]


@builders.add("sequence")
def _sequence(config: ModelConfig) -> SequenceEncoder:
    """An encoder of sequences: a new one, or that of a folder with all that it has learnt.

    Raises
    ------
    ModelError
        The folder holds another kind of model, or nothing says how many numbers a step has.
    """
    if config.name is not None:
        return _of_folder(config)
    settings: Any = config.sequence or SequenceConfig()
    if settings.width is None:
        raise ModelError("nothing says how many numbers a step has", where="model.sequence.width", remedy="set it")
    form = settings.form
    more = {"heads": settings.heads} if form == "transformer" else {} if form == "gru" else {"kernel": settings.kernel}
    if form != "gru" or settings.depth > 1:  # a GRU drops between its layers
        more["dropout"] = settings.dropout
    return SequenceEncoder(
        settings.width, settings.dim, form, settings.hidden, settings.depth, patch=settings.patch,
        scaling=settings.scaling, normalize=config.normalize is not False, **more,
    )  # fmt: skip


def _of_folder(config: ModelConfig) -> Any:
    """The encoder of the folder that a section names, which is of the section's kind."""
    plan = inspect(folder_of(config))
    if plan.kind != config.kind:
        raise ModelError(f"is a {plan.kind} model", where=config.name, remedy=f"set model.kind to {plan.kind}")
    if config.normalize is not None:
        plan.spec["normalize"] = config.normalize
    return assemble(plan)
