"""Learning from images alone, two random views of each: SimCLR and MoCo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Rate
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


def _projector(inputs: int, hidden: int, outputs: int, norm: bool) -> nn.Sequential:
    """Linear, batch normalisation where `norm` is set, ReLU, linear: (N, inputs) -> (N, outputs)."""
    from torch import nn

    between: list[nn.Module] = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(inputs, hidden, bias=not norm), *between, nn.ReLU(), nn.Linear(hidden, outputs))


def _follow(parts: nn.ModuleDict, decay: float) -> None:
    """Move the running mean of a projector towards it."""
    import torch

    now = [parameter.detach() for parameter in parts["projector"].parameters()]
    torch._foreach_lerp_(list(parts["mean"].parameters()), now, 1.0 - decay)


class TwoViews(Method):
    """Base of methods on two views of an image.

    Views: ``anchor`` and ``positive``, the same image changed twice, or the images of the roles ``image`` and
    ``image2`` changed once each. The text tower of the model, if it has one, is frozen and not used.

    A guide that is a running mean of the encoder (``guide: {ema: 0.99}``) has a running mean of the projector behind
    it, as in BYOL (Grill et al. 2020, section 3.1), so that its vectors have the size of the embeddings.

    Parameters
    ----------
    transform : str or mapping
        Random changes, see `embedkit.views.image.Transform`.
    hidden, size : int
        Width and output of the projector, which is trained beside the model and not saved with it.

    Examples
    --------
    >>> rows = [{"image": b"one", "image2": b"another shot"}]
    >>> views = TwoViews("none").views(rows, np.random.default_rng)
    >>> [view.inputs[0].picture for view in views.values()]
    [b'one', b'another shot']
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

    @property
    def embedding_size(self) -> int | None:
        return self.size

    def embedding_dim(self, model: Model) -> int:
        return self.size

    def guide_dim(self, dim: int) -> int:
        return self.size if self.ema is not None else dim

    def adapt(self, model: Model) -> None:
        """Freeze what sees no image."""
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model: it sees images")
        model.text.requires_grad_(False)
        model.projections["text"].requires_grad_(False)  # type: ignore[index,union-attr]

    @staticmethod
    def with_mean(layers: nn.Module, decay: float | None) -> nn.ModuleDict:
        """The projector, and where there is a decay its running mean, which starts as a copy."""
        import copy

        from torch import nn

        mean = {} if decay is None else {"mean": copy.deepcopy(layers).requires_grad_(False)}
        return nn.ModuleDict({"projector": layers, **mean})

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

        return self.with_mean(_projector(model.training_dim, self.hidden, self.size, True), self.ema)

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
            _follow(parts, self.ema or 0.0)


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
        return self.with_mean(_projector(model.training_dim, self.hidden, self.size, False), self.momentum)

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
        _follow(parts, self.momentum)
