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

    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("feature-search")
class FeatureSearch(PatchTerm):
    """Semantics-consistent feature search (Song et al. 2023, CVPR), a reconstruction from its title and a summary.

    The mean of a view's projected patches seeks its like among those that the running mean makes of another view
    (``guide: {ema: 0.996}``): their mean, weighted by ``softmax(cos / sharpness)``, is its positive, so that a crop is
    not drawn to what it does not show. Negatives are the mean patches of the other images of the batch. Views that the
    guide does not see, small crops, seek only. Averaged over all pairs of views. The paper searches in several layers;
    temperature and sharpness are ours.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    temperature : float
        Of the contrast.
    sharpness : float
        Temperature of the search.

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
        temperature: Positive = 0.2, sharpness: Positive = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.temperature, self.sharpness = temperature, sharpness

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The mean of the projected patches, (n, size)."""
        return parts["projector"](patches.tokens).mean(dim=1)  # type: ignore[no-any-return]

    def guide_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The projected patches, (n, P size)."""
        return super().patch_columns(patches, parts, inputs)

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """The mean of the teacher's patches of each image."""
        own = {name: z for name, z in outputs.items() if guide and not name.startswith("main/")}
        return {name: z.unflatten(1, (-1, self.size)).mean(dim=1) for name, z in own.items()}

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
            query, tokens = batch.own[seeker], batch.own_guide[name].unflatten(1, (-1, self.size))
            key = search(query.detach(), tokens, self.sharpness)
            means = batch.guide_parcel[name]
            losses.append(dense_contrast(query[:, None], key[:, None], only, means, rows, self.temperature).sum())
        return {self.term: torch.stack(losses).sum() / (len(pairs) * batch.size)}
