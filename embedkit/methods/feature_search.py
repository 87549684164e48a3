"""SCFS: what a view shows is searched for among the patches of another, beside any method on views of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive
from embedkit.errors import ModelError
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("feature-search")
class FeatureSearch(PatchTerm):
    """Semantics-consistent feature search (Song et al. 2023, CVPR), a reconstruction from its title and a summary.

    The mean of a view's projected patches seeks its like among those that the running mean makes of another view
    (``guide: {ema: 0.996}``): their mean, weighted by ``softmax(cos / sharpness)``, is its positive, so that a crop is
    not drawn to what it does not show. Negatives are the mean patches of the other images of the batch. Views that the
    guide does not see, small crops, seek only. Averaged over all pairs of views. The paper searches in several layers:
    with `layers` it is the last blocks of a ViT, each through a projector of its own, and their mean; which layers the
    paper takes and how it weighs them is not known here, temperature and sharpness are ours.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    temperature : float
        Of the contrast.
    sharpness : float
        Temperature of the search.
    layers : int
        Blocks whose patches are searched, counted from the last.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["feature-search"]().term
    'search'
    """

    paper: ClassVar[str] = "Song et al. 2023, CVPR, Semantics-Consistent Feature Search"
    term: ClassVar[str] = "search"
    whole_grid: ClassVar[bool] = False
    reads_guide: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 2048, size: Count = 256,
        temperature: Positive = 0.2, sharpness: Positive = 0.1, layers: Count = 1,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.temperature, self.sharpness, self.inner_blocks = temperature, sharpness, layers - 1
        self.followed: ClassVar[tuple[str, ...]] = ("projector", "inner")[: min(layers, 2)]  # type: ignore[misc]

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        parts, more = super().parts(model), nn.ModuleList()
        for _ in range(self.inner_blocks):
            more.append(super().parts(model)["projector"])
        if len(more):
            parts["inner"] = more
        return parts

    def _projected(self, patches: PatchTokens, parts: Any) -> Tensor:
        """The projected patches of each layer, the last one first: (n, layers, P, size)."""
        import torch

        layers = [parts["projector"], *(parts["inner"] if self.inner_blocks else ())]
        rows = (patches.tokens, *patches.inner[: self.inner_blocks])
        return torch.stack([layer(tokens) for layer, tokens in zip(layers, rows, strict=True)], dim=1)

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The mean of the projected patches of each layer, (n, layers size)."""
        return self._projected(patches, parts).mean(dim=2).flatten(1)

    def guide_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The projected patches, (n, layers P size)."""
        return self._projected(patches, parts).flatten(1)

    def _layers(self, columns: Tensor) -> Tensor:
        """Columns (n, layers P size) as (n, layers, P, size)."""
        return columns.unflatten(1, (1 + self.inner_blocks, -1, self.size))

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """The mean of the teacher's patches of each image."""
        own = {name: z for name, z in outputs.items() if guide and not name.startswith("main/")}
        return {name: self._layers(z).mean(dim=2).flatten(1) for name, z in own.items()}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.losses import dense_contrast, search

        pairs = [(seeker, name) for name in batch.own_guide for seeker in batch.own if seeker != name]
        if not pairs:
            raise ModelError("searches in another view of an image, and the method beside it has one",
                             where="auxiliary", remedy="put it beside a method on two views")  # fmt: skip
        rows = torch.arange(batch.rows.start, batch.rows.stop, device=next(iter(batch.own.values())).device)
        losses, only = [], torch.zeros(len(rows), 1, dtype=torch.long, device=rows.device)
        for seeker, name in pairs:
            seekers, places = self._layers(batch.own[seeker])[:, :, 0], self._layers(batch.own_guide[name])
            means = self._layers(batch.guide_parcel[name])[:, :, 0]
            for layer in range(1 + self.inner_blocks):
                query = seekers[:, layer]
                key = search(query.detach(), places[:, layer], self.sharpness)
                losses.append(
                    dense_contrast(query[:, None], key[:, None], only, means[:, layer], rows, self.temperature).sum()
                )
        return {self.term: torch.stack(losses).sum() / (len(losses) * batch.size)}
