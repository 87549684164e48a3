"""LiT: a text tower is tuned to a locked image tower, whose vectors are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Template
from embedkit.errors import ModelError
from embedkit.methods.base import Row, View, methods, prepare_view
from embedkit.methods.clip import ImageText

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs


@methods.add("lit")
class LiT(ImageText):
    """Locked-image tuning (Zhai et al. 2022, section 3).

    The image tower is frozen and runs as at inference, without random changes of the images; its projection into the
    shared space, where there is one, is trained. With `cache` its vectors are computed before the first step, each
    once, and kept in the folder of the run. Objective: CLIP's.

    Parameters
    ----------
    cache : bool
        Compute the vectors of all images first. Streams have no cache: then the tower runs in every step.
    captions, template
        As in `ImageText`.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["lit"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['image', 'texts'], 'clip')
    """

    paper: ClassVar[str] = "Zhai et al. 2022, CVPR, section 3"

    def __init__(self, cache: bool = True, captions: Count = 1, template: Template | None = None) -> None:
        super().__init__(None, captions, template)
        self.caches_images, self.gives_patches = cache, not cache

    def adapt(self, model: Model) -> None:
        """Lock the image tower."""
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model")
        model.image.requires_grad_(False)

    def images(self, rows: Sequence[Row], generators: Sequence[np.random.Generator]) -> View:
        """The images, or the tower's vectors of them where they are known."""
        has_vector = [row.get("features") is not None for row in rows]
        if rows and all(has_vector):
            inputs = [_LockedVector(row["features"], row["image"]) for row in rows]
            return View(inputs, list(range(len(rows))), tower="image")
        return super().images(rows, generators)

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        if not (view.inputs and isinstance(view.inputs[0], _LockedVector)):
            return prepare_view(model, view)
        import torch

        from embedkit.models.inputs.inputs import Inputs

        vectors = np.stack([item.vector for item in view.inputs])
        # one token that nobody reads stands for an image
        ids = torch.zeros(len(vectors), dtype=torch.int64)
        return Inputs(ids, np.arange(len(vectors) + 1), data={"features": vectors})

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Vectors in the shared space; those of images from the locked tower, computed now or before."""
        import torch

        from embedkit.models.inputs.images import ImageInputs
        from embedkit.models.inputs.shapes import ShapedImages

        features = inputs.data.get("features")
        if features is not None:
            vectors = torch.as_tensor(features, device=inputs.device, dtype=model.dtype)
            return model.projections["image"](vectors)  # type: ignore[no-any-return]
        if not isinstance(inputs, ImageInputs | ShapedImages):
            return model(inputs, **settings)  # type: ignore[no-any-return]
        return model.projections["image"](tower_vectors(model, inputs))  # type: ignore[no-any-return]


class _LockedVector:
    """A known vector (W,) of an image, with the key of the image's file."""

    __slots__ = ("key", "vector")

    def __init__(self, vector: np.ndarray, key: bytes) -> None:
        self.vector, self.key = vector, key


def tower_vectors(model: Any, inputs: Any) -> Tensor:
    """The image tower's own vectors (N, W) as at inference, without gradient; the tower is left in its mode.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.views.image import prepare_images
    >>> model = build(load_recipe("clip-small", smoke=True).model, 0)
    >>> tower_vectors(model, prepare_images(model, [Image.new("RGB", (40, 30))])).shape
    torch.Size([1, 16])
    """
    import torch

    training = model.image.training
    model.image.eval()
    try:
        with torch.no_grad():
            return model.tower_vectors(inputs)[1]  # type: ignore[no-any-return]
    finally:
        model.image.train(training)
