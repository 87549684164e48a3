"""Learning from images alone with keys of a running mean: MoCo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.errors import RecipeError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.common.image_views import ImageViews

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("moco")
class MoCo(ImageViews):
    """MoCo v2 (He et al. 2020, section 3; Chen et al. 2020, arXiv 2003.04297).

    The recipe's ``guide.ema`` keeps a running mean of encoder and projector, which embeds the keys. Objective: each
    query against its key and a queue of the last keys, temperature 0.2. What an objective takes no gradient through is
    embedded by the running mean alone, and what it reads no key of, by the encoder alone. Keys are not shuffled over
    processes: that hides batch statistics from the encoder, and image towers without batch normalisation have none to
    hide. Settings: those of `ImageViews`; the projector has no batch normalisation.

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
    _norm: ClassVar[bool] = False

    def use_guide(self, guide: GuideConfig | None) -> None:
        super().use_guide(guide)
        if "projector" not in self.guide_parts:
            raise RecipeError(
                "moco needs a running mean of the encoder and its projector", where="guide",
                remedy="add guide: {ema: 0.999}" if guide is None else "leave guide.parts out, and set guide.ema",
            )  # fmt: skip

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        views = super().views(rows, random)
        for name, view in views.items():
            if self._is_key(name):
                view.settings, view.guided = {"key": True}, True
        return views

    def _is_key(self, name: str) -> bool:
        return self.trained_views is not None and name not in self.trained_views

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Queries go through the model; keys only through its mean, the guide."""
        import torch

        if not settings.get("key"):
            return model(inputs)  # type: ignore[no-any-return]
        return torch.zeros(len(inputs), model.training_dim, dtype=model.dtype, device=inputs.device)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        queries = {name: z for name, z in outputs.items() if not self._is_key(name)}
        keys = {name: batch.guide[name] for name in outputs if self._is_key(name)}
        return {**super().project(queries, batch, parts), **keys}
