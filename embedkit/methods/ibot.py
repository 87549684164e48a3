"""iBOT's patch term: hidden patches against what a running mean makes of them, beside a method on whole images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from embedkit.config.settings import Count, Positive, Rate, Share
from embedkit.methods.base import methods
from embedkit.methods.patches.blocks import HiddenPatches
from embedkit.methods.patches.shared import SharedHeadTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch

_HIDDEN = "hidden"


@methods.add("ibot")
class IBot(SharedHeadTerm):
    """Masked patches with an online tokenizer (Zhou et al. 2022, ICLR, section 3.2).

    The student sees images some of whose patches are hidden behind a mask token, the running mean of the encoder
    (``guide: {ema: 0.996}``) sees all. Heads end in cosines with prototypes, the teacher's a running mean too. Of each
    hidden patch the student's distribution is to be the teacher's, which is centred and sharpened: cross-entropy,
    averaged over the hidden patches of an image. This happens to an image with probability ``share``, at a rate drawn
    evenly from ``low`` to ``high``. Which ones, is a function of the image's seed. Views of another size than the
    model's are left whole.

    Parameters
    ----------
    transform, hidden, size, prototypes, shared
        See `embedkit.methods.patches.shared.SharedHeadTerm`; the paper shares the head (section 3.2).
    temperature, teacher_temperature : float
        Of student and teacher.
    momentum : float
        Of the centre.
    share : float
        Share of the images of which patches are hidden.
    low, high : float
        Least and largest share of hidden patches.
    shape : str
        "blocks" hides rectangles until the rate is reached, as the paper and BEiT do (from memory), see
        `embedkit.methods.patches.blocks.blocks`; "patches" are drawn one by one.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["ibot"]().prototypes
    8192
    """

    paper: ClassVar[str] = "Zhou et al. 2022, ICLR, iBOT, section 3.2"
    term: ClassVar[str] = "masked"
    guides_own_views: ClassVar[bool] = True

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count | None = None,
        size: Count | None = None, prototypes: Count | None = None, temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.07, momentum: Rate = 0.9, share: Share = 0.5, low: Share = 0.1,
        high: Share = 0.5, shared: bool = False, shape: Literal["blocks", "patches"] = "blocks",
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size, prototypes, shared)
        self.mask = HiddenPatches(share, low, high, shape)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.momentum, self.whole, self.grid = momentum, (0, 0), (0, 0)

    def check_patches(self, grid: tuple[int, int]) -> None:
        self.mask.check(grid)

    def notes(self, model: Model) -> list[str]:
        return self.mask.notes(self.grid)

    def check_tower(self, tower: Any) -> None:
        super().check_tower(tower)
        tower.patch_embedding()  # refuses a tower without one

    def adapt(self, model: Model) -> None:
        super().adapt(model)
        tower: Any = model.image
        self.whole, self.grid = tuple(tower.size), tower.grid()
        self.check_patches(self.grid)

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        tower: Any = model.image
        parts = self.head_parts(model)
        parts["mask"] = nn.ParameterDict({"filler": nn.Parameter(torch.zeros(tower.token_width))})
        return parts

    def before_main(self, model: Any, inputs: Any) -> Any:
        """The images, and of each which patches are hidden."""
        if not hasattr(inputs, "pixels") or getattr(inputs, "size", None) != self.whole:
            return inputs
        return inputs.replace(**{_HIDDEN: self.mask(inputs.data["seeds"], self.grid)})

    def cover(self, inputs: Any, parts: nn.ModuleDict) -> tuple[Tensor, Tensor] | None:
        """The hidden patches of each image, drawn from its seed."""
        import torch

        if tuple(inputs.size) != self.whole:
            return None
        mask, hidden = parts["mask"], inputs.data.get(_HIDDEN)  # type: Any, Any
        hidden = self.mask(inputs.data["seeds"], self.grid) if hidden is None else hidden
        return torch.from_numpy(hidden).to(inputs.device), mask["filler"]

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """Projected patches, and behind each whether it was hidden."""
        import torch

        tokens, cover = self.projected(patches.tokens, parts), self.cover(inputs, parts)
        hidden = tokens.new_zeros(tokens.shape[:2]) if cover is None else cover[0].to(tokens.dtype)
        return torch.cat([tokens, hidden[:, :, None]], dim=2).flatten(1)

    def tokens_of(self, columns: Tensor) -> Tensor:
        return self._split(columns)[0]

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        both = columns.unflatten(1, (-1, self.size + 1))
        return both[:, :, : self.size], both[:, :, self.size] > 0

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.patches.heads import assignment_loss, cosines

        self.note_mean(batch)
        names, losses = [name for name in batch.own if name in batch.own_guide], []
        table = self.student_table(batch, parts)
        for name in names:
            tokens, hidden = self._split(batch.own[name])
            student = (cosines(tokens, table) / self.temperature).log_softmax(dim=2)
            teacher = self.teacher(self.tokens_of(batch.own_guide[name]), batch, parts, self.teacher_temperature)
            losses.append(assignment_loss(student, teacher, hidden).sum())
        return {self.term: torch.stack(losses).sum() / (len(names) * batch.size)}
