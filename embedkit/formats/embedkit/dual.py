"""Dual encoders in embedkit's own folder: the text tower as a model folder of its own, the image tower beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.formats.detect import inspect
from embedkit.formats.folder import FolderPlan
from embedkit.formats.tensors import load_exactly

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

TEXT, IMAGE, PROJECTIONS = "text", "image", "projections.safetensors"


def read_dual(plan: FolderPlan) -> DualEncoder:
    """The dual encoder of an inspected embedkit folder.

    Raises
    ------
    ModelError
        When a tower is missing or its weights do not fit.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small", smoke=True).model)
    >>> read_dual(inspect(model.save("pair"))).image.size
    (32, 32)
    """
    from embedkit.formats.loading import assemble
    from embedkit.formats.tensors import read_safetensors
    from embedkit.models.inputs.preprocess import Preprocess
    from embedkit.models.modules.dual import DualEncoder, Projection
    from embedkit.models.modules.image_towers import build_image_tower

    spec = dict(plan.spec)
    text = assemble(inspect(plan.root / TEXT))
    image = build_image_tower(spec["image"])
    load_exactly(image.encoder, read_safetensors(plan.root / IMAGE / "model.safetensors"), plan.root / IMAGE)
    projections = {name: Projection(**settings) for name, settings in spec["projections"].items()}
    model = DualEncoder(
        text, image, projections["text"], projections["image"], Preprocess.of(spec["preprocess"]), scale=spec["scale"],
        bias=spec["bias"], normalize=spec["normalize"], untrained_text=spec.get("untrained_text", False),
    )  # fmt: skip
    load_exactly(model.projections, read_safetensors(plan.root / PROJECTIONS), plan.root / PROJECTIONS)
    return model
