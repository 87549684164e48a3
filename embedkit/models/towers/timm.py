"""Image towers of timm, through open_clip."""

from __future__ import annotations

from typing import Any

from embedkit.errors import ModelError
from embedkit.models.modules.image_towers import image_towers, pair
from embedkit.models.modules.patch_dropout import PatchDropout
from embedkit.models.towers.open_clip import OpenClipTower


@image_towers.add("timm")
class TimmTower(OpenClipTower):
    """Any model of timm, made by open_clip from a ``vision_cfg`` with ``timm_model_name``.

    Parameters
    ----------
    dim, config, quick_gelu
        See `OpenClipTower`.

    Raises
    ------
    ModelError
        When timm has no such model, or it takes images of another size.

    Examples
    --------
    >>> tower = TimmTower(4, {"timm_model_name": "test_vit", "timm_proj": "linear", "image_size": 160})
    >>> tower.size, tower.grid(), tower.patches
    ((160, 160), (10, 10), 100)
    """

    is_usual = False

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
            self.patches = int(embed.num_patches)
            own = pair(embed.img_size)
            if own != self.size and embed.strict_img_size:
                raise ModelError(
                    f"{name} takes images of {own[0]} x {own[1]}, not of {self.size[0]} x {self.size[1]}",
                    where="model.towers.image", remedy=f"set image_size to {own[0]}, or preprocess.size to {list(own)}",
                )  # fmt: skip

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """See `ImageTower`: a ``vision_cfg`` with a model of timm."""
        return bool(config.get("timm_model_name")) and "model_type" not in config

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
