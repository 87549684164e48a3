"""DenseCL: each patch of one view against its match in the other, beside any method on two views of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from embedkit.config.settings import Count, Positive, Whole
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm, two_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("densecl")
class DenseCL(PatchTerm):
    """Dense contrastive learning (Wang et al. 2021, CVPR, section 3).

    The positive of a patch is the patch of the other view whose features are nearest to its own before the projector,
    or that lies nearest in the picture; negatives are means of the projected patches, of an image each: those of the
    other images of the batch, or of the last `queue` images, as in the paper. Both directions are averaged. Where there
    is a running mean of the encoder, keys are what it makes of the other view, through a running mean of the projector.
    The paper weighs this loss and the global one by one half each: with weight 1 beside a method the sum is twice
    theirs.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    temperature : float
        0.2 in the paper.
    match : str
        "features" (the paper), or "place".
    queue : int
        Means of keys of earlier images; 65,536 in the paper, 0 for those of the batch. It starts with random vectors.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["densecl"]().temperature, methods["densecl"]().term
    (0.2, 'dense')
    """

    paper: ClassVar[str] = "Wang et al. 2021, CVPR, Dense Contrastive Learning, section 3"
    term: ClassVar[str] = "dense"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "moco", hidden: Count = 2048, size: Count = 128,
        temperature: Positive = 0.2, match: Literal["features", "place"] = "features",
        queue: Whole = 0,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.temperature, self.match, self.queue = temperature, match, queue

    def parts(self, model: Model) -> nn.ModuleDict:
        from embedkit.objectives.parts.banks import Queue

        parts = super().parts(model)
        if self.queue:
            parts["queue"] = Queue(self.queue, dim=self.size)
        return parts

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """Projected patches, and behind each what it is matched by: features without gradient, or its place."""
        import torch

        from embedkit.methods.patches.places import patch_places

        dense, by = parts["projector"](patches.tokens), patches.tokens.detach()
        if self.match == "place":
            by = patch_places(torch.from_numpy(inputs.data["frame"]).to(dense), patches.grid)
        return torch.cat([dense, by.to(dense.dtype)], dim=2).flatten(1)

    def _split(self, columns: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Projected patches (n, P, size) and what they are matched by (n, P, width)."""
        together = columns.unflatten(1, (-1, self.size + width))
        return together[:, :, : self.size], together[:, :, self.size :]

    def _width(self, parts: nn.ModuleDict) -> int:
        layers: Any = parts["projector"]
        return 2 if self.match == "place" else int(layers[0].in_features)

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """The mean of the projected patches of each image."""
        width = self._width(parts)
        own = {name: z for name, z in outputs.items() if not name.startswith("main/")}
        return {name: self._split(z, width)[0].mean(dim=1) for name, z in own.items()}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.losses import dense_contrast, nearest
        from embedkit.methods.patches.places import nearest_places

        width, losses = self._width(parts), []
        rows = torch.arange(batch.rows.start, batch.rows.stop, device=next(iter(batch.own.values())).device)
        keys_of = {**batch.own, **batch.own_guide}
        pooled = {**outputs, **batch.guide_parcel}
        earlier: Any = parts["queue"].vectors if "queue" in parts else None
        for query, key in _directions(batch):
            queries, features = self._split(batch.own[query], width)
            keys, others = self._split(keys_of[key], width)
            match = (nearest if self.match == "features" else nearest_places)(features.detach(), others.detach())
            means, own = (pooled[key], rows) if earlier is None else (earlier.to(queries.dtype), None)
            losses.append(dense_contrast(queries, keys, match, means, own, self.temperature).sum())
        return {self.term: torch.stack(losses).sum() / (len(losses) * batch.size)}

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        """Put the means of this step's keys into the queue, those of the first direction."""
        from embedkit.objectives.matrix.similarity import Side

        if "queue" in parts:
            queue: Any = parts["queue"]
            _, key = _directions(batch)[0]
            queue.keeps_roles = False
            queue.after_step({}, batch, Side({**outputs, **batch.guide_parcel}[key], {}))


def _directions(batch: ObjectiveBatch) -> list[tuple[str, str]]:
    """Pairs of a view and the view of its keys; a view that the running mean alone sees is none of the first."""
    return [(view, key) for view, key in two_views({**batch.own, **batch.own_guide}) if view in batch.own]
