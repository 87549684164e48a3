"""DetCon: means over regions of the picture, each against all regions of all images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive
from embedkit.errors import RecipeError
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm, two_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("detcon")
class DetCon(PatchTerm):
    """Contrastive detection (Hénaff et al. 2021, ICCV, section 3).

    The picture is cut into ``cells`` by ``cells`` regions (the paper's spatial heuristic; its masks of other origin are
    not read). The features of the patches of a region are averaged in each view, projected, and contrasted: the
    positive is the same region in the other view, negatives are all other regions of all images in both views. Regions
    that only one view shows are negatives only.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    cells : int
        Regions down and across.
    temperature : float
        Of the contrast.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["detcon"](cells=3).temperature
    0.1
    """

    paper: ClassVar[str] = (
        "Hénaff et al. 2021, ICCV, Efficient Visual Pretraining with Contrastive Detection, section 3"
    )
    term: ClassVar[str] = "regions"
    whole_grid: ClassVar[bool] = False

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 4096, size: Count = 256,
        cells: Count = 5, temperature: Positive = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.cells, self.temperature = cells, temperature

    def check_patches(self, grid: tuple[int, int]) -> None:
        count = grid[0] * grid[1]
        if not self.stands_alone:  # another method says how small a part of the picture a view is
            return
        crop = None if self.transform is None else self.transform.crop
        most = int((count / (1.0 if crop is None else crop[0])) ** 0.5)
        if self.cells > most:
            raise RecipeError(
                f"{self.cells} x {self.cells} regions are smaller than a patch of every view ({count} an image)",
                where="detcon.cells", remedy=f"set it to {most} at most",
            )  # fmt: skip

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """Which regions each view shows, (n, C), and behind them their projected means."""
        import torch

        from embedkit.methods.patches.losses import region_means
        from embedkit.methods.patches.places import picture_cells

        cells = picture_cells(
            torch.from_numpy(inputs.data["frame"]).to(patches.tokens.device), patches.grid, self.cells
        )
        if patches.places is not None:
            cells = cells.gather(1, patches.places)
        means, there = region_means(patches.tokens, cells, self.cells**2)
        return torch.cat([there.to(means.dtype), parts["projector"](means).flatten(1)], dim=1)

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """All: the means of regions are few."""
        return {name: z for name, z in outputs.items() if not name.startswith("main/")}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.losses import region_contrast

        count = self.cells**2
        views = {name: (z[:, :count] > 0, z[:, count:].unflatten(1, (count, -1)))
                 for name, z in outputs.items() if not name.startswith("main/")}  # fmt: skip
        losses = []
        for first, second in two_views(views):
            there = torch.stack([views[first][0], views[second][0]])
            total = region_contrast(views[first][1], views[second][1], there, batch.rows, self.temperature)
            losses.append(total / (there[0] & there[1]).sum().clamp_min(1))
        return {self.term: torch.stack(losses).mean()}
