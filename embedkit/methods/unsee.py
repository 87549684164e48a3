"""UNSEE: sentence embeddings without negatives, by a deep predictor of a running mean of the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count
from embedkit.methods.base import methods
from embedkit.methods.simcse import SimCSEUnsupervised

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("unsee")
class UNSEE(SimCSEUnsupervised):
    """UNSEE (Çağatan 2024, EACL workshops; read in the official code).

    Views: a sentence twice; the encoder's dropout is on in the model and in the guide, which is a running mean of the
    encoder alone (``guide: {ema: 0.999}``). The model's vectors pass a predictor of `blocks` times Linear(d, k d) -
    BatchNorm - ReLU - Linear(k d, k d) - ReLU - Linear(k d, d), which is dropped at inference; each view is normalised
    over the whole batch of all processes by itself. The objective compares each prediction with the guide's vector of
    the other view: ``vicreg``, ``barlow-twins`` or ``corinfomax`` with ``keys: guide``, or ``byol`` with ``hidden: 0``.
    The released training script is set up for VICReg.

    Parameters
    ----------
    blocks : int
        Blocks of the predictor: 4, for BYOL 3.
    expansion : int
        k.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["unsee"]().objective
    {'name': 'vicreg', 'keys': 'guide'}
    """

    paper: ClassVar[str] = "Çağatan 2024, UNSEE: Unsupervised Non-contrastive Sentence Embeddings"
    objective: ClassVar[dict[str, Any]] = {"name": "vicreg", "keys": "guide"}

    def __init__(self, blocks: Count = 4, expansion: Count = 10) -> None:
        self.blocks, self.expansion = blocks, expansion

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        dim, wide = model.training_dim, self.expansion * model.training_dim
        layers: list[nn.Module] = []
        for _ in range(self.blocks):
            layers += [nn.Linear(dim, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(),
                       nn.Linear(wide, dim)]  # fmt: skip
        return nn.ModuleDict({"predictor": nn.Sequential(*layers)})

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {name: parts["predictor"](z) for name, z in outputs.items()}
