"""miCSE: two dropout views whose attention agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from embedkit.config.settings import Distinct, NotNegative, Whole
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import methods
from embedkit.methods.simcse import SimCSEUnsupervised

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("micse")
class MiCSE(SimCSEUnsupervised):
    """Mutual information contrastive sentence embeddings (Klein and Nabi 2023, ACL, section 3).

    SimCSE's dropout pair and InfoNCE, and beside it ``weight`` times a loss that aligns the attention probabilities of
    the two views (after dropout, as transformers returns them) in some layers, 7 to 10 of BERT-base (0-based). For each
    sentence, head and parity of the layer, the maps of its two layers are one vector of 2 T^2 numbers. Numbers above
    zero in both views are valid. Of vectors with ``samples`` valid places or more, that many places are drawn, the same
    in both views; the logarithms there have the correlation rho, and the mutual information of a bivariate normal law
    is I = -1/2 log(1 - rho^2). The loss is minus the mean of I, times the square of the share of valid numbers in the
    vectors used, T being the longest text of the batch. Where no vector has enough valid places, all are used with as
    many places as the poorest allows.

    All of this is the official code; its text for few-shot runs is published, the weight of the full run is not (the
    parser's default is 0.011). 1 - rho^2 is kept at 1e-6 at least, where the code replaces NaN by a constant. The maps
    of a text take layers x heads x max_length^2 numbers, so keep ``model.max_length`` at 32. Attention dropout must be
    on.

    Parameters
    ----------
    weight : float
        lambda.
    layers : list of int or None
        Even number of 0-based layers; 7 to 10 of 12, and the like of other depths, when not given.
    samples : int
        Places drawn of each vector.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["micse"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    paper: ClassVar[str] = "Klein and Nabi 2023, ACL, section 3"
    takes_parts: ClassVar[bool] = False

    def __init__(
        self, weight: NotNegative = 0.011, layers: Annotated[Sequence[Whole], Distinct] | None = None,
        samples: Annotated[int, Field(ge=2)] = 150,
    ) -> None:  # fmt: skip
        if layers is not None and (len(layers) < 2 or len(layers) % 2):
            raise RecipeError(
                f"layers is {list(layers)}", where="method.layers", remedy="give an even number of layers"
            )
        self.weight, self.layers, self.samples = weight, layers, samples

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.methods.common.attention import Maps, default_layers

        config = None if model.backbone is None else model.backbone.config
        if config is None:
            raise ModelError(f"a {model.kind} model has no attention", remedy="use a transformers text encoder")
        depth = config.num_hidden_layers
        layers = default_layers(depth) if self.layers is None else list(self.layers)
        if len(layers) < 2 or max(layers) >= depth:
            raise ModelError(
                f"layers {layers} of {depth}", where="method.layers", remedy="give an even number of layers that exist"
            )
        return nn.ModuleDict({"maps": Maps(model.training_dim, layers, model.max_length)})

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """The vector and, behind it, the attention maps of each text: (n, D + layers x heads x max_length^2)."""
        import torch

        record: dict[int, list[Tensor]] = {}
        vectors = model(inputs, record=record, **settings)
        if len(inputs) == 0:
            return vectors
        maps: Any = parts["maps"]
        return torch.cat([vectors, maps.flat(record, inputs.costs).to(vectors.dtype)], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {name: z[:, : parts["maps"].dim] for name, z in outputs.items()}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """The alignment of attention, this process's share."""
        from embedkit.methods.common.attention import alignment

        maps: Any = parts["maps"]
        one, two = (maps.paired(outputs[name]) for name in ("anchor", "positive"))
        longest = max(int(batch.lengths[name].max()) for name in ("anchor", "positive"))
        return {"attention": self.weight * alignment(one, two, self.samples, batch, maps.length(longest))}
