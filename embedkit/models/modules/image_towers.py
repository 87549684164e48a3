"""Image towers: pixels to one vector an image, through open_clip's, timm's or transformers' own modules.

The modules keep their names and their weights' names, so that folders of those libraries are read and written without
touching a number.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import ModelError, UserError
from embedkit.models.inputs.shapes import of_each_shape
from embedkit.models.modules.patches import PatchDropout, Patches
from embedkit.registry import Registry, derived_from

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class ImageTower(Patches, ABC):
    """Base class of image towers.

    A new tower is a file in ``embedkit/models/towers/`` with a class that `image_towers` registers.

    Attributes
    ----------
    family : str
        The library whose names the weights have, as a saved folder says it: "open_clip" or "transformers".
    options : tuple of str
        Keys of a recipe's ``towers.image`` that `from_config` takes beside the configuration.
    pooling : str or None
        How token vectors become one, where that can be chosen.
    is_usual : bool
        Whether a configuration that no other tower takes is one of this tower's.
    ends_in_projection : bool
        Whether the library's module ends in a projection to the size asked for.
    encoder : nn.Module
        The library's module; its state dict is never changed.
    dim : int
        Size of a vector.
    size : (int, int)
        Height and width of the images.
    patches : int
        What one image costs: patches, or places of the last feature map.

    Examples
    --------
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 12, "num_hidden_layers": 1}
    >>> tower = build_image_tower({"family": "transformers", "config": vit})
    >>> tower.dim, tower.size, tower.grid(), tower.patches
    (12, (32, 32), (2, 2), 4)
    >>> tower(torch.zeros(2, 3, 32, 32)).shape, tower.tokens(torch.zeros(2, 3, 32, 32)).shape
    (torch.Size([2, 12]), torch.Size([2, 4, 12]))
    """

    family = ""
    encoder: Any
    dim: int
    size: tuple[int, int]
    patches: int
    options: tuple[str, ...] = ()
    pooling: str | None = None
    is_usual: bool = False
    ends_in_projection: bool = False
    freeze_batch_norm: bool = False
    patch_dropout: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[tuple[int, int], tuple[dict[str, int], tuple[int, int], dict[str, Tensor]]] = {}

    def train(self, mode: bool = True) -> ImageTower:
        """The tower itself, in training or evaluation mode; frozen batch normalisation stays in evaluation mode."""
        super().train(mode)
        for module in self.encoder.modules() if mode and not self.mixes_images else ():
            if isinstance(module, BATCH_NORMS):
                module.eval()
        return self

    @property
    def mixes_images(self) -> bool:
        """Whether in training the vector of an image depends on the other images: batch normalisation, not frozen."""
        frozen = self.freeze_batch_norm or not any(p.requires_grad for p in self.parameters())
        return not frozen and any(isinstance(module, BATCH_NORMS) for module in self.encoder.modules())

    def set_patch_dropout(self, rate: float) -> None:
        """Leave a share of the patches out in training (FLIP, Li et al. 2023, section 3).

        Raises
        ------
        ModelError
            When the tower does not work on a row of patches.
        """
        if not self.place_patch_dropout(rate):
            raise ModelError(
                "this image tower has no row of patches to drop from", where="model.towers.image.patch_dropout",
                remedy="leave it out, or use a ViT",
            )  # fmt: skip
        self.patch_dropout = rate

    def place_patch_dropout(self, rate: float) -> bool:
        """Whether a `PatchDropout` was put where the patches have got their positions; False where there are none."""
        return False

    @contextlib.contextmanager
    def leaving_out(self, rate: float) -> Iterator[None]:
        """Leave another share of the patches out inside, in training; `set_patch_dropout` comes first."""
        drops = [module for module in self.encoder.modules() if isinstance(module, PatchDropout)]
        before = [drop.rate for drop in drops]
        for drop in drops:
            drop.rate = rate
        try:
            yield
        finally:
            for drop, own in zip(drops, before, strict=True):
                drop.rate = own

    @classmethod
    @abstractmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """Whether `config` of a recipe or a folder is one of this tower's."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], dim: int, options: dict[str, Any]) -> ImageTower:
        """A random tower of a recipe's configuration, for a shared space of size `dim`; options are constructor
        arguments that the recipe names (``pooling``, ``quick_gelu``)."""

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> ImageTower:
        """A random tower of what `spec` returned, without ``family``."""
        return cls(**spec)

    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""

    @abstractmethod
    def rebuilt(self, size: tuple[int, int]) -> ImageTower:
        """The same architecture with random weights, for images of another size."""

    def weights_for(self, other: ImageTower) -> dict[str, Tensor]:
        """The encoder's weights for `other`, which `rebuilt` returned: tables of positions are resampled.

        Raises
        ------
        ModelError
            When a weight belongs to the size of the images and is no table of positions.
        """
        old, new = self.encoder.state_dict(), other.encoder.state_dict()
        prefixes = self.table_prefixes(other)
        for name, tensor in new.items():
            if name in prefixes:
                new[name] = resample_positions(old[name], prefixes[name], self.grid(), other.grid())
            else:
                new[name] = old[name] if old[name].shape == tensor.shape else tensor
        return dict(new)

    def table_prefixes(self, other: ImageTower) -> dict[str, int]:
        """The tables of positions, by name, that differ in size from those of `other`, which `rebuilt` returned, with
        the number of their rows that belong to no patch.

        Raises
        ------
        ModelError
            When a weight belongs to the size of the images and is no table of positions.
        """
        old, new, prefixes = self.encoder.state_dict(), other.encoder.state_dict(), {}
        for name, tensor in new.items():
            if old[name].shape == tensor.shape or not tensor.is_floating_point():
                continue
            prefix = old[name].shape[-2] - product(self.grid()) if old[name].ndim > 1 else -1
            fits = prefix >= 0 and tensor.shape[-2] - product(other.grid()) == prefix
            if not fits or old[name].shape[-1] != tensor.shape[-1]:
                raise ModelError(
                    f"{name} belongs to images of {self.size[0]} x {self.size[1]}",
                    where="model.towers.image.preprocess", remedy="leave preprocess.size out, and sizes of views",
                )  # fmt: skip
            prefixes[name] = prefix
        return prefixes

    def patches_of(self, size: tuple[int, int]) -> int:
        """What one image of another size costs, in patches."""
        return max(1, round(self.patches * product(size) / product(self.size)))

    @contextlib.contextmanager
    def sized(self, size: tuple[int, int]) -> Iterator[None]:
        """Take images of another size inside: tables of positions are resampled at each pass, and learn through it.

        Raises
        ------
        ModelError
            When the architecture takes one size only, or its weights are spread over processes.
        """
        if size == self.size:
            yield
            return
        tables, grid, constants = self._resizing(size)
        parameters = dict(self.encoder.named_parameters())
        if any(hasattr(parameters[name], "full_tensor") for name in tables):
            raise ModelError(
                "views of several sizes need whole tables of positions", where="method.views",
                remedy="train without sharding, or give all views the model's size",
            )  # fmt: skip
        places = [(*_place(self.encoder, name), resample_positions(parameters[name], prefix, self.grid(), grid))
                  for name, prefix in tables.items()]  # fmt: skip
        places += [(*_place(self.encoder, name), value.to(parameters[next(iter(parameters))].device))
                   for name, value in constants.items()]  # fmt: skip
        before = [(store, key, store[key]) for store, key, _ in places]
        try:
            for store, key, value in places:
                store[key] = value
            yield
        finally:
            for store, key, value in before:
                store[key] = value

    def _resizing(self, size: tuple[int, int]) -> tuple[dict[str, int], tuple[int, int], dict[str, Tensor]]:
        """Tables of positions with their prefixes, the new grid, and constants of that size; found once a size."""
        if size not in self._sizes:
            patch = [side // count for side, count in zip(self.size, self.grid(), strict=True)]
            if size[0] < patch[0] or size[1] < patch[1]:
                raise ModelError(
                    f"images of {size[0]} x {size[1]} pixels are smaller than a patch, {patch[0]} x {patch[1]}",
                    where="method.views", remedy="give larger sizes",
                )  # fmt: skip
            with torch.random.fork_rng(devices=[]):
                other = self.rebuilt(size)
            same = other.encoder is self.encoder
            if not other.encoder.state_dict().keys() <= self.encoder.state_dict().keys():
                raise ModelError("images of several sizes go through no adapters", where="model.towers.image.lora",
                                 remedy="train without it, or give every image of method.views the model's size, "
                                 f"{self.size[0]} x {self.size[1]}")  # fmt: skip
            buffers = {} if same else dict(other.encoder.named_buffers())
            constants = {
                name: buffers[name] for name, now in self.encoder.named_buffers()
                if name in buffers and buffers[name].shape != now.shape
            }  # fmt: skip
            self._sizes[size] = ({} if same else self.table_prefixes(other), other.grid(), constants)
        return self._sizes[size]

    @contextlib.contextmanager
    def drawing(self, seeds: np.ndarray | None) -> Iterator[None]:
        """Draw what is random for each image from its seed inside."""
        drops = [module for module in self.encoder.modules() if isinstance(module, PatchDropout)]
        for drop in drops:
            drop.seeds = seeds
        try:
            yield
        finally:
            for drop in drops:
                drop.seeds = None

    def shaped(self, pixels: Tensor, shapes: np.ndarray, seeds: np.ndarray | None = None) -> Tensor:
        """Vectors (N, dim) of images that each have a shape of their own; those of one shape share a pass.

        Parameters
        ----------
        pixels : Tensor (P, 3, side, side)
            The normalised patches of all images, see `ShapedImages`.
        shapes : array (N, 2) of int64
            Patches of each image down and across.
        seeds : array (N,) of uint64, optional
            See `drawing`.
        """
        places, vectors = [], []
        for own, images in of_each_shape(pixels, shapes):
            size = int(images.shape[2]), int(images.shape[3])
            with self.drawing(None if seeds is None else seeds[own]), self.sized(size):
                vectors.append(self(images))
            places.append(own)
        if not vectors:
            return pixels.new_zeros(0, self.dim)
        order = torch.from_numpy(np.argsort(np.concatenate(places))).to(pixels.device)
        return torch.cat(vectors).index_select(0, order)

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""

    def blocks(self) -> list[nn.Module]:
        """The blocks, first to last; empty for towers that are no stack of blocks."""
        stacks = [m for m in self.encoder.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 1]
        equal = [stack for stack in stacks if len({type(block) for block in stack}) == 1]
        return list(max(equal, key=lambda stack: sum(p.numel() for p in stack.parameters()), default=[]))

    def gradient_checkpointing_enable(self) -> None:
        """Keep one activation a block in training and compute the others again (Chen et al. 2016).

        Raises
        ------
        ModelError
            When the library's module cannot do that.
        """
        raise ModelError("this image tower has no checkpointing", remedy="leave train.gradient_checkpointing out")

    def compile_layers(self) -> None:
        """Compile the blocks with torch.compile."""
        for block in self.blocks():
            block.compile()

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What `build_image_tower` needs to make this tower again, as plain JSON values."""


image_towers: Registry[type[ImageTower]] = Registry(
    "image tower",
    "embedkit.models.towers",
    plugins="embedkit.towers",
    adopt=derived_from(ImageTower, "image tower", "derive it from embedkit.models.modules.image_towers.ImageTower"),  # type: ignore[type-abstract]
)
"""Image towers by name; a recipe's ``towers.image.config`` names one as ``family``, or its keys tell."""


def tower_class(config: dict[str, Any], family: str | None = None) -> type[ImageTower]:
    """The tower that takes a configuration.

    Parameters
    ----------
    config : dict
        Of a recipe or a folder.
    family : str, optional
        Only towers of this family, as a saved folder says it.

    Raises
    ------
    ModelError
        When there is none.

    Examples
    --------
    >>> tower_class({"model_type": "vit"}).__name__, tower_class({"timm_model_name": "vit_tiny_patch16_224"}).__name__
    ('TransformersTower', 'TimmTower')
    """
    families = sorted({tower.family for _, tower in image_towers.items()})
    if family is not None and family not in families:
        raise ModelError(f"unknown family of image towers {family!r}", remedy=f"known: {', '.join(families)}")
    for _, tower in sorted(image_towers.items(), key=lambda entry: entry[1].is_usual):
        if family in (None, tower.family) and tower.takes(config):
            return tower
    raise ModelError(
        "no image tower takes this configuration", where="model.towers.image.config",
        remedy="give model_type (transformers), timm_model_name (timm), or a vision_cfg of open_clip",
    )  # fmt: skip


def build_image_tower(spec: dict[str, Any]) -> ImageTower:
    """A randomly initialised tower of a `spec`.

    Raises
    ------
    ModelError
        When the spec names nothing that can be built.

    Examples
    --------
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 12, "num_hidden_layers": 1}
    >>> tower = build_image_tower({"family": "transformers", "config": vit})
    >>> tower.dim, tower.size
    (12, (32, 32))
    """
    settings = dict(spec)
    return tower_class(settings.get("config") or {}, settings.pop("family")).from_spec(settings)


def named_tower(config: dict[str, Any]) -> tuple[type[ImageTower], dict[str, Any]]:
    """The tower that a recipe's configuration names (``family``) or tells by its keys, and the rest of the keys.

    Raises
    ------
    UserError
        When there is no tower of that name.

    Examples
    --------
    >>> tower, settings = named_tower({"family": "timm", "timm_model_name": "vit_tiny_patch16_224"})
    >>> tower.__name__, settings
    ('TimmTower', {'timm_model_name': 'vit_tiny_patch16_224'})
    """
    settings = dict(config)
    name = settings.pop("family", None)
    if name is None:
        return tower_class(settings), settings
    if name not in image_towers:
        raise UserError(
            f"unknown image tower {name!r}", where="model.towers.image.config.family",
            remedy=f"known: {', '.join(image_towers)}",
        )  # fmt: skip
    return image_towers[name], settings


def resized(tower: ImageTower, size: tuple[int, int]) -> ImageTower:
    """The tower for images of another size; a table of positions is resampled as timm and open_clip do it.

    Raises
    ------
    ModelError
        When the architecture takes one size only.

    Examples
    --------
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 12, "num_hidden_layers": 1}
    >>> tower = build_image_tower({"family": "transformers", "config": vit})
    >>> tower.patches, resized(tower, (64, 32)).patches
    (4, 8)
    """
    if size == tower.size:
        return tower
    other = tower.rebuilt(size)
    if other.encoder is tower.encoder:
        return other.train(tower.training)
    other.to(next(tower.parameters()))  # before its weights come, which would lose digits on the way
    other.encoder.load_state_dict(tower.weights_for(other))
    return other.train(tower.training)


def resample_positions(table: Tensor, prefix: int, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A table of positions (..., prefix + h w, W) for another grid of patches: bicubic with antialiasing, the `prefix`
    rows in front (class token, registers) as they are.

    Examples
    --------
    >>> table = torch.zeros(1, 1 + 4, 8)
    >>> resample_positions(table, prefix=1, old=(2, 2), new=(3, 3)).shape
    torch.Size([1, 10, 8])
    """
    front, rows = table[..., :prefix, :], table[..., prefix:, :]
    image = rows.reshape(1, *old, -1).permute(0, 3, 1, 2)
    image = image if image.dtype == torch.float64 else image.float()
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    rows = image.permute(0, 2, 3, 1).reshape(*rows.shape[:-2], product(new), -1)
    return torch.cat([front, rows.to(table.dtype)], dim=-2)


def _place(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module keeps a parameter or buffer: the mapping and the key in it."""
    path, _, key = name.rpartition(".")
    owner = module.get_submodule(path)
    return (owner._parameters if key in owner._parameters else owner._buffers), key  # type: ignore[return-value]


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that may be one number.

    Examples
    --------
    >>> from embedkit.models.modules.image_towers import pair
    >>> pair(32), pair([32, 64])
    ((32, 32), (32, 64))
    """
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def grid(size: tuple[int, int], patch: Any) -> tuple[int, int]:
    """Patches down and across of an image of `size`.

    Examples
    --------
    >>> grid((224, 224), 16), grid((224, 192), [16, 32])
    ((14, 14), (14, 6))
    """
    high, wide = pair(patch)
    return max(1, size[0] // high), max(1, size[1] // wide)


def product(sides: tuple[int, int]) -> int:
    """The number of patches of a grid.

    Examples
    --------
    >>> product((14, 12))
    168
    """
    return sides[0] * sides[1]


def channel_factors(
    mean: tuple[float, ...], std: tuple[float, ...], full: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1) that normalise values up to `full`: x · scale - shift.

    Examples
    --------
    >>> scale, shift = channel_factors((0.5,) * 3, (0.5,) * 3, 255.0, torch.zeros(1))
    >>> scale.shape, (255 * scale - shift).flatten().tolist()
    (torch.Size([3, 1, 1]), [1.0, 1.0, 1.0])
    """
    scale = torch.tensor([1.0 / (full * s) for s in std], dtype=torch.float64)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
    return scale.to(like)[:, None, None], shift.to(like)[:, None, None]
