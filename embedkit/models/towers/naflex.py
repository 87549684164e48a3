"""SigLIP 2's NaFlex image tower of transformers: a row of patches of any shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from embedkit.models.inputs.shapes import patch_rows
from embedkit.models.modules.image_towers import image_towers
from embedkit.models.towers.transformers import TransformersTower


@image_towers.add("naflex")
class NaflexTower(TransformersTower):
    """SigLIP 2's NaFlex image tower (Tschannen et al. 2025, section 2.4.2), any shapes in one pass.

    Any height and width that the patches divide will do: the model resamples its positions at every pass. In `encode`
    and in training each image has a shape of its own, near its proportions, and transformers' vector
    (``preprocess.patch``). In training, images of all shapes go through the model together, their rows of patches
    padded to the longest and masked.

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
    >>> tower.shaped(torch.zeros(10, 3, 16, 16), np.array([[2, 3], [4, 1]])).shape  # two images of 6 and 4 patches
    torch.Size([2, 12])
    """

    def __init__(self, encoder: Any, pooling: str | None = None, size: tuple[int, int] | None = None) -> None:
        super().__init__(encoder, pooling, size)
        encoder.embeddings.resize_positional_embeddings = resampled_positions

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

    def shaped(self, pixels: Tensor, shapes: np.ndarray, seeds: np.ndarray | None = None) -> Tensor:
        """See `ImageTower`: all shapes in one pass, padded and masked."""
        if not len(shapes) or pixels.shape[2] != self.encoder.config.patch_size:
            return super().shaped(pixels, shapes, seeds)
        counts = shapes.prod(axis=1)
        rows = pad_sequence(list(_flat(pixels).split(counts.tolist())), batch_first=True)
        lengths = torch.from_numpy(counts).to(pixels.device)
        mask = torch.arange(rows.shape[1], device=pixels.device) < lengths[:, None]  # (N, P)
        output = self.encoder(
            pixel_values=rows, pixel_attention_mask=mask.long(),
            spatial_shapes=torch.from_numpy(np.ascontiguousarray(shapes)).to(pixels.device),
        )  # fmt: skip
        if self.pooling == "pooler":
            return self._pooled(output)
        hidden = output.last_hidden_state * mask[:, :, None]
        return hidden.sum(dim=1) / lengths[:, None].to(hidden.dtype)

    def _run(self, pixels: Tensor) -> Any:
        side = self.encoder.config.patch_size
        count, high, wide = len(pixels), pixels.shape[2] // side, pixels.shape[3] // side
        rows = _flat(patch_rows(pixels, side))
        return self.encoder(
            pixel_values=rows, pixel_attention_mask=rows.new_ones(count, high * wide, dtype=torch.int64),
            spatial_shapes=torch.tensor([[high, wide]] * count, device=pixels.device),
        )  # fmt: skip


def _flat(patches: Tensor) -> Tensor:
    """Patches (..., 3, side, side) as transformers' rows (..., side side 3)."""
    return patches.movedim(-3, -1).flatten(-3)


def resampled_positions(table: Tensor, shapes: Tensor, max_length: int) -> Tensor:
    """The positions (N, max_length, W) of images of these shapes (N, 2), from a table (h, w, W): transformers' own
    function, but in the table's precision where that is float64, and once for each shape.

    Examples
    --------
    >>> resampled_positions(torch.zeros(4, 4, 8), torch.tensor([[2, 3], [1, 1]]), max_length=6).shape
    torch.Size([2, 6, 8])
    """
    image = table.permute(2, 0, 1)[None]
    image = image.float() if image.device.type == "cpu" and image.dtype != torch.float64 else image
    rows: dict[tuple[int, int], Tensor] = {}
    for shape in dict.fromkeys(map(tuple, shapes.tolist())):
        own = F.interpolate(image, size=shape, mode="bilinear", align_corners=False, antialias=True)
        own = own.flatten(2)[0].T.to(table.dtype)  # (h w, W)
        rows[shape] = torch.cat([own, own[:1].expand(max_length - len(own), -1)])
    return torch.stack([rows[high, wide] for high, wide in shapes.tolist()])
