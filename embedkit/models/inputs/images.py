"""Prepared images: what goes from the data threads to the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.data.images.pictures import SUFFIXES
from embedkit.errors import DataError, UserError
from embedkit.models.inputs.preprocess import Preprocess, open_image


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

    Examples
    --------
    >>> images = ImageInputs(torch.zeros(2, 3, 32, 32), patches=4)
    >>> images, images.costs.tolist()
    (ImageInputs((2, 3, 32, 32), 4 patches, cpu), [4, 4])
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
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[3])

    @property
    def device(self) -> torch.device:
        """The device of the pixels."""
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
    """Whether an item of a mixed list is an image: anything but a str, which is a text.

    Examples
    --------
    >>> is_image(Path("cat.jpg")), is_image("a photo of a cat")
    (True, False)
    """
    return not isinstance(value, str)


def names_image(text: str) -> bool:
    """Whether a text is the path of an image file that exists.

    Examples
    --------
    >>> from embedkit.models.inputs.images import names_image
    >>> names_image("a photo of a cat")
    False
    """
    if len(text) > 1000 or not text.lower().endswith(tuple(SUFFIXES)):
        return False
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # no possible path
        return False


def pixels_of(images: Sequence[Any], preprocess: Preprocess) -> Tensor:
    """Pixels (N, 3, H, W) of images of any kind.

    PIL images, bytes and paths go through `preprocess`. So do pixels as arrays or tensors: uint8, or floating point
    from 0 to 1, (H, W, 3), (H, W, 4) or (3, H, W), whichever the shape can mean. Pixels (3, H, W) of just the size that
    the model takes are taken as they are.

    Raises
    ------
    DataError
        For pixels of another type, range or shape.
    UserError
        When ready pixels have different types.

    Examples
    --------
    >>> pixels_of([np.zeros((40, 60, 3), dtype=np.uint8)], Preprocess(size=(32, 32))).shape
    torch.Size([1, 3, 32, 32])
    """
    ready = [_pixels(image, preprocess) for image in images]
    if not ready:
        return torch.zeros(0, 3, *preprocess.size, dtype=torch.uint8)
    if len({(pixels.shape, pixels.dtype) for pixels in ready}) > 1:
        raise UserError("images of different sizes or types in one list", remedy="bring them to one size first")
    return torch.stack(ready)


def own_pixels(images: Sequence[Any], preprocess: Preprocess) -> list[Tensor]:
    """Pixels (3, H, W) of each image in the shape that its own sides give, see `Preprocess.fitted`; as `pixels_of`.

    Examples
    --------
    >>> images = [np.zeros((40, 120, 3), dtype=np.uint8), np.zeros((50, 50, 3), dtype=np.uint8)]
    >>> [tuple(x.shape) for x in own_pixels(images, Preprocess(size=(64, 64), resize="squash", patch=16))]
    [(3, 32, 96), (3, 64, 64)]
    """
    pixels = []
    for image in images:
        if isinstance(image, np.ndarray | Tensor):
            shape = (*image.shape, 1, 1)  # what is no image is refused below
            sides = (shape[2], shape[1]) if shape[0] == 3 else (shape[1], shape[0])
        else:
            image = open_image(image)
            sides = image.size
        pixels.append(_pixels(image, preprocess.fitted(sides)))
    return pixels


_TAKEN = "give uint8 from 0 to 255 or floating point from 0.0 to 1.0, (H, W, 3) or (3, H, W)"


def _pixels(image: Any, preprocess: Preprocess) -> Tensor:
    if not isinstance(image, np.ndarray | Tensor):
        return torch.from_numpy(preprocess(image))
    pixels = image.detach().cpu() if isinstance(image, Tensor) else _tensor(image)
    _check_values(pixels)
    shape = tuple(pixels.shape)
    first, last = len(shape) == 3 and shape[0] == 3, len(shape) == 3 and shape[2] in (3, 4)
    if first and shape[1:] == preprocess.size and not (last and isinstance(image, np.ndarray)):
        return pixels
    if first and last:
        raise DataError(f"pixels of the shape {shape}: which axis holds the colours?", remedy="give a PIL image")
    if (not first and not last) or 0 in shape:
        raise DataError(f"pixels of the shape {shape} are no colour image", remedy=_TAKEN)
    if pixels.is_floating_point():
        pixels = (pixels * 255.0).round().to(torch.uint8)
    return torch.from_numpy(preprocess((pixels.permute(1, 2, 0) if first else pixels).contiguous().numpy()))


def _tensor(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except TypeError as error:
        raise DataError(f"pixels are {array.dtype}", remedy=_TAKEN) from error


def _check_values(pixels: Tensor) -> None:
    """Refuse what is neither uint8 nor floating point from 0 to 1: normalised pixels, say, or 0.0 to 255.0."""
    if pixels.dtype == torch.uint8:
        return
    kind = str(pixels.dtype).removeprefix("torch.")
    if not pixels.is_floating_point():
        raise DataError(f"pixels are {kind}", remedy=_TAKEN)
    if pixels.numel() == 0:
        return
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0.0 and high <= 1.0):  # NaN too
        what = "NaN" if low != low else f"from {low:.3g} to {high:.3g}"
        remedy = f"the model normalises by itself; {_TAKEN}" if low < 0.0 else _TAKEN
        raise DataError(f"pixels are {kind} {what}", remedy=remedy)
