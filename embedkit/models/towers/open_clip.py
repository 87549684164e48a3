"""Image towers of open_clip: its ViT and its ResNet."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from embedkit.errors import ModelError, need
from embedkit.models.modules.image_towers import ImageTower, grid, image_towers, pair, product
from embedkit.models.modules.patches import PatchDropout, recording


@image_towers.add("open_clip")
class OpenClipTower(ImageTower):
    """A vision tower of open_clip, its ViT or its ResNet, made from a ``vision_cfg``.

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

    Examples
    --------
    >>> import torch
    >>> tower = OpenClipTower(4, {"image_size": 32, "patch_size": 16, "width": 8, "layers": 1, "head_width": 4})
    >>> tower.patches, tower(torch.zeros(2, 3, 32, 32)).shape
    (4, torch.Size([2, 4]))
    """

    family = "open_clip"
    is_usual = True
    ends_in_projection = True
    options = ("quick_gelu",)

    def __init__(self, dim: int, config: dict[str, Any], quick_gelu: bool = False) -> None:
        super().__init__()
        need("open_clip", "clip", "an open_clip image tower")
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        self.dim, self.config, self.quick_gelu = dim, dict(config), quick_gelu
        try:
            settings = CLIPVisionCfg(**copy.deepcopy(config))
            self.encoder = _build_vision_tower(dim, settings, quick_gelu)
        except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
            raise ModelError(f"not a vision_cfg of open_clip ({error})", where="model.towers.image") from error
        self.size = pair(settings.image_size)
        self.patches = product(self.grid_of(settings))

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """See `ImageTower`: a ``vision_cfg`` without a model of timm."""
        return not {"model_type", "timm_model_name"} & {key for key, value in config.items() if value is not None}

    @classmethod
    def from_config(cls, config: dict[str, Any], dim: int, options: dict[str, Any]) -> OpenClipTower:
        """See `ImageTower`."""
        return cls(dim, config, **options)

    def grid_of(self, settings: Any) -> tuple[int, int]:
        """Patches down and across under a ``CLIPVisionCfg``; a ResNet has no patches, its last map counts."""
        return grid(self.size, settings.patch_size or 32)

    def grid(self) -> tuple[int, int]:
        """See `ImageTower`."""
        if self._is_resnet:
            return grid(self.size, 32)
        return pair(self.encoder.grid_size)

    def rebuilt(self, size: tuple[int, int]) -> OpenClipTower:
        """See `ImageTower`."""
        side: Any = size[0] if size[0] == size[1] else list(size)
        return type(self)(self.dim, {**self.config, "image_size": side}, self.quick_gelu)

    def place_patch_dropout(self, rate: float) -> bool:
        """See `ImageTower`."""
        if "patch_dropout" not in dict(self.encoder.named_children()):
            return False
        self.encoder.patch_dropout = PatchDropout(rate, 1).train(self.encoder.training)
        return True

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        output = self.encoder(pixels)
        return output[0] if isinstance(output, tuple) else output

    @property
    def token_width(self) -> int:
        """See `ImageTower`."""
        if self._is_resnet:
            return int(self.encoder.layer4[-1].conv3.out_channels)
        return int(self.encoder.conv1.out_channels)

    @property
    def prefix_tokens(self) -> int:
        """See `ImageTower`: the class token."""
        return 1

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `ImageTower`: a ResNet's last map; a ViT's last tokens, through the norm that the class token goes
        through where there is one of their width."""
        with recording(self.encoder.layer4 if self._is_resnet else self.encoder.transformer) as outputs:
            vectors = self(pixels)
        if self._is_resnet or self.encoder.attn_pool is not None:
            return vectors, outputs[0]
        return vectors, self.encoder.ln_post(outputs[0])

    def patch_embedding(self) -> nn.Module:
        """See `ImageTower`."""
        if self._is_resnet:
            return super().patch_embedding()
        layer: nn.Module = self.encoder.conv1
        return layer

    @property
    def _is_resnet(self) -> bool:
        from open_clip.model import ModifiedResNet

        return isinstance(self.encoder, ModifiedResNet)

    def gradient_checkpointing_enable(self) -> None:
        """See `ImageTower`."""
        if self._is_resnet:
            super().gradient_checkpointing_enable()
        self.encoder.set_grad_checkpointing(True)

    def spec(self) -> dict[str, Any]:
        """See `ImageTower`."""
        return {"family": self.family, "dim": self.dim, "config": self.config, "quick_gelu": self.quick_gelu}
