"""SigLIP 2's NaFlex image tower of transformers: a row of patches of any shape."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from embedkit.models.modules.image_towers import image_towers
from embedkit.models.towers.transformers import TransformersTower


@image_towers.add("naflex")
class NaflexTower(TransformersTower):
    """SigLIP 2's NaFlex image tower (Tschannen et al. 2025, section 2.4.2), one shape a pass.

    Any height and width that the patches divide will do: the model resamples its positions at every pass. In `encode`
    each image has a shape of its own, near its proportions, and transformers' vector (``preprocess.patch``); images of
    one shape run together. A step of training has one shape for all images of a view (``preprocess.size``).

    Parameters
    ----------
    encoder : Siglip2VisionModel
        The vision model.
    pooling : str, optional
        "pooler" (attention pooling, the usual one) or "mean".
    size : (int, int), optional
        Height and width of the images; the square of the number of patches in the configuration when None.

    Examples
    --------
    >>> from transformers import Siglip2VisionConfig, Siglip2VisionModel
    >>> config = Siglip2VisionConfig(hidden_size=12, num_hidden_layers=1, intermediate_size=8, num_patches=16)
    >>> tower = NaflexTower(Siglip2VisionModel(config), size=(32, 96))
    >>> tower.usual_size(config), tower.grid(), tower(torch.zeros(2, 3, 32, 96)).shape
    ((64, 64), (2, 6), torch.Size([2, 12]))
    """

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """See `ImageTower`."""
        return config.get("model_type") == "siglip2_vision_model"

    @staticmethod
    def usual_size(config: Any) -> tuple[int, int]:
        """Height and width of a square of the configuration's number of patches."""
        side = math.isqrt(config.num_patches) * config.patch_size
        return side, side

    @property
    def takes_any_size(self) -> bool:
        """The model resamples its positions itself."""
        return True

    def place_patch_dropout(self, rate: float) -> bool:
        """See `ImageTower`: the shape of the row is part of the input."""
        return False

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        return self._pooled(self._run(pixels))

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `ImageTower`: the last hidden state."""
        output = self._run(pixels)
        return self._pooled(output), output.last_hidden_state

    def _run(self, pixels: Tensor) -> Any:
        side = self.encoder.config.patch_size
        count, high, wide = len(pixels), pixels.shape[2] // side, pixels.shape[3] // side
        parts = pixels[..., : high * side, : wide * side].reshape(count, 3, high, side, wide, side)
        rows = parts.permute(0, 2, 4, 3, 5, 1).reshape(count, high * wide, -1)  # a patch is (side, side, 3)
        return self.encoder(
            pixel_values=rows, pixel_attention_mask=rows.new_ones(count, high * wide, dtype=torch.int64),
            spatial_shapes=torch.tensor([[high, wide]] * count, device=pixels.device),
        )  # fmt: skip
