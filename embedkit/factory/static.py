"""Static encoders for training, from the `model` section of a recipe."""

from __future__ import annotations

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError
from embedkit.factory.folder_settings import folder_of, of_another_kind, replaced
from embedkit.factory.registry import builders
from embedkit.factory.tokenizer import open_tokenizer
from embedkit.formats.detect import inspect
from embedkit.formats.loading import assemble
from embedkit.models.modules.static import StaticEncoder


@builders.add("static")
def _static(config: ModelConfig) -> StaticEncoder:
    """A static encoder of a recipe.

    Raises
    ------
    ModelError
        For settings that a static encoder does not have.
    """

    if config.pooling not in (None, "mean"):
        raise ModelError(f"a static model has no {config.pooling} pooling", where="model.pooling", remedy="remove it")
    if config.name is not None:
        plan = inspect(folder_of(config))
        if plan.kind != "static":
            raise of_another_kind(plan, config.name)
        plan.spec = replaced(plan.spec, config)
        model = assemble(plan)
        assert isinstance(model, StaticEncoder)
        return model
    spec = replaced({"normalize": True}, config)
    spec.pop("pooling", None)
    assert config.dim is not None
    buckets = config.buckets if config.ngrams > 1 else 0  # without n-grams there are none
    tokenizer = open_tokenizer(str(config.tokenizer))
    return StaticEncoder(tokenizer, config.dim, ngrams=config.ngrams, buckets=buckets, **spec)
