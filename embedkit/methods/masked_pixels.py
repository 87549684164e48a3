"""Masked images: what is hidden of an image is restored, by itself (MAE, SimMIM) or beside any method on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedkit.config.settings import Count, Rate, Whole
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.patches.term import PatchTerm, check_heads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("masked-pixels")
class MaskedPixels(PatchTerm):
    """A decoder restores the pixels of hidden patches (He et al. 2022, MAE, section 3; Xie et al. 2022, SimMIM).

    With ``hide: drop`` the tower does not see hidden patches at all (MAE): it needs `patch_dropout` in the recipe's
    ``model.towers.image``, which says how many. With ``hide: mask`` a learned vector stands in their place (SimMIM), at
    the rate given here. The loss is the mean squared error of the values of hidden patches, each patch brought to mean
    0 and variance 1, from the pass that makes the vectors: nothing of patches is gathered. A method on views beside it
    sees the hidden images too (masked contrastive learning); with ``hide: mask`` views in other sizes stay whole.

    Parameters
    ----------
    transform
        See `PatchTerm`.
    hide : str
        "drop" or "mask".
    rate : float
        Share of patches that are hidden with ``hide: mask``.
    layers, width, heads : int
        Of the decoder; 0 layers for a linear one.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["masked-pixels"]().layers
    8
    """

    paper: ClassVar[str] = "He et al. 2022, CVPR, Masked Autoencoders Are Scalable Vision Learners, section 3"
    followed: ClassVar[tuple[str, ...]] = ()
    term: ClassVar[str] = "pixels"
    whole_grid: ClassVar[bool] = False

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "weak", hide: Literal["drop", "mask"] = "mask",
        rate: Rate = 0.75, layers: Whole = 8, width: Count = 512, heads: Count = 16,
    ) -> None:  # fmt: skip
        super().__init__(transform)
        if layers:
            check_heads(width, heads)
        self.hide, self.rate, self.layers, self.width, self.heads = hide, rate, layers, width, heads

    def check_patches(self, grid: tuple[int, int]) -> None:
        count = grid[0] * grid[1]
        if self.hide == "mask" and round(self.rate * count) >= count:
            raise RecipeError(f"rate is {self.rate:g}: all {count} patches of an image would be hidden",
                              where="masked-pixels.rate", remedy=f"set it to {1 - 1 / count:.4g} at most")  # fmt: skip

    def check_tower(self, tower: Any) -> None:
        super().check_tower(tower)
        if self.hide == "drop" and not tower.patch_dropout:
            raise ModelError("hide: drop without patches that are left out", where="model.towers.image.patch_dropout",
                             remedy="set it to 0.75, or hide: mask")  # fmt: skip
        if self.hide == "mask":
            tower.patch_embedding()  # refuses a tower without one
            if tower.patch_dropout:
                raise ModelError("patches are left out and hidden", where="model.towers.image.patch_dropout",
                                 remedy="leave it out, or set hide: drop")  # fmt: skip

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        from embedkit.models.heads.pixels import PixelDecoder

        tower: Any = model.image
        grid = tower.grid()
        patch = (tower.size[0] // grid[0], tower.size[1] // grid[1])
        decoder = PixelDecoder(tower.token_width, grid, patch, self.layers, self.width, self.heads)
        parts: dict[str, nn.Module] = {"decoder": decoder}
        if self.hide == "mask":
            parts["mask"] = nn.ParameterDict({"filler": nn.Parameter(torch.zeros(tower.token_width))})
        return nn.ModuleDict(parts)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {"anchor": super().views(rows, random)["anchor"]}

    def cover(self, inputs: Any, parts: nn.ModuleDict) -> tuple[Tensor, Tensor] | None:
        """The share `rate` of the patches of each image, drawn from its seed."""
        if self.hide == "drop" or inputs.patches != len(parts["decoder"].positions):  # type: ignore[arg-type]
            return None
        import torch

        from embedkit.models.modules.patches import seeded

        count = inputs.patches
        draws = seeded(inputs.data["seeds"], count, inputs.device)
        places = draws.topk(max(1, round(count * self.rate)), dim=1).indices
        mask: Any = parts["mask"]
        return torch.zeros_like(draws, dtype=torch.bool).scatter(1, places, True), mask["filler"]

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """For each image the sum of the errors of its hidden patches, and their number: (n, 2)."""
        import torch

        from embedkit.models.heads.pixels import patch_pixels

        if patches.grid[0] * patches.grid[1] != len(parts["decoder"].positions):  # type: ignore[arg-type]
            return patches.tokens.new_zeros(len(patches.tokens), 2)
        pixels = parts["decoder"](patches.tokens, patches.places)
        values = inputs.pixels.to(pixels.dtype) / (1.0 if inputs.pixels.is_floating_point() else 255.0)
        target = patch_pixels(values, patches.grid)
        cover = self.cover(inputs, parts)
        if cover is not None:
            hidden = cover[0]
        else:
            hidden = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
            if patches.places is not None:
                hidden = hidden.scatter(1, patches.places, False)
        errors = (pixels - target).square().mean(dim=2) * hidden
        return torch.stack([errors.sum(dim=1), hidden.sum(dim=1).to(errors.dtype)], dim=1)

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        return {name: z for name, z in outputs.items() if not name.startswith("main/") and not guide}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.common.parts import own_rows

        views = {name: z for name, z in outputs.items() if not name.startswith("main/")}
        count = torch.stack([z[:, 1].sum() for z in views.values()]).sum().detach()
        mine = [z[own_rows(batch.owner[name], batch.rows), 0].sum() for name, z in views.items()]
        return {self.term: torch.stack(mine).sum() / count.clamp(min=1.0)}
