"""SCCL: contrast of two views, and deep embedded clustering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, NotNegative, Positive
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Row, methods
from embedkit.methods.dec import Clusters, DeepClusters
from embedkit.methods.views import Steps, Views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("sccl")
class SCCL(Views):
    """Supporting clustering with contrastive learning (Zhang et al. 2021, NAACL, section 3).

    Contrast between two views behind a projector, Linear - ReLU - Linear, and deep embedded clustering of the encoder's
    own vectors. From memory of paper and code: the contrast counts ten times, the clusters half.

    Parameters
    ----------
    clusters, alpha, rows
        As in `DeepClusters`.
    weight : float
        Of the loss of the clusters.
    size : int
        Of the projected vectors.
    anchor, positive, more
        Chains of views, as in `Views`; the clusters are those of the anchors.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["sccl"](clusters=4).objective["terms"][0]["name"]
    'ntxent'
    """

    paper: ClassVar[str] = "Zhang et al. 2021, NAACL, section 3"
    contract: ClassVar[Contract] = Contract()
    objective: ClassVar[dict[str, Any]] = {
        "name": "sum", "terms": [{"name": "ntxent", "temperature": 0.5, "weight": 10.0}]
    }  # fmt: skip

    def __init__(
        self, clusters: Clusters = 8, alpha: Positive = 1.0, weight: NotNegative = 0.5, size: Count = 128,
        rows: Count = 10_000, anchor: Steps = (), positive: Steps = (), more: Sequence[Steps] = (),
    ) -> None:  # fmt: skip
        super().__init__(anchor, positive, None, more)
        self.dec, self.weight, self.size, self.start_rows = DeepClusters(clusters, alpha, rows=rows), weight, size, rows

    @property
    def embedding_size(self) -> int | None:
        return self.size

    def embedding_dim(self, model: Model) -> int:
        return self.size

    def adapt(self, model: Model) -> None:
        self.dec.adapt(model)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        dim = model.training_dim
        projector = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, self.size))
        return nn.ModuleDict({"projector": projector, **self.dec.parts(model)})

    def learn_start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        self.dec.learn_start(model, parts, rows)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {name: parts["projector"](z) for name, z in super().project(outputs, batch, parts).items()}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        return {name: self.weight * x for name, x in self.dec.terms(outputs, embeddings, batch, parts).items()}
