"""PaKA: which patches of an image are alike is to be what a teacher says, beside any method on images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.errors import ModelError
from embedkit.methods.base import methods
from embedkit.methods.patches.term import PatchTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("patch-kernels")
class PatchKernels(PatchTerm):
    """Patch-level kernel alignment (PaKA 2025, arXiv 2509.05606).

    The products of all pairs of an image's patches, centred, are to be those of the guide's patches of the same view up
    to a factor: one less the centred kernel alignment, averaged over images. Vectors may have other sizes; the grids
    must be equal. There is no projector. The guide is a frozen dual encoder; a running mean that sees the same image
    as its student teaches nothing unless patches are hidden from the student, by `ibot` say. The paper compares two
    crops where they overlap; only its abstract was read.

    Parameters
    ----------
    transform : str or mapping
        Random changes of the two views when it stands by itself.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["patch-kernels"]().reads_guide
    True
    """

    paper: ClassVar[str] = "PaKA 2025, arXiv 2509.05606"
    followed: ClassVar[tuple[str, ...]] = ()
    term: ClassVar[str] = "kernels"
    reads_guide: ClassVar[bool] = True

    def __init__(self, transform: str | Mapping[str, Any] | None = "moco") -> None:
        super().__init__(transform)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict()

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The number of patches, and the patches as they are."""
        import torch

        flat = patches.tokens.flatten(1)
        return torch.cat([flat.new_full((len(flat), 1), patches.tokens.shape[1]), flat], dim=1)

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """The misalignment of this process's images, over the views that both see."""
        import torch

        from embedkit.objectives.losses.patches import kernel_misalignment

        names = [name for name in batch.own if name in batch.own_guide]
        if not names:
            raise ModelError("no teacher's patches of the views that are trained", where="guide",
                             remedy="add guide: {model: ...} of a dual encoder")  # fmt: skip
        losses = [kernel_misalignment(_tokens(batch.own[name]), _tokens(batch.own_guide[name])) for name in names
                  if len(batch.own[name])]  # fmt: skip
        total = torch.cat(losses).sum() if losses else batch.own[names[0]].sum()
        return {self.term: total / (len(names) * batch.size)}


def _tokens(columns: Tensor) -> Tensor:
    """Patches (n, P, W) behind their number."""
    return columns[:, 1:].unflatten(1, (int(columns[0, 0]), -1))
