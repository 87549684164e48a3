"""Each patch of an image against what a teacher makes of that place, beside any method on images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive
from embedkit.errors import ModelError
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("patch-distillation")
class PatchDistillation(PatchTerm):
    """Pixel-wise contrastive distillation (Huang and Guo 2023, ICCV, section 3).

    The guide, a frozen dual encoder or a running mean, sees the same view. The positive of a projected patch is the
    teacher's patch that lies nearest in the picture, whatever the two grids are; negatives are the means of the
    teacher's patches of the other images of the batch. The teacher's vectors are taken as they are. The paper has a
    queue of single patches as negatives, and attention in the student's projector; only a summary of it was read.

    Parameters
    ----------
    transform, hidden
        See `PatchTerm`.
    size : int
        Size of the teacher's patches.
    temperature : float
        Of the contrast.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["patch-distillation"](size=192).temperature
    0.2
    """

    paper: ClassVar[str] = "Huang and Guo 2023, ICCV, Pixel-Wise Contrastive Distillation, section 3"
    followed: ClassVar[tuple[str, ...]] = ()
    term: ClassVar[str] = "distillation"
    whole_grid: ClassVar[bool] = False
    reads_guide: ClassVar[bool] = True

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "moco", hidden: Count = 2048, size: Count = 768,
        temperature: Positive = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.temperature = temperature

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """Projected patches, each with its place in the picture."""
        return self._placed(parts["projector"](patches.tokens), patches, inputs)

    def guide_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The teacher's patches, each with its place in the picture."""
        width = patches.tokens.shape[2]
        if width != self.size:
            raise ModelError(f"the guide's patches have {width} coordinates, not {self.size}",
                             where="patch-distillation.size", remedy=f"set it to {width}")  # fmt: skip
        return self._placed(patches.tokens, patches, inputs)

    @staticmethod
    def _placed(tokens: Tensor, patches: PatchTokens, inputs: Any) -> Tensor:
        import torch

        from embedkit.methods.patches.places import patch_places

        places = patch_places(torch.from_numpy(inputs.data["frame"]).to(tokens), patches.grid)
        if patches.places is not None:
            places = places.gather(1, patches.places[:, :, None].expand(-1, -1, 2))
        return torch.cat([tokens, places], dim=2).flatten(1)

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """The mean of the teacher's patches of each image."""
        if not guide:
            return {}
        own = {name: z for name, z in outputs.items() if not name.startswith("main/")}
        return {name: self._split(z)[0].mean(dim=1) for name, z in own.items()}

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (n, P, size) and their places (n, P, 2)."""
        both = columns.unflatten(1, (-1, self.size + 2))
        return both[:, :, : self.size], both[:, :, self.size :].detach()

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.losses import dense_contrast
        from embedkit.methods.patches.places import nearest_places

        names = [name for name in batch.own if name in batch.own_guide]
        if not names:
            raise ModelError("no teacher's patches of the views that are trained", where="guide",
                             remedy="add guide: {model: ...} of a dual encoder, or guide: {ema: 0.99}")  # fmt: skip
        losses = []
        for name in names:
            queries, places = self._split(batch.own[name])
            keys, others = self._split(batch.own_guide[name])
            rows = torch.arange(batch.rows.start, batch.rows.stop, device=queries.device)
            match = nearest_places(places, others)
            losses.append(dense_contrast(queries, keys, match, batch.guide_parcel[name], rows, self.temperature).sum())
        return {self.term: torch.stack(losses).sum() / (len(losses) * batch.size)}
