"""A decoder that restores the pixels of hidden patches from the vectors of the others; trained beside a tower, then
dropped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelDecoder(nn.Module):
    """Blocks over the grid of patches, and a linear map to the pixels of each (He et al. 2022, MAE, section 3).

    Parameters
    ----------
    inputs : int
        Size of a patch's vector in the tower.
    grid, patch : (int, int)
        Patches down and across, and the height and width of one in pixels.
    layers, width, heads : int
        Of the blocks; without any the map is linear (SimMIM, Xie et al. 2022).

    Examples
    --------
    >>> decoder = PixelDecoder(8, grid=(2, 2), patch=(4, 4), layers=1, width=8, heads=2)
    >>> decoder(torch.zeros(3, 4, 8)).shape, decoder(torch.zeros(3, 1, 8), torch.tensor([[0], [1], [3]])).shape
    (torch.Size([3, 4, 48]), torch.Size([3, 4, 48]))
    """

    def __init__(
        self, inputs: int, grid: tuple[int, int], patch: tuple[int, int], layers: int, width: int, heads: int
    ) -> None:  # fmt: skip
        super().__init__()
        width = width if layers else inputs
        self.inputs = nn.Linear(inputs, width) if layers else nn.Identity()
        self.filler = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(grid[0] * grid[1], width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width) if layers else nn.Identity()
        self.outputs = nn.Linear(width, 3 * patch[0] * patch[1])
        for table in (self.filler, self.positions):
            nn.init.normal_(table, std=0.02)

    def forward(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """Pixels (n, P, 3 patch height width) from tokens (n, K, W) that stand at `places` (n, K), or at all."""
        states = self.inputs(tokens)
        if places is not None:
            states = self.filler.expand(len(states), len(self.positions), -1).to(states).scatter(
                1, places[:, :, None].expand(-1, -1, states.shape[2]), states
            )  # fmt: skip
        states = states + self.positions
        for block in self.blocks:
            states = block(states)
        pixels: Tensor = self.outputs(self.norm(states))
        return pixels


def patch_pixels(pixels: Tensor, grid: tuple[int, int], normalize: bool = True) -> Tensor:
    """The values of each patch of images (n, 3, H, W), (n, P, 3 H W / P); of mean 0 and variance 1 with `normalize`.

    Examples
    --------
    >>> pixels = torch.arange(8.0).view(1, 1, 2, 4).expand(1, 3, 2, 4)
    >>> patch_pixels(pixels, (1, 2), normalize=False)[0, 1, :4].tolist()
    [2.0, 3.0, 6.0, 7.0]
    """
    down, across = grid
    high, wide = pixels.shape[2] // down, pixels.shape[3] // across
    values = F.unfold(pixels, (high, wide), stride=(high, wide)).transpose(1, 2)  # (n, P, 3 high wide)
    if not normalize:
        return values
    spread, mean = torch.var_mean(values, dim=2, keepdim=True)
    return (values - mean) / (spread + 1e-6).sqrt()
