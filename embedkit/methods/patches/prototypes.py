"""The base of losses of patches that compare a student's distribution over prototypes with a running mean's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.methods.patches.term import PatchTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

MEAN = "mean/"


class PrototypeTerm(PatchTerm):
    """Patches and K prototypes, both with running means, and a centre of the teacher's cosines.

    The centre is the running mean of these cosines over all patches of the whole batch. It follows from the mean of the
    teacher's patches of length 1, so that nothing of N x P x K is gathered.

    Examples
    --------
    >>> PrototypeTerm.reads_guide
    True
    """

    reads_guide: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True
    followed: ClassVar[tuple[str, ...]] = ("projector", "prototypes")
    momentum: float = 0.9
    """Of the centre."""

    def with_prototypes(self, model: Model, count: int) -> nn.ModuleDict:
        """Projector, prototypes and the centre."""
        from torch import nn

        from embedkit.methods.patches.heads import Centre

        parts = super().parts(model)
        parts["prototypes"] = nn.Linear(self.size, count, bias=False)
        parts["centre"] = Centre(count, self.momentum)
        return parts

    def tokens_of(self, columns: Tensor) -> Tensor:
        """The projected patches (n, P, size) among the columns of an output."""
        return columns.unflatten(1, (-1, self.size))

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """The mean of the teacher's patches of each image, of length 1."""
        import torch.nn.functional as F

        own = {name: z for name, z in outputs.items() if guide and not name.startswith("main/")}
        return {f"{MEAN}{name}": F.normalize(self.tokens_of(z), dim=2).mean(dim=1) for name, z in own.items()}

    def table(self, parts: Any) -> Tensor:
        """The prototypes (K, size)."""
        return parts["prototypes"].weight  # type: ignore[no-any-return]

    def note_mean(self, batch: ObjectiveBatch) -> None:
        """Note the teacher's mean cosines (K,) of this batch for the centre, before its prototypes move."""
        import torch
        import torch.nn.functional as F

        with torch.no_grad():
            means = torch.cat([z for name, z in batch.guide_parcel.items() if name.startswith(MEAN)]).mean(dim=0)
            table = F.normalize(self.table(batch.guide_parts), dim=1)
            batch.choices[f"{MEAN}{self.term}"] = means @ table.T

    def teacher(self, tokens: Tensor, batch: ObjectiveBatch, parts: Any, temperature: float) -> Tensor:
        """The running mean's distribution of patches (n, P, size) over prototypes, centred and sharpened."""
        from embedkit.methods.patches.heads import cosines

        scores = cosines(tokens, self.table(batch.guide_parts)) - parts["centre"].mean
        return (scores / temperature).softmax(dim=2).detach()

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        """Move the centre."""
        centre: Any = parts["centre"]
        centre.follow(batch.choices[f"{MEAN}{self.term}"])
