"""Where the patches of a view lie in their picture. Import this file inside functions: it needs torch."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_places(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """The middle (across, down) of every patch of each view in its picture, (n, h w, 2).

    Parameters
    ----------
    frames : Tensor (n, 7)
        As `embedkit.views.image.ImageInput.frame` gives them; the unit is the longer side of the picture.
    grid : (int, int)
        Patches down and across.

    Examples
    --------
    >>> frames = torch.tensor([[0.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 1.0, 0.5, 1.0, 1.0, 0.5]])
    >>> patch_places(frames, (1, 2)).tolist()
    [[[0.25, 0.25], [0.75, 0.25]], [[0.75, 0.25], [0.25, 0.25]]]
    """
    down, across = grid
    left, top, right, bottom, mirrored = (frames[:, i, None] for i in range(5))
    x = (torch.arange(across, dtype=frames.dtype, device=frames.device) + 0.5)[None] / across
    y = (torch.arange(down, dtype=frames.dtype, device=frames.device) + 0.5)[None] / down
    x = left + (right - left) * torch.where(mirrored > 0, 1 - x, x)  # (n, w)
    y = top + (bottom - top) * y  # (n, h)
    both = torch.stack([x[:, None].expand(-1, down, -1), y[:, :, None].expand(-1, -1, across)], dim=3)
    return both.flatten(1, 2)


def patch_diagonal(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """The length of a patch's diagonal in the picture, (n,).

    Examples
    --------
    >>> patch_diagonal(torch.tensor([[0.0, 0.0, 0.6, 0.8, 0.0, 1.0, 1.0]]), (2, 2))
    tensor([0.5000])
    """
    return torch.hypot((frames[:, 2] - frames[:, 0]) / grid[1], (frames[:, 3] - frames[:, 1]) / grid[0])


def picture_cells(frames: Tensor, grid: tuple[int, int], cells: int) -> Tensor:
    """The cell of the picture, cut into `cells` by `cells` equal parts, that the middle of each patch lies in.

    Returns
    -------
    LongTensor (n, h w)
        Row by row; -1 outside of the picture.

    Examples
    --------
    >>> picture_cells(torch.tensor([[0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]), (2, 2), cells=2)
    tensor([[1, 1, 3, 3]])
    """
    shares = patch_places(frames, grid) / frames[:, None, 5:7]
    inside = ((shares >= 0) & (shares < 1)).all(dim=2)
    place = (shares * cells).floor().long()
    return torch.where(inside, place[:, :, 1] * cells + place[:, :, 0], -1)


def nearest_places(places: Tensor, others: Tensor) -> Tensor:
    """For each patch the one of the other view that is nearest in the picture: (n, P, 2), (n, Q, 2) -> int64 (n, P).

    Examples
    --------
    >>> nearest_places(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.2, 0.0]]]))
    tensor([[1]])
    """
    return torch.cdist(places, others, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=2)
