"""Regularized contrastive learning: frozen encoders whose vectors of a text are further positives of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Positive
from embedkit.errors import ModelError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

REGULATED = ("anchor", "positive")
"""The views whose texts the regulators embed."""


@methods.add("regularized-cl")
class RegularizedCL(Pairs):
    """Regularized contrastive learning for semantic search (Tan, Rolland and Tian 2022, NLPCC), a reconstruction.

    Only the abstract was at hand [R]: several semantic representations of every sentence are made first, and join the
    contrastive objective as regulators. Here they are the vectors r_k of frozen encoders: beside the method's own
    objective on pairs (q, d) there is ``weight · Σ_k [InfoNCE(q, r_k(q)) + InfoNCE(d, r_k(d))]``, each text of the
    batch against the regulator's vectors of all texts of its view. Nothing but the encoder is saved.

    Parameters
    ----------
    regulators : list of str or None
        Folders or hub ids of encoders with the model's tokenizer and size of vectors; None is a copy of the model as it
        is before the first step, which keeps its dropout.
    weight : float
        Of the sum over regulators.
    temperature : float
        Of these terms.
    prompts : dict, optional
        As in `Pairs`.

    Examples
    --------
    >>> method = RegularizedCL(regulators=[None, None], weight=0.5)
    >>> view = method.views([{"anchor": "a", "positive": "b", "negatives": ["c"]}], np.random.default_rng)
    >>> {name: own.settings for name, own in view.items()}
    {'anchor': {'regulated': True}, 'positive': {'regulated': True}, 'negatives': {}}
    """

    paper: ClassVar[str] = "Tan et al. 2022, NLPCC, Regularized Contrastive Learning of Semantic Search, abstract"

    def __init__(
        self, regulators: list[str | None] | None = None, weight: Positive = 1.0, temperature: Positive = 0.05,
        prompts: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(prompts)
        self.regulators = [None] if regulators is None else regulators
        self.weight, self.temperature = weight, temperature

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({"regulators": nn.ModuleList(_regulator(name, model) for name in self.regulators)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        views = super().views(rows, random)
        for name in REGULATED:
            views[name].settings = {"regulated": True}
        return views

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, regulated: bool = False, **settings: Any) -> Tensor:
        """The encoder's vector, and behind it those of the regulators where the view has them, (n, (1 + K) D)."""
        import torch

        own = model(inputs, **settings)
        if not regulated:
            return own
        with torch.no_grad():
            others = [part.module(inputs).to(own.dtype) for part in _modules(parts)]
        return torch.cat([own, *others], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        share = 1 + len(self.regulators)
        return {name: z[:, : z.shape[1] // share] if name in REGULATED else z for name, z in outputs.items()}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Each text of this process's rows against the regulators' vectors of the whole batch."""
        import torch

        from embedkit.objectives import build

        objective = build({"name": "infonce", "temperature": self.temperature, "groups": False})
        losses = []
        for name in REGULATED:
            own, *others = outputs[name].chunk(1 + len(self.regulators), dim=1)
            owner, keys = (dict.fromkeys(REGULATED, of[name]) for of in (batch.owner, batch.keys))
            alike = replace(batch, guide={}, scores={}, owner=owner, keys=keys)
            losses += [objective({"anchor": own, "positive": other.detach()}, alike).loss for other in others]
        return {"regulators": self.weight * torch.stack(losses).sum()}


def _modules(parts: nn.ModuleDict) -> Any:
    return parts["regulators"]


def _regulator(name: str | None, model: Model) -> nn.Module:
    """A frozen encoder, checked against the model that it reads tokens of."""
    import copy

    from embedkit.formats.loading import load
    from embedkit.methods.common.parts import Frozen

    if name is None:
        return Frozen(copy.deepcopy(model), dropout=True)
    other: Any = load(name, device="cpu")
    if other.tokenizer.get_vocab() != model.tokenizer.get_vocab():  # type: ignore[attr-defined]
        raise ModelError("the regulator has another vocabulary than the model", where=name,
                         remedy="use an encoder with the same tokenizer")  # fmt: skip
    if other.training_dim != model.training_dim:
        raise ModelError(f"the regulator's vectors have {other.training_dim} numbers, the model's {model.training_dim}",
                         where=name, remedy="use an encoder of the same size")  # fmt: skip
    return Frozen(other)
