"""WhitenedCSE: several encodings of a sentence, each whitened in groups of features that are shuffled anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedkit.config.settings import Count, NotNegative
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("whitenedcse")
class WhitenedCSE(Method):
    """WhitenedCSE (Zhuo et al. 2023, ACL, section 3).

    Views: a sentence several times, by dropout. Behind the encoder stands shuffled group whitening (`groups` groups of
    features, drawn anew for every view, over the whole batch of all processes), then Linear - Tanh; all of it is
    dropped at inference. Objective: the sum of InfoNCE from the first encoding to each of the others, temperature 0.05.

    The released code does not run as it is (two modules and two options are missing). It cuts the batch, in which the
    encodings of a sentence stand side by side, into as many parts as there are views: ``by: sentence`` whitens such
    parts, of a third of the sentences in all their encodings, ``by: view`` (the default, and the paper) whitens each
    view by itself. It has no `eps`; 0 repeats that. Sub-word repetition, which its script asks for and its code does
    not have, is left out: `augment` has it.

    Parameters
    ----------
    positives : int
        Further encodings of a sentence.
    groups : int
        Groups of features; 128 in the code, which makes 6 features a group of 768.
    eps : float
        Added to the variances. A group needs more rows than features where it is 0.
    by : str
        "view" or "sentence".

    Examples
    --------
    >>> views = WhitenedCSE().views([{"anchor": "a cat"}], np.random.default_rng)
    >>> list(views)
    ['anchor', 'positive', 'view3']
    """

    paper: ClassVar[str] = "Zhuo et al. 2023, ACL, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = {"name": "multi-positive", "temperature": 0.05}

    def __init__(
        self, positives: Count = 2, groups: Count = 128, eps: NotNegative = 1e-5,
        by: Literal["view", "sentence"] = "view",
    ) -> None:  # fmt: skip
        self.groups, self.eps, self.by = groups, eps, by
        self.names = ("anchor", "positive", *(f"view{place}" for place in range(3, positives + 2)))

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(self.names)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.methods.common.parts import tanh_head
        from embedkit.methods.common.whitening import ShuffledGroupWhitening

        whitening = ShuffledGroupWhitening(model.training_dim, self.groups, self.eps)
        return nn.ModuleDict({"whitening": whitening, "head": tanh_head(model)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts = [row["anchor"] for row in rows]
        return {name: View(texts, list(range(len(rows)))) for name in self.names}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch

        every = torch.stack([outputs[name] for name in self.names], dim=0 if self.by == "view" else 1)
        pieces = every.flatten(0, 1).split(batch.size)  # as many rows as a view has, whatever they are of
        white = [parts["whitening"](z, batch.generator("whitening", place)) for place, z in enumerate(pieces)]
        heads = parts["head"](torch.cat(white)).view(*every.shape[:2], -1)
        return dict(zip(self.names, heads.unbind(0 if self.by == "view" else 1), strict=True))
