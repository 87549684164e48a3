"""Learning from images alone with keys of a running mean: MoCo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.errors import RecipeError
from embedkit.methods.base import methods
from embedkit.methods.common.image_views import ImageViews

if TYPE_CHECKING:
    from embedkit.config.recipe import GuideConfig


@methods.add("moco")
class MoCo(ImageViews):
    """MoCo v2 (He et al. 2020, section 3; Chen et al. 2020, arXiv 2003.04297).

    The recipe's ``guide.ema`` keeps a running mean of encoder and projector, which embeds the keys. Objective: each
    query against its key and a queue of the last keys, temperature 0.2. Keys are not shuffled over
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
