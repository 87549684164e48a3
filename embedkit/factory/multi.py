"""Models of several modalities for training, from the `model` section of a recipe."""

from __future__ import annotations

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError
from embedkit.factory.folder_settings import folder_of
from embedkit.factory.registry import builders
from embedkit.factory.settings import every_setting_used
from embedkit.formats.detect import inspect
from embedkit.formats.loading import assemble
from embedkit.models.base import Model
from embedkit.models.combined.chain import EncoderChain
from embedkit.models.combined.multi import MultiEncoder
from embedkit.models.vectors.feature import FeatureEncoder

READ_ELSEWHERE = ("kind",)
"""Settings of a modality that the builder of its kind does not read."""


@builders.add("multi")
def _multi(config: ModelConfig) -> MultiEncoder:
    """Named towers into one space: new ones, or those of a folder with all that they have learnt.

    A tower whose vectors are of another size than ``model.dim`` gets a linear projection, which is a part of it.

    Raises
    ------
    ModelError
        The folder holds another kind of model, or a tower cannot be built.
    """
    if config.name is not None:
        plan = inspect(folder_of(config))
        if plan.kind != "multi":
            raise ModelError(f"is a {plan.kind} model", where=config.name, remedy=f"set model.kind to {plan.kind}")
        if config.normalize is not None:
            plan.spec["normalize"] = config.normalize
        model = assemble(plan)
        assert isinstance(model, MultiEncoder)
        return model
    assert config.dim is not None
    towers = {name: _tower(name, section, config.dim) for name, section in (config.modalities or {}).items()}
    return MultiEncoder(towers, normalize=config.normalize is not False)


def _tower(name: str, section: ModelConfig, dim: int) -> Model:
    if section.kind == "feature" and section.name is None and section.feature is not None \
            and section.feature.dim is None:  # fmt: skip
        feature = section.feature.model_copy(update={"dim": dim})
        section = section.model_copy(update={"feature": feature})
    where = f"model.modalities.{name}"
    with every_setting_used(section, where, READ_ELSEWHERE) as view:
        try:
            tower = builders[section.kind](view)
        except ModelError as error:  # a builder names the settings of a model that stands alone
            if error.where is None or not error.where.startswith("model."):
                raise
            raise ModelError(error.what, where=f"{where}.{error.where[6:]}", remedy=error.remedy) from error
    if tower.dim == dim:
        return tower
    return EncoderChain(tower, FeatureEncoder(tower.dim, dim, start="random"), unit=False)
