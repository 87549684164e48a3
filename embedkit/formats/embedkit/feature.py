"""Encoders of vectors and of sequences in embedkit's own folder: settings, weights and scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan
from embedkit.formats.tensors import load_exactly, read_safetensors

if TYPE_CHECKING:
    from embedkit.models.vectors.base import VectorEncoder

KINDS = ("feature", "sequence")
"""Kinds of models that are read here."""


def read_feature(plan: FolderPlan) -> VectorEncoder:
    """The encoder of vectors, or of sequences, of an inspected embedkit folder.

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
    from embedkit.models.vectors.sequence import SequenceEncoder

    make: type[FeatureEncoder] | type[SequenceEncoder] = FeatureEncoder if plan.kind == "feature" else SequenceEncoder
    try:
        model = make(**plan.spec)
    except (TypeError, ValueError, RuntimeError, ModelError) as error:
        raise ModelError(f"its settings are damaged ({error})", where=str(plan.root), remedy="write the folder again") \
            from error  # fmt: skip
    load_exactly(model, read_safetensors(plan.root / "model.safetensors"), plan.root)
    return model
