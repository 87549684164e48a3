"""DreamLIP's grouping loss: each sentence against the patches of its image that fit it, beside CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Positive, Share
from embedkit.methods.base import methods
from embedkit.methods.patches.captions import CaptionTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("patch-grouping")
class PatchGrouping(CaptionTerm):
    """Caption-to-patch grouping (DreamLIP, Zheng et al. 2024, ECCV, section 3.3), beside a method on image-text pairs.

    The cosines of a text with the projected patches of its image are brought to 0 .. 1; those below ``threshold`` count
    0; what is left weighs the patches into one vector. That vector and the text are contrasted with those of all other
    texts of the batch, both ways, with a learned scale of its own. Equal texts are no negatives of each other; other
    texts of one image are, as in the official code. Patches stay on their process: the weighted means are gathered.

    Parameters
    ----------
    threshold : float, optional
        One over the number of patches when None; the official code has 0.1.
    temperature : float
        The scale's start is one over it.
    view : str
        The view of the method beside it that has the texts.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["patch-grouping"]().term
    'grouping'
    """

    paper: ClassVar[str] = "Zheng et al. 2024, ECCV, DreamLIP, section 3.3"
    term: ClassVar[str] = "grouping"

    def __init__(
        self, threshold: Share | None = None, temperature: Positive = 0.07, view: str = "positive"
    ) -> None:  # fmt: skip
        super().__init__(view)
        self.threshold, self.temperature = threshold, temperature

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        layer = nn.Linear(model.image.token_width, model.training_dim, bias=False)  # type: ignore[arg-type,union-attr]
        scale = nn.ParameterDict({"log_scale": nn.Parameter(torch.tensor(-float(np.log(self.temperature))))})
        return nn.ModuleDict({"projector": layer, "scale": scale})

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """For each text the weighted mean of its image's patches."""
        import torch

        from embedkit.methods.patches.losses import grouped

        images = [name for name in outputs if not name.startswith("main/")]
        if guide or not images:
            return {}
        image, texts = images[0], outputs[f"main/{self.view}"]
        patches = outputs[image].unflatten(1, (-1, texts.shape[1]))
        place = torch.searchsorted(owner[image], owner[f"main/{self.view}"])
        return {"texts": grouped(texts, patches[place], self.threshold)}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch.nn.functional as F

        from embedkit.methods.common.parts import own_rows

        name = f"main/{self.view}"
        texts, means = F.normalize(outputs[name], dim=1), F.normalize(outputs["texts"], dim=1)
        scales: Any = parts["scale"]
        scale, keys = scales["log_scale"].exp().clamp(max=100.0), batch.keys[name]
        places = own_rows(batch.owner[name], batch.rows).nonzero()[:, 0]
        same = keys[places, None] == keys[None]
        same[range(len(places)), places] = False
        losses = [
            F.cross_entropy(
                (scale * first[places] @ second.T).masked_fill(same, -float("inf")), places, reduction="sum"
            )
            for first, second in ((means, texts), (texts, means))
        ]
        return {self.term: (losses[0] + losses[1]) / (2 * len(texts))}
