"""CONPONO: which segment stands at which distance from another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("conpono")
class CONPONO(Method):
    """CONPONO (Iter et al. 2020, ACL), from its official code: the contrast of distances.

    Of each document one segment c is drawn, and the segments at the signed distances ``-reach .. reach`` that exist are
    its targets. For each of them ``t · W_k c``, with a bilinear map of its own for each signed distance k, tells it
    from `choices` targets: those of its own document and of the next rows of the batch. The maps are dropped at
    inference. The paper adds the masked-word loss: ``auxiliary: [{name: mlm}]``.

    Parameters
    ----------
    reach : int
        K.
    length : int
        Sentences of a segment.
    choices : int
        Targets that one is told from, itself included; the official records have 32. Theirs come from the same
        document and ones near it, here from the rows of the batch.

    Examples
    --------
    >>> row = {"sentences": ["One.", "Two.", "Three.", "Four."]}
    >>> views = CONPONO(reach=1).views([row], np.random.default_rng)
    >>> views["anchor"].inputs, views["targets"].inputs, views["targets"].places.tolist()
    (['Four.'], ['Three.'], [[-1]])
    """

    paper: ClassVar[str] = "Iter et al. 2020, ACL, Pretraining with contrastive sentence objectives, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"sentences"}), limits={"sentences": (2, float("inf"))})
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(self, reach: Count = 4, length: Count = 1, choices: Count = 32) -> None:
        if choices < 2 * reach:
            raise RecipeError(
                f"{choices} choices are fewer than the {2 * reach} targets of a document", where="method.choices",
                remedy=f"give at least {2 * reach}, or lower method.reach",
            )  # fmt: skip
        self.reach, self.length, self.choices = reach, length, choices

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "targets"})

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        size = model.training_dim
        maps = nn.Parameter(torch.empty(2 * self.reach, size, size).normal_(std=0.02))
        return nn.ModuleDict({"distances": nn.ParameterDict({"maps": maps})})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        anchors, targets, owner, offsets = [], [], [], []
        for i, row in enumerate(rows):
            segments = self._segments(row["sentences"])
            place = int(random(i).integers(len(segments)))
            anchors.append(segments[place])
            for offset in (k for k in range(-self.reach, self.reach + 1) if k and 0 <= place + k < len(segments)):
                targets.append(segments[place + offset])
                owner.append(i)
                offsets.append(offset)
        places = np.asarray(offsets, np.int64).reshape(-1, 1)
        return {"anchor": View(anchors, list(range(len(rows)))), "targets": View(targets, owner, places=places)}

    def _segments(self, sentences: Sequence[str]) -> list[str]:
        return [" ".join(sentences[at : at + self.length]) for at in range(0, len(sentences), self.length)]

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        from embedkit.objectives.losses.sequences import distance_loss

        distances: Any = parts["distances"]
        signed = batch.places["targets"][:, 0]
        number = signed + self.reach - (signed > 0).long()  # -K .. -1, 1 .. K to 0 .. 2K - 1
        targets, owner = outputs["targets"], batch.owner["targets"]
        maps = distances["maps"].to(targets.dtype)
        loss = distance_loss(outputs["anchor"], targets, owner, number, maps, batch.rows, self.choices)
        return {"distance": loss / max(1, len(targets))}
