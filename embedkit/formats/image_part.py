"""The image tower of a dual encoder with what stands behind it, for libraries that hold no text: what leaves, and its
certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from embedkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.preprocess import Preprocess
    from embedkit.models.modules.dual import DualEncoder
    from embedkit.models.modules.image_towers import ImageTower

KIND = "image"
BOUND = 1e-4
Affine = tuple["Tensor", "Tensor | None"]


@dataclass(frozen=True)
class ImagePart:
    """A dual encoder without its text tower.

    Attributes
    ----------
    model : DualEncoder
        The whole.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> part = ImagePart(build(load_recipe("simclr", smoke=True).model))
    >>> part.kind, part.tower.size, part.linear()
    ('image', (32, 32), None)
    """

    model: DualEncoder
    kind = KIND

    def hash(self) -> str:
        """The hash of the whole model."""
        return self.model.hash()

    @property
    def tower(self) -> ImageTower:
        """The image tower."""
        return self.model.image

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the tower's pixels."""
        return self.model.preprocess

    def state(self) -> dict[str, Tensor]:
        """The encoder's weights; adapters are merged into their layers."""
        from embedkit.models.modules.adapters import has_adapters, merged_state

        encoder = self.tower.encoder
        return merged_state(encoder) if has_adapters(encoder) else dict(encoder.state_dict())

    def linear(self) -> Affine | None:
        """Weight (D, I) and bias (D,) of the projection behind the tower; None where there is none.

        Raises
        ------
        ModelError
            For a projection of more than one layer.
        """
        projection = self.model.projection("image")
        if projection.kind == "mlp":
            raise ModelError(
                "the projection behind the image tower is an mlp, which these formats have no place for",
                where="model.towers.image.projection", remedy="export to onnx, which holds it",
            )  # fmt: skip
        return folded(list(projection.layers))

    def vectors(self, images: Sequence[Any], crop: Literal["round", "truncate"]) -> np.ndarray:
        """Vectors of images by embedkit, not normalised, with odd crop margins split as another library does."""
        model, preprocess = self.model, self.model.preprocess
        model.preprocess = dataclasses.replace(preprocess, crop=crop)
        try:
            return model.encode(list(images), normalize=False)  # type: ignore[no-any-return]
        finally:
            model.preprocess = preprocess


def folded(layers: Sequence[nn.Module]) -> Affine | None:
    """Weight and bias of linear layers that follow each other, multiplied in float64; None where there are none.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> layers = [nn.Linear(4, 3), nn.Linear(3, 2, bias=False)]
    >>> weight, bias = folded(layers)
    >>> x = torch.ones(1, 4)
    >>> torch.allclose(x @ weight.T + bias, layers[1](layers[0](x)), atol=1e-6)
    True
    """
    if not layers:
        return None
    weight: Any = None
    bias: Any = None
    for layer in layers:
        own: Any = layer.weight.detach().double()  # type: ignore[operator,union-attr]
        shift: Any = None if layer.bias is None else layer.bias.detach().double()  # type: ignore[operator,union-attr]
        weight = own if weight is None else own @ weight
        if bias is not None:
            bias = own @ bias
        bias = shift if bias is None else bias if shift is None else bias + shift
    return weight.float(), None if bias is None else bias.float()


def refuse(library: str, reason: str) -> NoReturn:
    """Raise what `export` raises when a library has no place for an image tower.

    Examples
    --------
    >>> refuse("timm", "its ViT has no such pooling")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: timm cannot express this image tower: its ViT has no such pooling; ...
    """
    raise ModelError(
        f"{library} cannot express this image tower: {reason}", remedy="export to onnx, or save it as it is"
    )


def part_of(model: Model, tower: str | None, kinds: frozenset[str]) -> Any:
    """What of a model a format of these `kinds` gets: the model, one of its named towers, or the image tower alone,
    when it is asked for or the format holds nothing else.

    Raises
    ------
    ModelError
        When there is no such tower.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("simclr", smoke=True).model)
    >>> part_of(model, None, frozenset({"image"})).kind, part_of(model, None, frozenset({"dual", "image"})).kind
    ('image', 'dual')
    """
    from embedkit.models.combined.multi import MultiEncoder, named_tower
    from embedkit.models.modules.dual import DualEncoder

    if isinstance(model, MultiEncoder):
        if tower is None:
            raise ModelError("a model of several towers has no form there", where="tower",
                             remedy=f"export one: tower {' or '.join(map(repr, model.names))}")  # fmt: skip
        return named_tower(model, tower)
    if tower not in (None, KIND):
        if not isinstance(model, DualEncoder):
            raise ModelError(f"a {model.kind} model has no towers to choose", where="tower", remedy="leave it out")
        raise ModelError(f"unknown tower {tower!r}", where="tower", remedy="known: image; leave it out for the whole")
    if tower is None and (model.kind in kinds or KIND not in kinds):
        return model
    if not isinstance(model, DualEncoder):
        raise ModelError(
            f"is a {model.kind} model, without an image tower", remedy="leave tower out, or give a dual model"
        )
    return ImagePart(model)


def image_report(
    part: ImagePart, reader: str, read: Callable[[list[Any]], np.ndarray], samples: int,
    crop: Literal["round", "truncate"] = "round",
) -> dict[str, Any]:  # fmt: skip
    """The certificate of an exported image tower: another library's vectors of `samples` images beside the model's.

    Returns
    -------
    dict
        Smallest cosine, and the largest difference of a coordinate in shares of the largest coordinate.

    Raises
    ------
    ModelError
        When the difference is above `BOUND`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> part = ImagePart(build(load_recipe("simclr", smoke=True).model))
    >>> image_report(part, "itself", lambda images: part.vectors(images, "round"), samples=4)["itself"]["difference"]
    0.0
    """
    from embedkit.formats.parity import probe_images
    from embedkit.models.towers.naflex import NaflexTower

    if part.preprocess.patch is not None or isinstance(part.tower, NaflexTower):
        raise ModelError(f"{reader} takes images of one shape, this tower each in its own",
                         remedy="save it as an embedkit folder")  # fmt: skip
    images = probe_images(samples)
    ours = np.asarray(part.vectors(images, crop), dtype=np.float64)
    theirs = np.asarray(read(images), dtype=np.float64)
    if theirs.shape != ours.shape:
        raise ModelError(
            f"{reader} reads vectors of the shape {theirs.shape}, not {ours.shape}", remedy="please report it"
        )
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    difference = float(np.abs(ours - theirs).max() / max(float(np.abs(ours).max()), 1e-12))
    if not difference <= BOUND:
        raise ModelError(
            f"{reader} reads other vectors (largest difference {difference:.1e})", remedy="please report it"
        )
    cosine = float(((ours * theirs).sum(1) / np.maximum(lengths, 1e-12)).min())
    return {reader: {"samples": samples, "cosine_images": cosine, "difference": difference}}
