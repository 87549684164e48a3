"""CompCSE: the positive of a sentence is composed of its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.augmenting import compose
from embedkit.views.spans import cut

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("compcse")
class CompCSE(Method):
    """Composition-contrastive learning (Chanchani and Huang 2023, ACL, section 3).

    Views: the sentence, and its parts, whose vectors are composed *before* the training head, Linear - Tanh, to one
    positive: their mean, or the first half of the numbers of the first part and the second half of those of the last.
    Objective: InfoNCE, temperature 0.05, on the first `prefix` numbers behind the head. The head is dropped at
    inference, where all numbers of the encoder's vector count.

    Where rows have a positive it holds the parts, with `separator` between them (a partition file). The released file
    was made with a discourse parser, by a rule that could not be verified; without positives a sentence is cut in two
    at a random word, `least` words in each part at least, and a shorter one is its own single part.

    Parameters
    ----------
    composition : str
        "mean", as for BERT, or "halves", as for RoBERTa.
    prefix : int or None
        Numbers that are compared; None for all.
    separator : str
        What stands between the parts in a partition file.
    least : int
        Words of a part.

    Examples
    --------
    >>> method = CompCSE(separator="|")
    >>> method.views([{"anchor": "a red car", "positive": "a red | car"}], np.random.default_rng)["positive"].inputs
    ['a red', 'car']
    """

    paper: ClassVar[str] = "Chanchani and Huang 2023, ACL, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}), accepts=frozenset({"positive"}))
    objective: ClassVar[dict[str, Any] | None] = {"name": "infonce", "temperature": 0.05}
    takes_parts: ClassVar[bool] = False

    def __init__(
        self, composition: Literal["mean", "halves"] = "mean", prefix: Count | None = 256, separator: str = "\t",
        least: Count = 3,
    ) -> None:  # fmt: skip
        self.composition, self.prefix, self.separator, self.least = composition, prefix, separator, least

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def embedding_dim(self, model: Model) -> int:
        return min(self.prefix or model.training_dim, model.training_dim)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.methods.common.parts import tanh_head

        return nn.ModuleDict({"head": tanh_head(model)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        pieces = [self.cut(row["anchor"], row.get("positive"), random(i)) for i, row in enumerate(rows)]
        owner = [i for i, parts in enumerate(pieces) for _ in parts]
        anchors = View([row["anchor"] for row in rows], list(range(len(rows))))
        return {"anchor": anchors, "positive": View([part for parts in pieces for part in parts], owner)}

    def cut(self, text: str, partition: str | None, random: np.random.Generator) -> list[str]:
        """The parts of a text: those of the partition, or two at a random place."""
        if partition is not None:
            return [part.strip() for part in partition.split(self.separator) if part.strip()] or [text]
        words = text.split()
        free = len(words) - 2 * self.least
        if free < 0:
            return [text]
        (_, first), _ = cut(free + 2, random)  # one word of a part may move, the rest is bound to its side
        place = first - 1 + self.least
        return [" ".join(words[:place]), " ".join(words[place:])]

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch

        z, owner = outputs["positive"], batch.owner["positive"].contiguous()
        places = torch.arange(batch.size, device=owner.device)
        first, last = torch.searchsorted(owner, places), torch.searchsorted(owner, places, right=True) - 1
        whole = compose("positive", z, batch)
        if self.composition == "halves":
            half = z.shape[1] // 2
            whole = torch.cat([z[first, :half], z[last, half:]], dim=1)
        return {"anchor": parts["head"](outputs["anchor"])[:, : self.prefix],
                "positive": parts["head"](whole)[:, : self.prefix]}  # fmt: skip
