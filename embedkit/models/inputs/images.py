"""Prepared images: what goes from the data threads to the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import UserError
from embedkit.models.inputs.preprocess import Preprocess


class ImageInputs:
    """N images of one size.

    Parameters
    ----------
    pixels : Tensor (N, 3, H, W)
        uint8 from 0 to 255, or floating point from 0 to 1; not normalised.
    patches : int
        What one image costs: its patches, or what the tower counts in their place.
    data : mapping of str to array (N, ...), optional
        Further values of each image; they go where the image goes. ``seeds`` (N,) uint64: what is drawn at random for
        an image (patch dropout) is a function of its seed, whatever the chunks and processes.
    """

    __slots__ = ("data", "patches", "pixels")

    def __init__(self, pixels: Tensor, patches: int = 1, data: Mapping[str, np.ndarray] | None = None) -> None:
        self.pixels, self.patches = pixels, patches
        self.data: dict[str, np.ndarray] = dict(data or {})

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        return f"ImageInputs({tuple(self.pixels.shape)}, {self.patches} patches, {self.device})"

    @property
    def costs(self) -> np.ndarray:
        """Patches of each image, int64 (N,)."""
        return np.full(len(self), self.patches, dtype=np.int64)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    def select(self, indices: Any) -> ImageInputs:
        """The images at `indices` (integers, repeats allowed, or a slice), in that order."""
        if isinstance(indices, slice):
            indices = np.arange(len(self))[indices]
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        pixels = self.pixels.index_select(0, torch.from_numpy(index).to(self.device))
        return ImageInputs(pixels, self.patches, {name: value[index] for name, value in self.data.items()})

    def replace(self, **data: Any) -> ImageInputs:
        """The same images with these further values of each."""
        added = {name: np.asarray(value) for name, value in data.items()}
        return ImageInputs(self.pixels, self.patches, {**self.data, **added})

    @staticmethod
    def concat(parts: Sequence[ImageInputs]) -> ImageInputs:
        """All images of `parts`, in order.

        Raises
        ------
        UserError
            When `parts` is empty or the images differ in size or type.
        """
        if not parts:
            raise UserError("nothing to concatenate")
        kinds = {(part.pixels.shape[1:], part.pixels.dtype) for part in parts}
        if len(kinds) > 1:
            raise UserError("images of different sizes or types cannot be joined", remedy="give them other settings")
        shared = set.intersection(*(set(part.data) for part in parts))
        data = {name: np.concatenate([part.data[name] for part in parts]) for name in sorted(shared)}
        return ImageInputs(torch.cat([part.pixels for part in parts]), parts[0].patches, data)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> ImageInputs:
        """The same images on `device`."""
        return ImageInputs(self.pixels.to(device, non_blocking=non_blocking), self.patches, self.data)


def is_image(value: Any) -> bool:
    """Whether an item of a mixed list is an image: anything but a str, which is a text."""
    return not isinstance(value, str)


def pixels_of(images: Sequence[Any], preprocess: Preprocess) -> Tensor:
    """Pixels (N, 3, H, W) of images of any kind.

    PIL images, bytes, paths and pixels (H, W, 3) go through `preprocess`; arrays and tensors (3, H, W) are ready and
    are taken as they are (uint8, or floating point from 0 to 1).

    Raises
    ------
    UserError
        When ready pixels have different sizes.
    """
    ready = [_ready(image) if _is_ready(image) else torch.from_numpy(preprocess(image)) for image in images]
    if not ready:
        return torch.zeros(0, 3, *preprocess.size, dtype=torch.uint8)
    if len({(pixels.shape, pixels.dtype) for pixels in ready}) > 1:
        raise UserError("images of different sizes or types in one list", remedy="bring them to one size first")
    return torch.stack(ready)


def _is_ready(image: Any) -> bool:
    shape: tuple[int, ...] = tuple(getattr(image, "shape", ()))
    return len(shape) == 3 and shape[0] == 3 and (shape[2] != 3 or isinstance(image, Tensor))


def _ready(image: Any) -> Tensor:
    return image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image))
