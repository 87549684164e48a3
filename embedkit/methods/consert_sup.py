"""ConSERT beside labelled inference pairs, and Sentence-BERT's classifier of pairs alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from embedkit.config.settings import Fidelity, NotNegative, Positive
from embedkit.methods.base import Row, View, methods
from embedkit.methods.common.pair_classifier import PairClassifier
from embedkit.methods.consert import CODE_RATE, PairChange, contrast, forward_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("consert-sup")
class ConSERTSupervised(PairClassifier):
    """ConSERT with labelled inference pairs (Yan et al. 2021, section 3.4).

    Rows have a premise (anchor), a hypothesis (positive) and a label of three. Loss: softmax classification of
    (u, v, |u - v|), as in Sentence-BERT (Reimers and Gurevych 2019, section 3), plus ``weight`` times the contrastive
    losses of premises and of hypotheses, each over its own batch. u and v are the first views. ``weight: 0`` is
    Sentence-BERT itself. The regimes of the paper: *joint* is this method; *sup-unsup* is ``weight: 0``, then
    ``consert`` from the saved model; *joint-unsup* is this method, then ``consert``.

    The official scripts add max(u, v)^2 to the features and sum both directions of each contrastive loss (``fidelity:
    code``); the paper has three features and averages (``paper``). Cutoff rates are 0.1 in the scripts and 0.15 in the
    paper: set them.

    ``second: {adversarial: E}`` is the paper's FGV view: the embedding layer's output is moved along the gradient of
    the pair's classification loss, each text by E, or with ``fidelity: code`` each token. Premise and hypothesis then
    go through the encoder side by side, so that the gradient of a pair is exact in any chunk.

    Parameters
    ----------
    first, second : mapping, optional
        The change of each view, as in `ConSERT`.
    temperature, weight : float
        Of the contrastive losses.
    classes : int
        Labels.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["consert-sup"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'label', 'positive'], 'sum')
    """

    paper: ClassVar[str] = "Yan et al. 2021, ACL, section 3.4; Reimers and Gurevych 2019"

    def __init__(
        self, first: Mapping[str, Any] | None = None, second: Mapping[str, Any] | None = None,
        temperature: Positive = 0.1, weight: NotNegative = CODE_RATE, classes: Annotated[int, Field(ge=2)] = 3,
        fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        features = ["u", "v", "|u-v|", *["max(u,v)^2"] * (fidelity == "code")]
        super().__init__(classes, features, forward_settings(first, "method.first"))
        self.second = forward_settings(second, "method.second", PairChange)
        self.weight, self.per = weight, "token" if fidelity == "code" else "text"
        self.objective = contrast(temperature, weight, fidelity) if weight else None  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset() if self.objective is None else self.provides

    def parts(self, model: Model) -> nn.ModuleDict:
        from embedkit import objectives

        modules = super().parts(model)
        if self.objective is not None:
            modules["contrast"] = objectives.build(self.objective, dim=model.training_dim)
        return modules

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        first = super().views(rows, random)
        if self.objective is None:
            return first
        if "adversarial" not in self.second:
            return {**first, **self.both(rows, ("positive", "hypothesis2"), self.second)}
        data = {"label": np.asarray([row["label"] for row in rows], dtype=np.int64)}
        pairs = [json.dumps(pair) for pair in zip(first["anchor"].inputs, first["hypothesis"].inputs, strict=True)]
        changes = {"pooling": "mean", **self.second}
        changes["pair_epsilon"] = changes.pop("adversarial")  # the name without "pair" is that of a view's step
        return {**first, "pair": View(pairs, first["anchor"].owner, settings=changes, data=data)}

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        if name != "pair":
            return super().prepare(model, name, view)
        from embedkit.models.inputs.pairs import side_by_side

        premises, hypotheses = zip(*(json.loads(pair) for pair in view.inputs), strict=True)
        return side_by_side(model.prepare(premises), model.prepare(hypotheses))

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        epsilon = settings.pop("pair_epsilon", None)
        if epsilon is None:
            return model(inputs, **settings)  # type: ignore[no-any-return]
        import torch

        from embedkit.models.inputs.pairs import sides_of
        from embedkit.views.encoder import steepest

        labels = torch.from_numpy(inputs.data["label"]).to(inputs.device)
        vectors = steepest(
            lambda side, edit: model(side, edit=edit, **settings), sides_of(inputs),
            lambda u, v: self.class_losses(u, v, labels, parts), epsilon, self.per,
        )  # fmt: skip
        return torch.cat(vectors, dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        if self.objective is None:
            return {}
        batch.owner["positive"], batch.keys["positive"] = batch.owner["anchor"], batch.keys["anchor"]
        return {"anchor": outputs["anchor"], "positive": self._second(outputs)[0]}

    def _second(self, outputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Second views of premises and hypotheses."""
        return outputs["pair"].chunk(2, dim=1) if "pair" in outputs else (outputs["positive"], outputs["hypothesis2"])

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        losses = super().terms(outputs, embeddings, batch, parts)
        if self.objective is not None:
            owner, keys = (dict.fromkeys(self.provides, values["hypothesis"]) for values in (batch.owner, batch.keys))
            both = {"anchor": outputs["hypothesis"], "positive": self._second(outputs)[1]}
            losses["hypotheses"] = parts["contrast"](both, replace(batch, owner=owner, keys=keys)).loss
        return losses
