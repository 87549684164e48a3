"""MoCo: two random views of each image, one of them embedded by a running mean of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Rate
from embedkit.errors import RecipeError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.common.two_views import TwoViews, projector

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("moco")
class MoCo(TwoViews):
    """MoCo v2 (He et al. 2020, section 3; Chen et al. 2020, arXiv 2003.04297).

    The recipe's ``guide.ema`` keeps a running mean of the encoder, which embeds the keys; a running mean of the
    projector is kept beside it. Objective: each query against its key and a queue of the last keys, temperature 0.2.
    Keys are not shuffled over processes: that hides batch statistics from the encoder, and image towers without batch
    normalisation have none to hide.

    Parameters
    ----------
    momentum : float
        Decay of the projector's mean; the same as ``guide.ema``.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["moco"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['image'], 'moco')
    """

    paper: ClassVar[str] = "He et al. 2020, CVPR, section 3; Chen et al. 2020, arXiv 2003.04297"
    reads_guide: ClassVar[bool] = True
    objective: ClassVar[dict[str, Any] | None] = {"name": "moco", "direction": {"name": "rows", "keys": "guide"}}
    _transform: ClassVar[str] = "moco"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = None, hidden: Count = 2048, size: Count = 128,
        momentum: Rate = 0.999,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.momentum = momentum

    def parts(self, model: Model) -> nn.ModuleDict:
        return self.with_mean(projector(model.training_dim, self.hidden, self.size, False), self.momentum)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        both = super().views(rows, random)
        both["anchor"].guided = False
        both["positive"].settings = {"key": True}
        return both

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Queries go through the model; keys only through its mean, the guide."""
        import torch

        if not settings.get("key"):
            return model(inputs)  # type: ignore[no-any-return]
        return torch.zeros(len(inputs), model.training_dim, dtype=model.dtype, device=inputs.device)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch

        if "positive" not in batch.guide:
            raise RecipeError(
                "moco needs a running mean of the encoder", where="guide", remedy="add guide: {ema: 0.999}"
            )
        with torch.no_grad():
            keys = parts["mean"](batch.guide["positive"])
        batch.guide = {"positive": keys}
        return {"anchor": parts["projector"](outputs["anchor"]), "positive": keys}

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        """Move the projector's mean."""
        self.follow(parts, self.momentum)
