"""Encoders of vectors for training, from the `model` section of a recipe."""

from __future__ import annotations

from typing import Any

from embedkit.config.model import FeatureConfig, ModelConfig
from embedkit.errors import ModelError
from embedkit.factory.folder_settings import folder_of
from embedkit.factory.registry import builders
from embedkit.formats.detect import inspect
from embedkit.formats.loading import assemble
from embedkit.models.vectors.feature import FeatureEncoder


@builders.add("feature")
def _feature(config: ModelConfig) -> FeatureEncoder:
    """An encoder of vectors: a new one, or that of a folder with all that it has learnt.

    Raises
    ------
    ModelError
        The folder holds another kind of model, or nothing says how many numbers a vector has.
    """
    if config.name is not None:
        plan = inspect(folder_of(config))
        if plan.kind != "feature":
            raise ModelError(f"is a {plan.kind} model", where=config.name, remedy=f"set model.kind to {plan.kind}")
        if config.normalize is not None:
            plan.spec["normalize"] = config.normalize
        model = assemble(plan)
        assert isinstance(model, FeatureEncoder)
        return model
    settings: Any = config.feature or FeatureConfig()
    if settings.width is None:
        raise ModelError("nothing says how many numbers a vector has", where="model.feature.width", remedy="set it")
    return FeatureEncoder(
        settings.width, settings.dim, settings.form, settings.hidden, settings.depth, settings.dropout, settings.start,
        settings.scaling, normalize=config.normalize is not False,
    )  # fmt: skip
