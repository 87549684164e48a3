"""Image towers: pixels to one vector an image, through open_clip's, timm's or transformers' own modules.

The modules keep their names and their weights' names, so that folders of those libraries are read and written without
touching a number.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.errors import MissingExtraError, ModelError, nearest
from embedkit.models.modules.patch_dropout import PatchDropout, place_patch_dropout

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
POOLINGS = ("cls", "mean", "pooler")


class ImageTower(nn.Module):
    """Base class of image towers.

    Attributes
    ----------
    family : str
        "open_clip" (its own towers, and timm's through it) or "transformers".
    encoder : nn.Module
        The library's module; its state dict is never changed.
    dim : int
        Size of a vector.
    size : (int, int)
        Height and width of the images.
    patches : int
        What one image costs: patches, or places of the last feature map.
    """

    family = ""
    encoder: Any
    dim: int
    size: tuple[int, int]
    patches: int
    freeze_batch_norm: bool = False
    patch_dropout: float = 0.0

    def train(self, mode: bool = True) -> ImageTower:
        """Training or evaluation mode; frozen batch normalisation stays in evaluation mode."""
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
        """Leave out a share of the patches in training (FLIP, Li et al. 2023, section 3).

        Raises
        ------
        ModelError
            When the tower does not work on a row of patches.
        """
        self.patch_dropout = rate
        place_patch_dropout(self, rate)

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

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        raise TypeError(f"{type(self).__name__} does not define forward")

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

    def spec(self) -> dict[str, Any]:
        """What `build_image_tower` needs to make this tower again, as plain JSON values."""
        raise TypeError(f"{type(self).__name__} does not define spec")


class OpenClipTower(ImageTower):
    """A vision tower of open_clip: its ViT, its ResNet, or any timm model, made from a ``vision_cfg``.

    Parameters
    ----------
    dim : int
        Size of a vector; open_clip's towers end in their own projection.
    config : dict
        open_clip's ``vision_cfg``.
    quick_gelu : bool
        x · sigmoid(1.702 x) instead of GELU, as in OpenAI's weights.

    Raises
    ------
    MissingExtraError
        When open_clip is not installed.
    ModelError
        When the configuration is none of open_clip's.
    """

    family = "open_clip"

    def __init__(self, dim: int, config: dict[str, Any], quick_gelu: bool = False) -> None:
        super().__init__()
        need("open_clip", "clip", "an open_clip image tower")
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        if ":" in str(config.get("timm_model_name") or ""):  # hf-hub:.. and local-dir:.. would be read from there
            raise ModelError(
                f"timm_model_name {config['timm_model_name']!r} is no name of timm's own", where="model.towers.image",
                remedy="give the name of an architecture of timm",
            )  # fmt: skip
        self.dim, self.config, self.quick_gelu = dim, dict(config), quick_gelu
        try:
            settings = CLIPVisionCfg(**copy.deepcopy(config))
            self.encoder = _build_vision_tower(dim, settings, quick_gelu)
        except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
            raise ModelError(f"not a vision_cfg of open_clip ({error})", where="model.towers.image") from error
        self.size = _pair(settings.image_size)
        patch = 32 if settings.timm_model_name else settings.patch_size or 32  # none in a ResNet, which ends in 1/32
        self.patches = _grid(self.size, patch)
        if settings.timm_model_name:
            self.config.pop("timm_model_pretrained", None)  # the weights are here now
            self._fit_timm()

    def _fit_timm(self) -> None:
        embed = getattr(self.encoder.trunk, "patch_embed", None)
        if embed is not None and hasattr(embed, "num_patches"):
            self.patches = int(embed.num_patches)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        found = self.encoder(pixels)
        return found[0] if isinstance(found, tuple) else found

    def gradient_checkpointing_enable(self) -> None:
        """See `ImageTower`."""
        from open_clip.model import ModifiedResNet

        if isinstance(self.encoder, ModifiedResNet):
            super().gradient_checkpointing_enable()
        self.encoder.set_grad_checkpointing(True)

    def spec(self) -> dict[str, Any]:
        """See `ImageTower`."""
        return {"family": self.family, "dim": self.dim, "config": self.config, "quick_gelu": self.quick_gelu}


class TransformersTower(ImageTower):
    """A vision model of transformers.

    Parameters
    ----------
    encoder : PreTrainedModel
        ViT, CLIP vision, SigLIP vision, DINOv2 (with registers), or another with ``pixel_values``.
    pooling : str, optional
        "cls" (first token), "mean" (patch tokens), or "pooler" (the model's own); "pooler" where the architecture's
        pooler is trained (CLIP, SigLIP), else "cls".
    """

    family = "transformers"

    def __init__(self, encoder: Any, pooling: str | None = None) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        own = config.model_type in ("clip_vision_model", "siglip_vision_model")
        self.pooling = pooling or ("pooler" if own else "cls")
        if self.pooling not in POOLINGS:
            raise ModelError(
                f"unknown pooling {self.pooling!r}", where="model.towers.image.pooling",
                remedy=nearest(self.pooling, POOLINGS),
            )  # fmt: skip
        self.dim = int(config.hidden_size)
        self.size = _pair(config.image_size)
        self.patches = _grid(self.size, config.patch_size)
        no_cls = config.model_type == "siglip_vision_model"
        self.prefix = 0 if no_cls else 1 + int(getattr(config, "num_register_tokens", 0))
        if no_cls and self.pooling == "cls":
            raise ModelError("a SigLIP tower has no class token", remedy="set pooling to 'pooler' or 'mean'")

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        output = self.encoder(pixel_values=pixels)
        if self.pooling == "pooler":
            return output.pooler_output
        hidden = output.last_hidden_state  # (N, prefix + patches, dim)
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, self.prefix :].mean(1)

    def gradient_checkpointing_enable(self) -> None:
        """See `ImageTower`."""
        self.encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def spec(self) -> dict[str, Any]:
        """See `ImageTower`."""
        return {"family": self.family, "config": plain_config(self.encoder.config), "pooling": self.pooling}


def plain_config(config: Any) -> dict[str, Any]:
    """A transformers configuration as JSON values, without what only says where it came from."""
    said = config.to_diff_dict()
    for key in ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"):
        said.pop(key, None)
    return {**said, "model_type": config.model_type}


def build_image_tower(spec: dict[str, Any]) -> ImageTower:
    """A randomly initialised tower of a `spec`.

    Raises
    ------
    ModelError
        When the spec names nothing that can be built.
    """
    spec = dict(spec)
    family = spec.pop("family")
    if family == "open_clip":
        return OpenClipTower(**spec)
    if family != "transformers":
        raise ModelError(f"unknown family of image towers {family!r}", remedy="known: open_clip, transformers")
    return TransformersTower(new_vision_model(spec["config"]), spec.get("pooling"))


def new_vision_model(settings: dict[str, Any]) -> Any:
    """A randomly initialised vision model of a transformers configuration with ``model_type``."""
    from transformers import AutoConfig, AutoModel

    settings = dict(settings)
    kind = settings.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **settings)
        if not hasattr(config, "image_size") or not hasattr(config, "patch_size"):
            raise ValueError(f"{kind} has no image_size and patch_size")
        return AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"no vision model of transformers ({error})", where="model.towers.image.config") from error


def need(package: str, extra: str, purpose: str) -> None:
    """Refuse with the name of the extra when `package` is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _grid(size: tuple[int, int], patch: Any) -> int:
    high, wide = _pair(patch)
    return max(1, size[0] // high) * max(1, size[1] // wide)


def channel_factors(
    mean: tuple[float, ...], std: tuple[float, ...], full: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1) that normalise values up to `full`: x · scale - shift."""
    scale = torch.tensor([1.0 / (full * s) for s in std], dtype=torch.float64)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
    return scale.to(like)[:, None, None], shift.to(like)[:, None, None]
