"""iBOT's patch term: hidden patches against what a running mean makes of them, beside a method on whole images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Positive, Rate, Share
from embedkit.methods.base import methods
from embedkit.methods.patches.prototypes import PrototypeTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("ibot")
class IBot(PrototypeTerm):
    """Masked patches with an online tokenizer (Zhou et al. 2022, ICLR, section 3.2).

    The student sees images some of whose patches are hidden behind a mask token, the running mean of the encoder
    (``guide: {ema: 0.996}``) sees all. Both heads, the teacher's a running mean too, end in cosines with ``prototypes``
    directions. Of each hidden patch the student's distribution is to be the teacher's, which is centred and sharpened:
    cross-entropy, averaged over the hidden patches of an image. This happens to an image with probability ``share``, at
    a rate drawn evenly from ``low`` to ``high``; hidden patches are drawn one by one, not in blocks.

    Parameters
    ----------
    transform, hidden, size
        See `PatchTerm`; `size` is that of the vectors that are compared with prototypes.
    prototypes : int
    temperature, teacher_temperature : float
        Of student and teacher.
    momentum : float
        Of the centre.
    share : float
        Share of the images of which patches are hidden.
    low, high : float
        Least and largest share of hidden patches.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["ibot"]().prototypes
    8192
    """

    paper: ClassVar[str] = "Zhou et al. 2022, ICLR, iBOT, section 3.2"
    term: ClassVar[str] = "masked"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 2048, size: Count = 256,
        prototypes: Count = 8192, temperature: Positive = 0.1, teacher_temperature: Positive = 0.07,
        momentum: Rate = 0.9, share: Share = 0.5, low: Share = 0.1, high: Share = 0.5,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.prototypes, self.temperature, self.teacher_temperature = prototypes, temperature, teacher_temperature
        self.momentum, self.share, self.rates = momentum, share, (low, high)

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        tower: Any = model.image
        tower.patch_embedding()  # refuses a tower without one
        parts = self.with_prototypes(model, self.prototypes)
        parts["mask"] = nn.ParameterDict({"filler": nn.Parameter(torch.zeros(tower.token_width))})
        return parts

    def cover(self, inputs: Any, parts: nn.ModuleDict) -> tuple[Tensor, Tensor] | None:
        """The hidden patches of each image, drawn from its seed."""
        import torch

        from embedkit.models.modules.patches import seeded

        count, (low, high) = inputs.patches, self.rates
        draws = seeded(inputs.data["seeds"], count + 2, inputs.device)
        chance = draws[:, :2].double() / 2**63
        rate = torch.where(chance[:, 0] < self.share, low + (high - low) * chance[:, 1], 0.0)
        rank = draws[:, 2:].argsort(dim=1).argsort(dim=1)
        mask: Any = parts["mask"]
        return rank < (rate * count).round()[:, None], mask["filler"]

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """Projected patches, and behind each whether it was hidden."""
        import torch

        cover = self.cover(inputs, parts)
        assert cover is not None
        tokens = parts["projector"](patches.tokens)
        return torch.cat([tokens, cover[0][:, :, None].to(tokens.dtype)], dim=2).flatten(1)

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

        self.need_mean(batch, parts)
        names, losses = [name for name in batch.own if name in batch.own_guide], []
        table: Any = parts["prototypes"]
        for name in names:
            tokens, hidden = self._split(batch.own[name])
            student = (cosines(tokens, table.weight) / self.temperature).log_softmax(dim=2)
            teacher = self.teacher(self.tokens_of(batch.own_guide[name]), parts, self.teacher_temperature)
            losses.append(assignment_loss(student, teacher, hidden).sum())
        return {self.term: torch.stack(losses).sum() / (len(names) * batch.size)}
