"""VICRegL's local term: patches of two views that match by feature or by place, beside a method on two views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm, two_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("vicregl")
class VICRegL(PatchTerm):
    """Local VICReg (Bardes et al. 2022, NeurIPS, VICRegL, section 3).

    Of each image the projected patches of one view that lie nearest to a patch of the other, by their vectors or in the
    picture, are compared with these partners: VICReg whose statistics are over the batch, at each place of the order of
    distances. Both views search, the first for ``there`` matches, the second for ``back``. Only matches are gathered.
    The projector has no batch normalisation.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    there, back : int
        20 and 4 in the paper; all patches where there are fewer.
    invariance, variance, covariance : float
        Weights of the three terms.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["vicregl"]().matches
    (20, 4)
    """

    paper: ClassVar[str] = "Bardes et al. 2022, NeurIPS, VICRegL, section 3"
    term: ClassVar[str] = "local"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 2048, size: Count = 512,
        there: Count = 20, back: Count = 4, invariance: Positive = 25.0, variance: Positive = 25.0,
        covariance: Positive = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.matches = (there, back)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """Projected patches, each with its place in the picture."""
        import torch

        from embedkit.methods.patches.places import patch_places

        tokens = parts["projector"](patches.tokens)
        places = patch_places(torch.from_numpy(inputs.data["frame"]).to(tokens), patches.grid)
        return torch.cat([tokens, places], dim=2).flatten(1)

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """The matches of each image with their partners, in four sets."""
        import torch

        from embedkit.objectives.losses.patches import all_matches

        own = {name: z for name, z in outputs.items() if not name.startswith("main/")}
        if guide:
            return {}
        first, second = (own[name].unflatten(1, (-1, self.size + 2)) for name in two_views(own)[0])
        pairs = all_matches(
            first[:, :, : self.size], second[:, :, : self.size], first[:, :, self.size :].detach(),
            second[:, :, self.size :].detach(), self.matches,
        )  # fmt: skip
        return {f"matches {number}": torch.cat(pair, dim=1).flatten(1) for number, pair in enumerate(pairs)}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """VICReg of the matches of the whole batch: each process has its share of it."""
        import torch

        from embedkit.objectives.losses.patches import local_vicreg

        pairs = [outputs[f"matches {number}"].unflatten(1, (2, -1, self.size)) for number in range(4)]
        losses = [local_vicreg(pair[:, 0], pair[:, 1], **self.weights) for pair in pairs]
        return {self.term: torch.stack(losses).sum() / 2 * batch.share}
