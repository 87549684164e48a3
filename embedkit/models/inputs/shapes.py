"""Prepared images that each have a shape of their own: rows of patches, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedkit.errors import UserError


class ShapedImages:
    """N images, each of whole patches, as many down and across as its own shape has.

    Parameters
    ----------
    pixels : Tensor (P, 3, side, side)
        The patches of all images, image by image, row by row of its grid: uint8 from 0 to 255, or floating point from 0
        to 1; not normalised.
    shapes : array (N, 2) of int64
        Patches of each image down and across; P is the sum of their products.
    data : mapping of str to array (N, ...), optional
        Further values of each image, see `ImageInputs`.

    Examples
    --------
    >>> images = ShapedImages.of([torch.zeros(3, 16, 32), torch.zeros(3, 24, 8)], side=8)
    >>> images, images.costs.tolist(), images.select([1]).pixels.shape
    (ShapedImages(2, 11 patches, cpu), [8, 3], torch.Size([3, 3, 8, 8]))
    """

    __slots__ = ("data", "pixels", "shapes")

    def __init__(self, pixels: Tensor, shapes: np.ndarray, data: Mapping[str, np.ndarray] | None = None) -> None:
        self.pixels, self.shapes = pixels, shapes
        self.data: dict[str, np.ndarray] = dict(data or {})

    @staticmethod
    def of(images: Sequence[Tensor], side: int) -> ShapedImages:
        """Images (3, H, W) of one type in patches of `side` pixels, which divides each H and W.

        Raises
        ------
        UserError
            For images of several types.
        """
        if len({image.dtype for image in images}) > 1:
            raise UserError("images of different types in one list", remedy="give all as uint8, or all as floats")
        shapes = np.array([(image.shape[1] // side, image.shape[2] // side) for image in images], dtype=np.int64)
        rows = [patch_rows(image[None], side)[0] for image in images]
        pixels = torch.cat(rows) if rows else torch.zeros(0, 3, side, side, dtype=torch.uint8)
        return ShapedImages(pixels, shapes.reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.shapes)

    def __repr__(self) -> str:
        return f"ShapedImages({len(self)}, {len(self.pixels)} patches, {self.device})"

    @property
    def costs(self) -> np.ndarray:
        """Patches of each image, int64 (N,)."""
        return self.shapes.prod(axis=1)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """The device of the pixels."""
        return self.pixels.device

    def select(self, indices: Any) -> ShapedImages:
        """The images at `indices` (integers, repeats allowed, or a slice), in that order."""
        index = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        index = index.reshape(-1)
        ends = np.cumsum(self.costs)
        rows = [np.arange(ends[i] - cost, ends[i]) for i, cost in zip(index, self.costs[index], strict=True)]
        places = torch.from_numpy(np.concatenate([*rows, np.empty(0, np.int64)])).to(self.device)
        data = {name: value[index] for name, value in self.data.items()}
        return ShapedImages(self.pixels.index_select(0, places), self.shapes[index], data)

    def replace(self, **data: Any) -> ShapedImages:
        """The same images with these further values of each."""
        added = {name: np.asarray(value) for name, value in data.items()}
        return ShapedImages(self.pixels, self.shapes, {**self.data, **added})

    @staticmethod
    def concat(parts: Sequence[ShapedImages]) -> ShapedImages:
        """All images of `parts`, in order.

        Raises
        ------
        UserError
            When `parts` is empty, or its pixels differ in type or patches in size.
        """
        if not parts:
            raise UserError("nothing to concatenate")
        if len({(part.pixels.shape[1:], part.pixels.dtype) for part in parts}) > 1:
            raise UserError("images of different types or patches cannot be joined", remedy="give them other settings")
        shared = set.intersection(*(set(part.data) for part in parts))
        data = {name: np.concatenate([part.data[name] for part in parts]) for name in sorted(shared)}
        pixels, shapes = torch.cat([part.pixels for part in parts]), np.concatenate([part.shapes for part in parts])
        return ShapedImages(pixels, shapes, data)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> ShapedImages:
        """The same images on `device`."""
        return ShapedImages(self.pixels.to(device, non_blocking=non_blocking), self.shapes, self.data)


def patch_rows(images: Tensor, side: int) -> Tensor:
    """The patches (N, h w, 3, side, side) of images (N, 3, h side, w side), row by row of the grid.

    Examples
    --------
    >>> patch_rows(torch.zeros(2, 3, 16, 32), 8).shape
    torch.Size([2, 8, 3, 8, 8])
    """
    high, wide = images.shape[2] // side, images.shape[3] // side
    parts = images[..., : high * side, : wide * side].reshape(len(images), 3, high, side, wide, side)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def of_each_shape(pixels: Tensor, shapes: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
    """For each shape the places of its images, int64 (n,), and their pixels (n, 3, H, W).

    Examples
    --------
    >>> images = ShapedImages.of([torch.zeros(3, 16, 32), torch.ones(3, 24, 8), torch.ones(3, 16, 32)], side=8)
    >>> [(places.tolist(), tuple(x.shape)) for places, x in of_each_shape(images.pixels, images.shapes)]
    [([0, 2], (2, 3, 16, 32)), ([1], (1, 3, 24, 8))]
    """
    starts = np.cumsum(shapes.prod(axis=1)) - shapes.prod(axis=1)
    places: dict[tuple[int, int], list[int]] = {}
    for place, (high, wide) in enumerate(shapes.tolist()):
        places.setdefault((high, wide), []).append(place)
    for (high, wide), own in places.items():
        rows = torch.from_numpy((starts[own][:, None] + np.arange(high * wide)).reshape(-1)).to(pixels.device)
        parts = pixels.index_select(0, rows).unflatten(0, (len(own), high, wide))  # (n, h, w, 3, side, side)
        images = parts.permute(0, 3, 1, 4, 2, 5)
        yield np.array(own, dtype=np.int64), images.flatten(4, 5).flatten(2, 3)
