"""Learning from images alone, two random views of each: SimCLR and MoCo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.settings import Count, Rate
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


def projector(inputs: int, hidden: int, outputs: int, norm: bool) -> nn.Sequential:
    """Linear, batch normalisation where `norm` is set, ReLU, linear: (N, inputs) -> (N, outputs)."""
    from torch import nn

    between: list[nn.Module] = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(inputs, hidden, bias=not norm), *between, nn.ReLU(), nn.Linear(hidden, outputs))


class TwoViews(Method):
    """Base of methods on two views of an image.

    Views: ``anchor`` and ``positive``, the same image changed twice, or the images of the roles ``image`` and
    ``image2`` changed once each. The text tower of the model, if it has one, is frozen and not used.

    Parameters
    ----------
    transform : str or mapping
        Random changes, see `embedkit.views.image.Transform`.
    hidden, size : int
        Width and output of the projector, which is trained beside the model and not saved with it.
    """

    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"image"}), accepts=frozenset({"image2", "label", "group"})
    )
    _transform: ClassVar[str] = "simclr"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = None, hidden: Count = 2048, size: Count = 128
    ) -> None:  # fmt: skip
        self.transform = Transform.of(self._transform if transform is None else transform)
        self.hidden, self.size = hidden, size

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def embedding_dim(self, model: Model) -> int:
        return self.size

    def adapt(self, model: Model) -> None:
        """Freeze what sees no image."""
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model: it sees images")
        model.text.requires_grad_(False)
        model.projections["text"].requires_grad_(False)  # type: ignore[index,union-attr]

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators = [random(i) for i in range(len(rows))]
        owner = list(range(len(rows)))
        second = [row["image"] if row.get("image2") is None else row["image2"] for row in rows]
        first = image_inputs([row["image"] for row in rows], self.transform, generators)
        other = image_inputs(second, self.transform, generators)
        return {"anchor": View(first, owner, tower="image"), "positive": View(other, owner, tower="image")}


@methods.add("simclr")
class SimCLR(TwoViews):
    """SimCLR (Chen et al. 2020, sections 2 and 3).

    Objective: NT-Xent over both views of the whole batch, temperature 0.1. The projector has one hidden layer with
    batch normalisation over both views of the whole batch, on all processes together.
    """

    paper: ClassVar[str] = "Chen et al. 2020, ICML, sections 2 and 3"
    objective: ClassVar[dict[str, Any] | None] = {"name": "ntxent", "temperature": 0.1}

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({"projector": projector(model.training_dim, self.hidden, self.size, True)})

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch

        names = ("anchor", "positive")
        together = parts["projector"](torch.cat([outputs[name] for name in names]))  # (2B, size)
        return dict(zip(names, together.split([len(outputs[name]) for name in names]), strict=True))


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
    """

    paper: ClassVar[str] = "He et al. 2020, CVPR, section 3; Chen et al. 2020, arXiv 2003.04297"
    objective: ClassVar[dict[str, Any] | None] = {"name": "moco", "direction": {"name": "rows", "keys": "guide"}}
    _transform: ClassVar[str] = "moco"

    def __init__(
        self, transform: str | Mapping[str, Any] | None = None, hidden: Count = 2048, size: Count = 128,
        momentum: Rate = 0.999,
    ) -> None:  # fmt: skip
        super().__init__(transform, hidden, size)
        self.momentum = momentum

    def parts(self, model: Model) -> nn.ModuleDict:
        import copy

        from torch import nn

        query = projector(model.training_dim, self.hidden, self.size, False)
        return nn.ModuleDict({"projector": query, "mean": copy.deepcopy(query).requires_grad_(False)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        made = super().views(rows, random)
        made["anchor"].guided = False
        made["positive"].settings = {"key": True}
        return made

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
        import torch

        now = [parameter.detach() for parameter in parts["projector"].parameters()]
        torch._foreach_lerp_(list(parts["mean"].parameters()), now, 1.0 - self.momentum)
