"""What a tower's blocks see of an image: patches left out at random (FLIP, Li et al. 2023, section 3), patches hidden
behind a mask token (Bao et al. 2022, BEiT, section 2.3), and what a module inside gave."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.augment.counter_rng import GOLDEN, mixed


class PatchDropout(nn.Module):
    """Keeps a random share of the patch tokens of each image, in their order; (N, prefix + P, W) -> (N, prefix + K, W).

    With `seeds` what is drawn for an image is a function of its seed; without, it comes from torch's generator of the
    device. Either way a replayed forward pass draws the same patches.

    Parameters
    ----------
    rate : float
        Share that is left out.
    prefix : int
        Tokens in front (class token, registers) that always stay.

    Attributes
    ----------
    places : Tensor (N, K) of int64, or None
        Places of the patches that the last pass kept; None where it kept all.

    Examples
    --------
    >>> drop = PatchDropout(0.5, prefix=1)
    >>> drop(torch.ones(2, 1 + 8, 4)).shape, drop.eval()(torch.ones(2, 1 + 8, 4)).shape
    (torch.Size([2, 5, 4]), torch.Size([2, 9, 4]))
    """

    def __init__(self, rate: float, prefix: int) -> None:
        super().__init__()
        self.rate, self.prefix = rate, prefix
        self.seeds: np.ndarray | None = None
        self.places: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, prefix + K, W) of `x` (N, prefix + P, W); all of them outside of training."""
        self.places = None
        if not self.training or self.rate == 0.0:
            return x
        count = x.shape[1] - self.prefix
        size = max(1, int(count * (1.0 - self.rate)))
        draws = (
            torch.rand(len(x), count, device=x.device) if self.seeds is None else seeded(self.seeds, count, x.device)
        )
        self.places = draws.topk(size, dim=-1).indices.sort(dim=-1).values  # (N, K)
        places = self.places + self.prefix
        patches = x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.prefix], patches], dim=1)


@dataclass(frozen=True)
class PatchTokens:
    """What a tower makes of N images: their vectors, and the vectors of their patches.

    Attributes
    ----------
    vectors : Tensor (N, dim)
        As `ImageTower.forward` gives them.
    tokens : Tensor (N, P, W)
        Row by row of the grid, without class token and registers.
    grid : (int, int)
        Patches down and across; P is their product, unless patch dropout left some out.
    places : Tensor (N, P) of int64, optional
        The place in the grid of each token, where some were left out.
    inner : tuple of Tensor (N, P, W)
        What blocks before the last give, the nearest to it first, where they were asked for.

    Examples
    --------
    >>> tokens = PatchTokens(torch.zeros(2, 4), torch.zeros(2, 6, 8), (2, 3))
    >>> tokens.tokens.shape[1] == tokens.grid[0] * tokens.grid[1]
    True
    """

    vectors: Tensor
    tokens: Tensor
    grid: tuple[int, int]
    places: Tensor | None = None
    inner: tuple[Tensor, ...] = ()


class Patches(nn.Module):
    """What an image tower knows of the patches inside it; a tower defines what its architecture has of it.

    Examples
    --------
    >>> from embedkit.models.modules.image_towers import build_image_tower
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 12, "num_hidden_layers": 1}
    >>> tower = build_image_tower({"family": "transformers", "config": vit})
    >>> tower.tokens(torch.zeros(1, 3, 32, 32)).shape, tower.token_width, tower.prefix_tokens
    (torch.Size([1, 4, 12]), 12, 1)
    """

    encoder: Any
    dim: int
    size: tuple[int, int]
    blocks: Callable[[], list[nn.Module]]

    def tokens(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> vectors of patches (N, P, W), row by row of the grid.

        Raises
        ------
        ModelError
            When the architecture has no patches and no feature map that is known here.
        """
        return self.patch_tokens(pixels).tokens

    def patch_tokens(
        self, pixels: Tensor, cover: Tensor | None = None, filler: Tensor | None = None, blocks: int = 0
    ) -> PatchTokens:  # fmt: skip
        """Vectors of images and of their patches, in one pass.

        Parameters
        ----------
        pixels : Tensor (N, 3, H, W)
            Normalised.
        cover : Tensor (N, h w) of bool, optional
            Patches that are hidden: `filler` stands in their place before positions are added.
        filler : Tensor (token_width,), optional
            The mask token.
        blocks : int
            Blocks before the last whose patches are given too.

        Raises
        ------
        ModelError
            When the architecture has no patches, or none that can be hidden.
        """
        with contextlib.ExitStack() as stack:
            records = [stack.enter_context(recording(block)) for block in self.inner_blocks(blocks)]
            if cover is not None and filler is not None:
                stack.enter_context(covering(self.patch_embedding(), cover, filler))
            vectors, features = self.features(pixels)
        if features.dim() == 4:  # (N, W, h, w)
            return PatchTokens(vectors, features.flatten(2).transpose(1, 2), sides(features))
        tokens, pixel_sides = features[:, self.prefix_tokens :], sides(pixels)
        down, across = (round(n * s / own) for n, s, own in zip(self.grid(), pixel_sides, self.size, strict=True))
        outputs = [record[0] for record in records]  # of which some libraries give a tuple
        rows = [output[0] if isinstance(output, tuple) else output for output in outputs]
        inner = tuple(row[:, self.prefix_tokens :] for row in rows)
        for module in self.encoder.modules():
            if isinstance(module, PatchDropout) and module.places is not None:
                return PatchTokens(vectors, tokens, (down, across), module.places, inner)
        return PatchTokens(vectors, tokens, grid_of(tokens.shape[1], (down, across), pixel_sides), inner=inner)

    def inner_blocks(self, count: int) -> list[nn.Module]:
        """So many blocks before the last one, the nearest to it first.

        Raises
        ------
        ModelError
            There are fewer, or they give no row of patches.
        """
        if not count:
            return []
        try:
            self.patch_embedding()
        except ModelError as error:
            raise ModelError("this image tower has no row of patches, of which several layers are to be read",
                             where="model.towers.image", remedy="use a ViT, or one layer") from error  # fmt: skip
        blocks = self.blocks()
        if len(blocks) <= count:
            raise ModelError(f"{count + 1} layers are to be read of {len(blocks)}", where="model.towers.image",
                             remedy=f"read {max(1, len(blocks))} at most")  # fmt: skip
        return blocks[-2 : -2 - count : -1]

    @property
    def token_width(self) -> int:
        """W, the size of a patch's vector."""
        return self.dim

    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        raise ModelError("this image tower has no grid", remedy="define grid() in the tower")

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches' (class token, registers)."""
        return 0

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the last layer: tokens (N, prefix + P, W) or a map (N, W, h, w)."""
        raise ModelError(
            "this image tower gives no vectors of patches", where="model.towers.image",
            remedy="use a ViT or a ResNet, or define features(pixels) in the tower",
        )  # fmt: skip

    def patch_embedding(self) -> nn.Module:
        """The module that makes pixels into patches, before positions are added."""
        raise ModelError("no patches of this image tower can be hidden", where="model.towers.image", remedy="use a ViT")


def grid_of(count: int, usual: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The grid of `count` places: the usual one, or the one of the same shape as the image's.

    Raises
    ------
    ModelError
        When there is none.

    Examples
    --------
    >>> grid_of(16, (4, 4), (32, 32)), grid_of(8, (8, 16), (64, 128))
    ((4, 4), (2, 4))
    """
    high = round((count * size[0] / size[1]) ** 0.5)
    if count == usual[0] * usual[1]:
        return usual
    if high < 1 or high * round(high * size[1] / size[0]) != count:
        raise ModelError(
            f"{count} vectors are no grid of an image of {size[0]} x {size[1]}", where="model.towers.image",
            remedy="use a ViT or a ResNet",
        )  # fmt: skip
    return high, count // high


def sides(maps: Tensor) -> tuple[int, int]:
    """Height and width of maps or pixels (N, C, h, w).

    Examples
    --------
    >>> sides(torch.zeros(1, 3, 4, 5))
    (4, 5)
    """
    return int(maps.shape[2]), int(maps.shape[3])


@contextlib.contextmanager
def covering(embedding: nn.Module, cover: Tensor, filler: Tensor) -> Iterator[None]:
    """Inside, what `embedding` makes of the patches of `cover` (N, P) is `filler` (W,), a mask token.

    `embedding` gives tokens (N, P, W) or a map (N, W, h, w) or (N, h, w, W).

    Raises
    ------
    ModelError
        When `cover` is not of the grid.

    Examples
    --------
    >>> patches = nn.Conv2d(3, 4, 8, 8)
    >>> with covering(patches, torch.tensor([[True, False]]), torch.ones(4)):
    ...     patches(torch.zeros(1, 3, 8, 16)).shape
    torch.Size([1, 4, 1, 2])
    """

    def hide(module: Any, inputs: Any, output: Tensor) -> Tensor:
        width = len(filler)
        is_map, last = output.dim() == 4, output.shape[-1] == width
        down, across = (output.shape[1:3] if last else output.shape[2:4]) if is_map else (1, output.shape[1])
        if cover.shape != (len(output), down * across):
            raise ModelError(f"a mask of {tuple(cover.shape)} patches for {down * across} of {len(output)} images",
                             where="the image tower", remedy="make it of the tower's grid")  # fmt: skip
        here = cover.view(len(output), down, across) if is_map else cover
        if is_map and not last:
            return torch.where(here[:, None], filler[None, :, None, None].to(output), output)
        return torch.where(here[..., None], filler.to(output), output)

    hook = embedding.register_forward_hook(hide)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def recording(module: nn.Module) -> Iterator[list[Any]]:
    """A list to which every output of `module` is added.

    Examples
    --------
    >>> layer = nn.Linear(2, 3)
    >>> with recording(layer) as outputs:
    ...     _ = nn.Sequential(layer, nn.ReLU())(torch.zeros(1, 2))
    >>> [output.shape for output in outputs]
    [torch.Size([1, 3])]
    """
    outputs: list[Any] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


def seeded(seeds: np.ndarray, count: int, device: torch.device) -> Tensor:
    """Random sort keys of `count` places for each seed, int64 (N, count): SplitMix64 over a counter.

    Examples
    --------
    >>> seeded(np.array([1, 2]), 4, torch.device("cpu")).argsort().tolist()
    [[3, 0, 1, 2], [0, 2, 1, 3]]
    """
    with np.errstate(over="ignore"):
        x = mixed(seeds.astype(np.uint64)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
    return torch.from_numpy((x >> np.uint64(1)).astype(np.int64)).to(device)


def drop_patches(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """The output of an embedding layer without the patches that its `PatchDropout` leaves out; a forward hook.

    Examples
    --------
    >>> embeddings = nn.Identity()
    >>> embeddings.patch_dropout = PatchDropout(0.5, prefix=1)
    >>> _ = embeddings.register_forward_hook(drop_patches)
    >>> embeddings(torch.ones(2, 1 + 8, 4)).shape
    torch.Size([2, 5, 4])
    """
    return module.patch_dropout(output)
