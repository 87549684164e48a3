"""Image towers of timm, through open_clip."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.modules.image_towers import ImageTower, image_towers, pair
from embedkit.models.modules.patches import PatchDropout
from embedkit.models.towers.open_clip import OpenClipTower


@image_towers.add("timm")
class TimmTower(OpenClipTower):
    """Any model of timm, made by open_clip from a ``vision_cfg`` with ``timm_model_name``.

    Where ``image_size`` is not the one that the name stands for, timm interpolates the positions.

    Parameters
    ----------
    dim, config, quick_gelu
        See `OpenClipTower`.

    Attributes
    ----------
    has_new_positions : bool
        Whether the positions were interpolated for another image size.
    usual_size : str
        The image size that the name stands for, in words; empty where any size will do.

    Raises
    ------
    ModelError
        When timm has no such model, or the model takes images of one size only, which is not ``image_size``.

    Examples
    --------
    >>> tower = TimmTower(4, {"timm_model_name": "vit_tiny_patch16_224", "timm_proj": "linear", "image_size": 64})
    >>> tower.size, tower.grid(), tower.patches
    ((64, 64), (4, 4), 16)
    """

    is_usual = False
    has_new_positions: bool = False
    usual_size: str = ""

    def __init__(self, dim: int, config: dict[str, Any], quick_gelu: bool = False) -> None:
        name = str(config.get("timm_model_name"))
        if ":" in name:  # hf-hub:.. and local-dir:.. would be read from there
            raise ModelError(
                f"timm_model_name {name!r} is no name of timm's own", where="model.towers.image",
                remedy="give the name of an architecture of timm",
            )  # fmt: skip
        super().__init__(dim, config, quick_gelu)
        self.config.pop("timm_model_pretrained", None)  # the weights are here now
        embed = self._patch_embed
        if embed is not None:
            own = pair(embed.img_size)
            self.usual_size = f"{own[0]} x {own[1]}" if embed.strict_img_size else ""
            if own != self.size and embed.strict_img_size:
                self._set_size(name, own[0])
            self.patches = int(embed.num_patches)

    def _set_size(self, name: str, side: int) -> None:
        """Have timm interpolate the positions, which are those of images with this side."""
        self.has_new_positions = True
        what = f"{name} takes images of {self.usual_size}, not of {self.size[0]} x {self.size[1]}"
        where, remedy = "model.towers.image", f"set config.image_size to {side} and leave preprocess.size out"
        trunk: Any = self.encoder.trunk
        if not hasattr(trunk, "set_input_size"):
            raise ModelError(what, where=where, remedy=remedy)
        try:
            trunk.set_input_size(self.size)
        except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelError(f"{what} ({error})", where=where, remedy=remedy) from error

    def weights_for(self, other: ImageTower) -> dict[str, Tensor]:
        """See `ImageTower`: interpolated by timm, relative positions (BEiT, Swin) too."""
        embed = self._patch_embed
        if embed is None or not embed.strict_img_size:
            return super().weights_for(other)
        encoder = copy.deepcopy(self.encoder)
        encoder.trunk.set_input_size(other.size)
        return dict(encoder.state_dict())

    @contextlib.contextmanager
    def sized(self, size: tuple[int, int]) -> Iterator[None]:
        """See `ImageTower`."""
        embed = self._patch_embed
        if embed is None or size == self.size:  # feature maps of any size
            yield
            return
        strict = embed.strict_img_size
        with super().sized(size):
            embed.strict_img_size = False
            try:
                yield
            finally:
                embed.strict_img_size = strict

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """See `ImageTower`: a ``vision_cfg`` with a model of timm."""
        return bool(config.get("timm_model_name")) and "model_type" not in config

    @property
    def table_size(self) -> tuple[int, int] | None:
        """Height and width of the images that the trunk's positions stand for; None where it has no patches."""
        embed = self._patch_embed
        return None if embed is None else pair(embed.img_size)

    @property
    def _patch_embed(self) -> Any | None:
        from timm.layers import PatchEmbed

        embed = dict(self.encoder.trunk.named_children()).get("patch_embed")
        return embed if isinstance(embed, PatchEmbed) and embed.img_size is not None else None

    def grid_of(self, settings: Any) -> tuple[int, int]:
        """Places of the last feature map, a 32nd of the image's sides, until the trunk says otherwise."""
        return max(1, self.size[0] // 32), max(1, self.size[1] // 32)

    def grid(self) -> tuple[int, int]:
        """See `ImageTower`."""
        embed = self._patch_embed
        return (max(1, self.size[0] // 32), max(1, self.size[1] // 32)) if embed is None else pair(embed.grid_size)

    def place_patch_dropout(self, rate: float) -> bool:
        """See `ImageTower`."""
        trunk: Any = self.encoder.trunk
        if "patch_drop" not in dict(trunk.named_children()):
            return False
        trunk.patch_drop = PatchDropout(rate, int(trunk.num_prefix_tokens)).train(trunk.training)
        return True

    @property
    def token_width(self) -> int:
        """See `ImageTower`."""
        return int(self.encoder.trunk.num_features)

    @property
    def prefix_tokens(self) -> int:
        """See `ImageTower`: class token and registers, as the trunk counts them."""
        return int(vars(self.encoder.trunk).get("num_prefix_tokens", 0))

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `ImageTower`: what the trunk's head reads."""
        trunk: Any = self.encoder.trunk
        features = trunk.forward_features(pixels)
        vectors = self.encoder.head(trunk.forward_head(features))
        by_place = features.dim() == 4 and vars(trunk).get("output_fmt") == "NHWC"
        return vectors, features.permute(0, 3, 1, 2) if by_place else features

    def patch_embedding(self) -> nn.Module:
        """See `ImageTower`."""
        embed = self._patch_embed
        if embed is None:
            return ImageTower.patch_embedding(self)
        layer: nn.Module = embed
        return layer
