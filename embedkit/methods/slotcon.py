"""SlotCon: patches fall into learned slots, alike in two views; the slots of an image are contrasted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive, Rate, Share
from embedkit.methods.base import methods
from embedkit.methods.patches.prototypes import PrototypeTerm
from embedkit.methods.patches.term import two_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("slotcon")
class SlotCon(PrototypeTerm):
    """Semantic grouping (Wen et al. 2022, NeurIPS, section 3).

    Patches are assigned to ``slots`` directions by softmax over cosines. The student's assignment of a patch is to be
    the running mean's (``guide: {ema: 0.99}``), centred and sharpened, of the patch of the other view that is nearest
    in the picture, where it is nearer than a patch's diagonal (the paper aligns the overlap of the two crops instead).
    Means of patches by assignment are an image's slots; a predicted slot of the student is contrasted with the
    teacher's slots of the whole batch in the other view, those that are the largest of some patch. Only these means
    are gathered.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`.
    slots : int
        Number of slots.
    weight : float
        Of the assignments' loss; the contrast has the rest.
    temperature, teacher_temperature, contrast_temperature : float
        Of the student's assignments, of the teacher's, and of the contrast of slots.
    momentum : float
        Of the centre.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["slotcon"]().slots
    256
    """

    paper: ClassVar[str] = (
        "Wen et al. 2022, NeurIPS, Self-Supervised Visual Representation Learning with Semantic Grouping"
    )
    term: ClassVar[str] = "slots"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 4096, size: Count = 256,
        slots: Count = 256, weight: Share = 0.5, temperature: Positive = 0.1, teacher_temperature: Positive = 0.07,
        contrast_temperature: Positive = 0.2, momentum: Rate = 0.9,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.slots, self.weight, self.momentum = slots, weight, momentum
        self.temperatures = (temperature, teacher_temperature, contrast_temperature)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        parts = self.with_prototypes(model, self.slots)
        parts["predictor"] = nn.Sequential(
            nn.Linear(self.size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.size)
        )
        return parts

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """A patch's diagonal in the picture, and behind it the projected patches, each with its place."""
        import torch

        from embedkit.methods.patches.places import patch_diagonal, patch_places

        frame = torch.from_numpy(inputs.data["frame"]).to(patches.tokens)
        both = torch.cat([parts["projector"](patches.tokens), patch_places(frame, patches.grid)], dim=2)
        return torch.cat([patch_diagonal(frame, patches.grid)[:, None], both.flatten(1)], dim=1)

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Diagonals (n,), patches (n, P, size) and places (n, P, 2)."""
        both = columns[:, 1:].unflatten(1, (-1, self.size + 2))
        return columns[:, 0].detach(), both[:, :, : self.size], both[:, :, self.size :].detach()

    def _slots(self, columns: Tensor, table: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        from embedkit.methods.patches.heads import cosines, slots_of

        tokens = self._split(columns)[1]
        return slots_of(tokens, (cosines(tokens, table) / temperature).softmax(dim=2))

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """Which slots an image has; of the teacher the slots too."""
        import torch

        table: Any = parts["prototypes"]
        parcel = super().exchange(outputs, owner, parts, guide)
        for name, z in outputs.items():
            if not name.startswith("main/"):
                slots, there = self._slots(z, table.weight, self.temperatures[1 if guide else 0])
                parcel[name] = torch.cat([there.to(z.dtype), *([slots.flatten(1)] if guide else [])], dim=1)
        return parcel

    def tokens_of(self, columns: Tensor) -> Tensor:
        return self._split(columns)[1]

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.heads import slot_contrast

        self.note_mean(batch)
        losses, table = [], parts["prototypes"].weight
        for name, other in two_views(batch.own_guide):
            if name not in batch.own:
                continue
            slots, there = self._slots(batch.own[name], table, self.temperatures[0])  # type: ignore[arg-type]
            teacher_columns = batch.guide_parcel[other]
            keys = teacher_columns[:, self.slots :].unflatten(1, (self.slots, self.size))
            contrast = slot_contrast(parts["predictor"](slots), there, keys, teacher_columns[:, : self.slots] > 0,
                                     batch.rows.start, self.temperatures[2])  # fmt: skip
            count = ((outputs[name] > 0) & (teacher_columns[:, : self.slots] > 0)).sum().clamp_min(1)
            groups = self._assignments(batch.own[name], batch.own_guide[other], batch, parts).sum() / batch.size
            losses.append(self.weight * groups + (1 - self.weight) * contrast / count)
        return {self.term: torch.stack(losses).mean()}

    def _assignments(self, own: Tensor, teacher_columns: Tensor, batch: ObjectiveBatch, parts: Any) -> Tensor:
        """The loss of assignments of each image, (n,)."""
        import torch

        from embedkit.methods.patches.heads import assignment_loss, cosines
        from embedkit.methods.patches.places import nearest_places

        (reach, tokens, places), (other_reach, others, other_places) = self._split(own), self._split(teacher_columns)
        match = nearest_places(places, other_places)[:, :, None]
        gap = (places - other_places.gather(1, match.expand(-1, -1, 2))).norm(dim=2)
        student = (cosines(tokens, parts["prototypes"].weight) / self.temperatures[0]).log_softmax(dim=2)
        teacher = self.teacher(others, batch, parts, self.temperatures[1]).gather(1, match.expand(-1, -1, self.slots))
        return assignment_loss(student, teacher, gap < torch.maximum(reach, other_reach)[:, None])
