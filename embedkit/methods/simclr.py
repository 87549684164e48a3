"""SimCLR: two random views of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.methods.base import methods
from embedkit.methods.common.two_views import TwoViews, projector

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("simclr")
class SimCLR(TwoViews):
    """SimCLR (Chen et al. 2020, sections 2 and 3).

    Objective: NT-Xent over both views of the whole batch, temperature 0.1. The projector has one hidden layer with
    batch normalisation over both views of the whole batch, on all processes together.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["simclr"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['image'], 'ntxent')
    """

    paper: ClassVar[str] = "Chen et al. 2020, ICML, sections 2 and 3"
    objective: ClassVar[dict[str, Any] | None] = {"name": "ntxent", "temperature": 0.1}

    def parts(self, model: Model) -> nn.ModuleDict:
        return self.with_mean(projector(model.training_dim, self.hidden, self.size, True), self.ema)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch

        def together(layers: Any, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
            whole = layers(torch.cat(list(vectors.values())))  # (2B, size)
            return dict(zip(vectors, whole.split([len(z) for z in vectors.values()]), strict=True))

        if "mean" in parts and batch.guide:
            with torch.no_grad():
                batch.guide = together(parts["mean"], batch.guide)
        return together(parts["projector"], {name: outputs[name] for name in ("anchor", "positive")})

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        """Move the projector's mean, where there is one."""
        if "mean" in parts:
            self.follow(parts, self.ema or 0.0)
