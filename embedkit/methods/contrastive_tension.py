"""Contrastive tension: two encoders that start equal must say which texts are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model


@methods.add("contrastive-tension")
class ContrastiveTension(Method):
    """Contrastive tension (Carlsson et al. 2021, section 3).

    Two copies of the encoder are trained, with no weight in common. The first reads the anchors, the second the same
    texts as positives. The objective ``contrastive-tension`` takes each text with itself and with 7 others; the
    in-batch form of sentence-transformers is ``objective: {name: clip, max_scale: null}``. The second copy is the
    model that is evaluated and saved: sentence-transformers keeps it ("usually better"); the first is dropped.

    A batch of the authors' is made of groups: a text with itself and with 7 others that are encoded for it alone. Here
    the others are texts of the batch, so that 16 texts make 16 x 8 pairs for the same cost; the share of equal pairs,
    one in eight, is theirs.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> views = methods["contrastive-tension"]().views([{"anchor": "a cat"}], np.random.default_rng)
    >>> {name: view.settings for name, view in views.items()}
    {'anchor': {'first': True}, 'positive': {}}
    """

    paper: ClassVar[str] = "Carlsson et al. 2021, ICLR, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = {"name": "contrastive-tension", "negatives": 7}

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def parts(self, model: Model) -> nn.ModuleDict:
        import copy

        from torch import nn

        return nn.ModuleDict({"first": copy.deepcopy(model)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        return {"anchor": View(texts, owner, settings={"first": True}), "positive": View(texts, owner)}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, first: bool = False, **settings: Any) -> Tensor:
        """Vectors (n, D) of the second encoder, which is kept, or with `first` of the other one."""
        encoder: Any = parts["first"] if first else model
        return encoder(inputs, **settings)
