"""Deep embedded clustering: centres that vectors are drawn to, by itself or beside any other method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from embedkit.config.settings import Count, Positive
from embedkit.errors import ModelError, RecipeError, nearest
from embedkit.methods.base import Method, Row, View, methods
from embedkit.registry import services

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

Clusters = Annotated[int, Field(ge=2)]


@methods.add("dec")
class DeepClusters(Method):
    """Deep embedded clustering (Xie et al. 2016, section 3.1).

    Vectors belong to centres by a Student's t kernel, q_ij ~ (1 + |z_i - c_j|^2 / alpha)^(-(alpha + 1) / 2); the loss
    is KL(p || q), mean over the batch, with p_ij ~ q_ij^2 / sum_i q_ij, without gradient. The centres are trained, and
    start as those of k-means of the first rows.

    Parameters
    ----------
    clusters : int
        Centres.
    alpha : float
        Degrees of freedom.
    view : str
        Whose vectors; beside another method one of its views.
    rows : int
        How many k-means reads.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> sorted(methods["dec"](clusters=4).contract.requires)
    ['anchor']
    """

    paper: ClassVar[str] = "Xie et al. 2016, ICML, section 3.1"
    objective: ClassVar[dict[str, Any] | None] = None
    reads_main: ClassVar[bool] = True

    def __init__(
        self, clusters: Clusters = 8, alpha: Positive = 1.0, view: str = "anchor", rows: Count = 10_000
    ) -> None:  # fmt: skip
        self.clusters, self.alpha, self.view, self.start_rows = clusters, alpha, view, rows

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def adapt(self, model: Model) -> None:
        if not all(layer.runs(True) == layer.runs(False) for layer in getattr(model, "layers", ())):
            raise ModelError(
                "clusters are found among vectors that the model gives outside of training only",
                where="model.head.train_only", remedy="set it to false",
            )  # fmt: skip

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        centres = nn.Module()
        centres.register_parameter("weight", nn.Parameter(torch.randn(self.clusters, model.training_dim)))
        return nn.ModuleDict({"centres": centres})

    def learn_start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        import torch

        vectors = model.encode([row["anchor"] for row in rows], normalize=False)
        centres: Any = parts["centres"]
        centres.weight.data.copy_(torch.from_numpy(services["centres_of"](vectors, self.clusters)))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {self.view: View([row["anchor"] for row in rows], list(range(len(rows))))}

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        if views and self.view not in views:
            raise RecipeError(f"there is no view {self.view!r} here", where="auxiliary.dec.view",
                              remedy=nearest(self.view, list(views)))  # fmt: skip
        if any(views[name].tower != "text" for name in (self.view, "anchor") if name in views):
            raise RecipeError(
                "clusters are found among texts that are anchors, and these are images", where="auxiliary.dec",
                remedy="leave dec out, or put it beside a method on texts",
            )  # fmt: skip
        return {}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        from embedkit.methods.common.parts import own_rows

        centres: Any = parts["centres"]
        z = outputs[self.view]
        log_q = self.log_shares(z, centres.weight)
        sharp = 2 * log_q.detach() - log_q.detach().logsumexp(dim=0)
        log_p = sharp.log_softmax(dim=1)
        mine = own_rows(batch.owner[self.view], batch.rows)
        return {"clusters": (log_p.exp() * (log_p - log_q))[mine].sum() / len(z)}

    def log_shares(self, z: Tensor, centres: Tensor) -> Tensor:
        """log q (N, k) of vectors (N, D) and centres (k, D)."""
        import torch

        squares = torch.cdist(z, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        return (-(self.alpha + 1) / 2 * torch.log1p(squares / self.alpha)).log_softmax(dim=1)
