"""PixPro: patches at one place of the picture agree in two views, each with what is like it in its own view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm, two_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch

_FRAME = 7  # numbers of a frame


@methods.add("pixpro")
class PixPro(PatchTerm):
    """Pixel-to-propagation consistency (Xie et al. 2021, CVPR, section 3.2).

    Two patches are a pair where their middles are nearer in the picture than ``threshold`` times the longer diagonal of
    a patch of the two views. Each patch of one view becomes the sum of a linear map of all patches of its view,
    weighted by max(cosine, 0) ** power, and is brought near its pairs in the other view. The targets are those of the
    running mean of encoder and projector (``guide: {ema: 0.99}``), or without one the other view's own without
    gradient. The projector has no batch normalisation: patches stay with their image, on its process.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    threshold, power : float
        0.7 and 2 in the paper.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["pixpro"]().threshold
    0.7
    """

    paper: ClassVar[str] = "Xie et al. 2021, CVPR, Propagate Yourself, section 3.2"
    term: ClassVar[str] = "propagation"
    reads_guide: ClassVar[bool] = True

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 2048, size: Count = 256,
        threshold: Positive = 0.7, power: Positive = 2.0,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.threshold, self.power = threshold, power

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({**super().parts(model), "propagation": nn.Linear(self.size, self.size)})

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The frame of each view and its grid, and behind them the projected patches."""
        import torch

        dense = super().patch_columns(patches, parts, inputs)
        frame = torch.from_numpy(inputs.data["frame"]).to(dense)
        return torch.cat([frame, frame.new_tensor(patches.grid).expand(len(frame), 2), dense], dim=1)

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.losses import consistency, near, propagated
        from embedkit.methods.patches.places import patch_diagonal, patch_places

        losses = []
        teacher = {**batch.own, **batch.own_guide}
        for name, other in two_views(teacher):
            if name not in batch.own:
                continue
            (frame, grid, tokens), (other_frame, other_grid, targets) = map(
                self._split, (batch.own[name], teacher[other].detach())
            )
            reach = torch.maximum(patch_diagonal(frame, grid), patch_diagonal(other_frame, other_grid))
            pairs = near(patch_places(frame, grid), patch_places(other_frame, other_grid), reach, self.threshold)
            tokens_there = propagated(tokens, parts["propagation"](tokens), self.power)
            losses.append(consistency(tokens_there, targets, pairs).sum())
        return {self.term: torch.stack(losses).sum() / batch.size}

    def _split(self, columns: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
        """Frames (n, 7), the grid, and patches (n, P, size)."""
        frame, tokens = columns[:, :_FRAME].detach(), columns[:, _FRAME + 2 :].unflatten(1, (-1, self.size))
        down, across = (int(side) for side in columns[0, _FRAME : _FRAME + 2]) if len(columns) else (1, 1)
        return frame, (down, across), tokens
