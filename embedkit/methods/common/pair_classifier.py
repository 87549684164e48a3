"""A classifier of pairs of texts by features of both vectors, in training only (Sentence-BERT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


class PairClassifier(Method):
    """Base of methods that classify pairs (Reimers and Gurevych 2019, section 3).

    Rows have two texts, anchor and positive, and a label. Views: ``anchor`` and ``hypothesis``, the mean of the last
    layer's tokens each. Loss: cross-entropy of a linear layer on features of both vectors.

    Parameters
    ----------
    classes : int
        Labels.
    features : sequence of str
        Names as in `embedkit.methods.common.head_terms.PAIR_FEATURES`.
    changes : mapping
        Forward settings of both views.

    Examples
    --------
    >>> rows = [{"anchor": "a cat", "positive": "an animal", "label": 0}]
    >>> views = PairClassifier(2, ["u", "v"], {}).views(rows, np.random.default_rng)
    >>> {name: view.inputs for name, view in views.items()}
    {'anchor': ['a cat'], 'hypothesis': ['an animal']}
    """

    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor", "positive", "label"}))
    reads: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(self, classes: int, features: Sequence[str], changes: dict[str, Any]) -> None:
        self.classes, self.features, self.changes = classes, features, changes
        limits = {"label": (0.0, classes - 1.0)}
        self.contract = Contract(requires=type(self).contract.requires, limits=limits)  # type: ignore[misc]

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({"classifier": nn.Linear(len(self.features) * model.training_dim, self.classes)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return self.both(rows, ("anchor", "hypothesis"), self.changes)

    def both(self, rows: Sequence[Row], names: Sequence[str], changes: dict[str, Any]) -> dict[str, View]:
        """Views by name of the first and the second texts, with forward settings."""
        owner, settings = list(range(len(rows))), {"pooling": "mean", **changes}
        roles = zip(names, ("anchor", "positive"), strict=True)
        return {name: View([row[role] for row in rows], owner, settings=settings) for name, role in roles}

    def class_losses(self, u: Tensor, v: Tensor, labels: Tensor, parts: nn.ModuleDict) -> Tensor:
        """Sum of the cross-entropies of pairs of vectors (N, D), given their classes (N,)."""
        import torch.nn.functional as F

        from embedkit.methods.common.head_terms import pair_features

        return F.cross_entropy(parts["classifier"](pair_features(u, v, self.features)), labels, reduction="sum")

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        u, v = (outputs[name][batch.rows] for name in ("anchor", "hypothesis"))
        return {"classes": self.class_losses(u, v, batch.label[batch.rows], parts) / batch.size}
