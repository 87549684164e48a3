"""ConvNeXt of transformers: a map of features in place of a row of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from embedkit.errors import ModelError
from embedkit.models.modules.image_towers import ImageTower, image_towers, pair, product
from embedkit.models.towers.transformers import TransformersTower


@image_towers.add("convnext")
class ConvNextTower(TransformersTower):
    """ConvNeXt and ConvNeXt V2, images of any size.

    Parameters
    ----------
    encoder : PreTrainedModel
        A ConvNextModel or ConvNextV2Model.
    pooling : str, optional
        "pooler" (the mean of the map through the model's norm, the usual one) or "mean" (without the norm).
    size : (int, int), optional
        Height and width of the images where they differ from the configuration's.

    Examples
    --------
    >>> import torch
    >>> from transformers import ConvNextConfig, ConvNextModel
    >>> tower = ConvNextTower(ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1])))
    >>> tower.grid(), tower(torch.zeros(2, 3, 64, 96)).shape
    ((7, 7), torch.Size([2, 8]))
    """

    def __init__(self, encoder: Any, pooling: str | None = None, size: Sequence[int] | None = None) -> None:
        ImageTower.__init__(self)
        config = encoder.config
        self.encoder, self.prefix = encoder, 0
        self._pooling = ""
        self.pooling = pooling or "pooler"
        self.dim = int(config.hidden_sizes[-1])
        self.size = self.usual_size(config) if size is None else pair(size)
        self.patches = product(self.grid())

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        """See `ImageTower`."""
        return config.get("model_type") in ("convnext", "convnextv2")

    @property
    def takes_any_size(self) -> bool:
        """A convolution does."""
        return True

    def grid(self) -> tuple[int, int]:
        """Places of the last map, a 32nd of the image's sides."""
        return max(1, self.size[0] // 32), max(1, self.size[1] // 32)

    def place_patch_dropout(self, rate: float) -> bool:
        """See `ImageTower`: a map has no row of patches."""
        return False

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, dim)."""
        return self._pooled(self.encoder(pixel_values=pixels))

    def _pooled(self, output: Any) -> Tensor:
        return output.pooler_output if self.pooling == "pooler" else output.last_hidden_state.mean((2, 3))

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `ImageTower`: the last map."""
        output = self.encoder(pixel_values=pixels)
        return self._pooled(output), output.last_hidden_state

    def patch_embedding(self) -> nn.Module:
        """See `ImageTower`."""
        raise ModelError("a ConvNeXt has no row of patches to hide", remedy="use a ViT")
