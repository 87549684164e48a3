"""Encoders of vectors in embedkit's own folder: settings in ``embedkit.json``, weights and scaling beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan
from embedkit.formats.tensors import load_exactly, read_safetensors

if TYPE_CHECKING:
    from embedkit.models.vectors.feature import FeatureEncoder


def read_feature(plan: FolderPlan) -> FeatureEncoder:
    """The encoder of vectors of an inspected embedkit folder.

    Raises
    ------
    ModelError
        The settings are damaged, or the weights do not fit.

    Examples
    --------
    >>> from embedkit.formats.detect import inspect
    >>> from embedkit.models import FeatureEncoder
    >>> read_feature(inspect(FeatureEncoder(width=6, dim=3).save("adapter"))).dim
    3
    """
    from embedkit.models.vectors.feature import FeatureEncoder

    try:
        model = FeatureEncoder(**plan.spec)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"its settings are damaged ({error})", where=str(plan.root), remedy="write the folder again") \
            from error  # fmt: skip
    load_exactly(model, read_safetensors(plan.root / "model.safetensors"), plan.root)
    return model
