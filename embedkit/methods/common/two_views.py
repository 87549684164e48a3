"""What learning from two random views of an image takes: the views, a projector, and its running mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import nn

    from embedkit.models.base import Model


def projector(inputs: int, hidden: int, outputs: int, norm: bool) -> nn.Sequential:
    """Linear, batch normalisation where `norm` is set, ReLU, linear: (N, inputs) -> (N, outputs).

    Examples
    --------
    >>> import torch
    >>> projector(4, 8, 2, norm=True)(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """
    from torch import nn

    between: list[nn.Module] = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(inputs, hidden, bias=not norm), *between, nn.ReLU(), nn.Linear(hidden, outputs))


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
    def follow(parts: nn.ModuleDict, decay: float) -> None:
        """Move the running mean of a projector towards it."""
        import torch

        now = [parameter.detach() for parameter in parts["projector"].parameters()]
        torch._foreach_lerp_(list(parts["mean"].parameters()), now, 1.0 - decay)

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
