"""Alignment and uniformity of patches, for models that are used place by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import EncodedImage
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.tables import content_hash, open_table


class PatchSettings(TaskSettings):
    """``batch``: images at a time. ``limit``: the first images only. ``transform``: how the two views are drawn.
    ``sample``: patches, drawn from all, between which uniformity is measured.

    Examples
    --------
    >>> PatchSettings().sample
    2048
    """

    batch: int = Field(32, gt=0)
    limit: int = Field(2000, gt=1)
    transform: str = "weak"
    sample: int = Field(2048, gt=1)


def patch_geometry(
    model: Any, images: Sequence[EncodedImage], settings: PatchSettings, seed: int = 0
) -> dict[str, float]:  # fmt: skip
    """Alignment and uniformity of the unit vectors of patches.

    ``patch_alignment``: mean squared distance of a patch and the one of the other view that lies nearest in the
    picture, where it is nearer than a patch's diagonal. ``patch_uniformity``: log of the mean of exp(-2 d^2) over pairs
    of patches of different images, ``patch_uniformity_within`` over those of one image.

    Examples
    --------
    >>> from PIL import Image
    >>> from pathlib import Path
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> for shade in ("black", "red"):
    ...     Image.new("RGB", (40, 40), shade).save(f"{shade}.png")
    >>> images = [EncodedImage(Path(f"{shade}.png").read_bytes()) for shade in ("black", "red")]
    >>> model = build(load_recipe("simclr", smoke=True).model)
    >>> sorted(patch_geometry(model, images, PatchSettings()))
    ['patch_alignment', 'patch_uniformity', 'patch_uniformity_within']
    """
    distances, first, owner = [], [], []
    for start in range(0, len(images), settings.batch):
        gaps, tokens = _pairs(model, images[start : start + settings.batch], settings, (seed, start))
        distances.append(gaps)
        first.append(tokens.reshape(-1, tokens.shape[2]))
        owner.append(np.repeat(np.arange(len(tokens)) + start, tokens.shape[1]))
    vectors, owners = np.concatenate(first), np.concatenate(owner)
    if len(vectors) > settings.sample:
        sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[: settings.sample])
        vectors, owners = vectors[sample], owners[sample]
    kernel = np.exp(-4.0 * (1.0 - vectors @ vectors.T))  # exp(-2 |u - v|^2) of unit vectors
    same = owners[:, None] == owners[None]
    within = same & ~np.eye(len(vectors), dtype=bool)
    gaps = np.concatenate(distances)
    return {
        "patch_alignment": float(gaps.mean()) if len(gaps) else float("nan"),
        "patch_uniformity": float(np.log(kernel[~same].mean())) if not same.all() else float("nan"),
        "patch_uniformity_within": float(np.log(kernel[within].mean())) if within.any() else float("nan"),
    }


def _pairs(
    model: Any, images: Sequence[EncodedImage], settings: PatchSettings, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of the pairs of patches of two views, and the unit vectors of the first view, (n, P, W)."""
    import torch
    import torch.nn.functional as F

    from embedkit.data.images.pictures import load_picture
    from embedkit.methods.patches.places import nearest_places, patch_diagonal, patch_places
    from embedkit.views.image import Transform, image_inputs, prepare_images

    pictures = [load_picture(image.content) for image in images]
    transform, frames, tokens, grids = Transform.of(settings.transform, "transform"), [], [], []
    for view in range(2):
        generators = [np.random.default_rng([*seed, view, i]) for i in range(len(images))]
        inputs = prepare_images(model, image_inputs(pictures, transform, generators), own_shapes=False).to(model.device)
        with torch.inference_mode():
            patches = model.patch_tokens(inputs)
        tokens.append(F.normalize(patches.tokens.double(), dim=2).cpu())
        frames.append(torch.from_numpy(inputs.data["frame"]))
        grids.append(patches.grid)
    places = [patch_places(frame, grid) for frame, grid in zip(frames, grids, strict=True)]
    match = nearest_places(places[0], places[1])[:, :, None]
    gap = (places[0] - places[1].gather(1, match.expand(-1, -1, 2))).norm(dim=2)
    reach = torch.maximum(*(patch_diagonal(frame, grid) for frame, grid in zip(frames, grids, strict=True)))
    others = tokens[1].gather(1, match.expand(-1, -1, tokens[1].shape[2]))
    squares = (tokens[0] - others).square().sum(dim=2)
    return squares[gap < reach[:, None]].numpy(), tokens[0].numpy()


@TASKS.add("patch-geometry")
class PatchTask(Task):
    """Dense alignment and uniformity (Moon et al. 2022; only a summary of the paper was read).

    Minus the alignment is the score: 0 where a patch has the same vector in both views. Data: a column ``image``, at
    least two. The model is a dual encoder whose image tower has patches or a feature map. See `patch_geometry`.

    Examples
    --------
    >>> PatchTask.settings_type.__name__
    'PatchSettings'
    """

    settings_type = PatchSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        table = self.own_table(open_table(config, opening.data, opening.split, opening.folder), {"image": "image"})
        self.images, self.source = table.images("image"), table.source
        if len(self.images) < 2:
            raise DataError("has one image", where=table.source, remedy="give two at least")
        if len(self.images) > self.settings.limit:
            self.notes.append(f"{self.name}: the first {self.settings.limit:,} of {len(self.images):,} images")
            self.images = self.images[: self.settings.limit]

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows and the hash of the images."""
        return {"source": self.source, "rows": len(self.images), "sha256": content_hash(self.images)}

    def requests(self) -> list[Request]:
        """None: patches are asked of the model itself."""
        return []

    def score(self, embed: Embedder) -> TaskResult:
        """Alignment and uniformity over all images."""
        from embedkit.models.modules.dual import DualEncoder

        model = embed.model
        if not isinstance(model, DualEncoder):
            raise UserError("it has no vectors of patches", where="the model",
                            remedy="score an embedkit model with an image tower")  # fmt: skip
        training = model.training
        model.eval()
        try:
            metrics = patch_geometry(model, self.images, self.settings)
        finally:
            model.train(training)
        metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
        if "patch_alignment" not in metrics:
            raise DataError("no patches of two views lie at one place", where=self.source,
                            remedy="give a milder transform, or more images")  # fmt: skip
        metrics = {"negative_patch_alignment": -metrics["patch_alignment"], **metrics}
        return TaskResult(self.name, "negative_patch_alignment", metrics["negative_patch_alignment"], metrics, unit=1.0,
                          notes=list(self.notes))  # fmt: skip
