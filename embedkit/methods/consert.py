"""ConSERT: contrast of views that are made at the embedding layer, alone or beside labelled inference pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from embedkit.config.settings import Fidelity, NotNegative, Positive, Rate, check
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch

CODE_RATE = 0.15  # the official factor of the contrastive loss


@dataclass
class _Change:
    """What may change a view."""

    token_cutoff: Rate = 0.0
    feature_cutoff: Rate = 0.0
    element_cutoff: Rate = 0.0
    shuffle: bool = False
    dropout: Rate = 0.0
    noise: NotNegative = 0.0


@dataclass
class _PairChange(_Change):
    adversarial: NotNegative = 0.0


def _settings(config: Mapping[str, Any] | None, where: str, schema: type[_Change] = _Change) -> dict[str, Any]:
    """Forward settings of a view, in the order given; false takes one off that another recipe has."""
    return check(schema, {name: value for name, value in (config or {}).items() if value is not False}, where)


def _contrast(temperature: float, rate: float, fidelity: Fidelity) -> dict[str, Any]:
    """The contrastive objective: NT-Xent, in code the sum of both directions' means times a rate."""
    weight = 2 * rate if fidelity == "code" else rate
    return {"name": "sum", "terms": [{"name": "ntxent", "temperature": temperature, "weight": weight}]}


@methods.add("consert")
class ConSERT(Method):
    """Unsupervised ConSERT (Yan et al. 2021, section 3).

    Views: the sentence twice, each changed at the embedding layer (behind its layer norm): ``token_cutoff``,
    ``feature_cutoff``, ``element_cutoff`` (the paper's dropout) with their rates, ``shuffle: true`` (permuted position
    ids), or nothing. The published best is feature cutoff 0.2 against shuffle, with the encoder's own dropout off
    (``model.dropout: 0``) for the base model and on for all others. Vectors are the mean of the last layer's tokens in
    training; the recipes' model takes the mean of the last *two* layers at inference (``pooling: last-two``), as the
    paper's evaluation does (the official score that chooses the checkpoint reads the last layer; here it is that of the
    model as it is used). Objective: NT-Xent over the 2N vectors, temperature 0.1.

    The official code sums the losses of both directions and multiplies by 0.15 (``fidelity: code``); the paper averages
    them (``paper``). Adam hides the factor; clipping does not. Its Adam has no bias correction, and it evaluates every
    so many steps of an *epoch* and at the epoch's end: the recipes' ``bias_correction`` and ``by_epoch``. On RoBERTa
    the official shuffle numbers positions from 0 instead of 2, which misplaces the view; here positions are permuted as
    the encoder counts them.

    Parameters
    ----------
    first, second : mapping, optional
        The change of each view, e.g. ``{feature_cutoff: 0.2}``.
    temperature : float
        Of the objective.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["consert"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'sum')
    """

    paper: ClassVar[str] = "Yan et al. 2021, ACL, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))

    def __init__(
        self, first: Mapping[str, Any] | None = None, second: Mapping[str, Any] | None = None,
        temperature: Positive = 0.1, fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        self.settings = {"anchor": _settings(first, "method.first"), "positive": _settings(second, "method.second")}
        rate = CODE_RATE if fidelity == "code" else 1.0
        self.objective = _contrast(temperature, rate, fidelity)  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        return {
            name: View(texts, owner, settings={"pooling": "mean", **settings})
            for name, settings in self.settings.items()
        }


@methods.add("consert-sup")
class ConSERTSupervised(Method):
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
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor", "positive", "label"}))
    reads: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(
        self, first: Mapping[str, Any] | None = None, second: Mapping[str, Any] | None = None,
        temperature: Positive = 0.1, weight: NotNegative = CODE_RATE, classes: Annotated[int, Field(ge=2)] = 3,
        fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        self.first = _settings(first, "method.first")
        self.second = _settings(second, "method.second", _PairChange)
        self.weight, self.classes, self.fidelity = weight, classes, fidelity
        limits = {"label": (0.0, classes - 1.0)}
        self.contract = Contract(requires=type(self).contract.requires, limits=limits)  # type: ignore[misc]
        self.objective = _contrast(temperature, weight, fidelity) if weight else None  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset() if self.objective is None else self.provides

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit import objectives

        features = 4 if self.fidelity == "code" else 3
        modules: dict[str, Any] = {"classifier": nn.Linear(features * model.training_dim, self.classes)}
        if self.objective is not None:
            modules["contrast"] = objectives.build(self.objective, dim=model.training_dim)
        return nn.ModuleDict(modules)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        owner = list(range(len(rows)))
        premises, hypotheses = ([row[role] for row in rows] for role in ("anchor", "positive"))
        plain, second = ({"pooling": "mean", **settings} for settings in (self.first, self.second))
        first_views = {name: View(texts, owner, settings=plain)
                 for name, texts in (("anchor", premises), ("hypothesis", hypotheses))}  # fmt: skip
        if self.objective is None:
            return first_views
        if "adversarial" in second:
            labels = np.asarray([row["label"] for row in rows], dtype=np.int64)
            pairs = [json.dumps(pair) for pair in zip(premises, hypotheses, strict=True)]
            second["pair_epsilon"] = second.pop("adversarial")  # the name without "pair" is that of a view's step
            return {**first_views, "pair": View(pairs, owner, settings=second, data={"label": labels})}
        return {**first_views, "positive": View(premises, owner, settings=second),
                "hypothesis2": View(hypotheses, owner, settings=second)}  # fmt: skip

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        if name != "pair":
            return super().prepare(model, name, view)
        sides = zip(*(json.loads(pair) for pair in view.inputs), strict=True)
        return _paired(*(model.prepare(texts) for texts in sides))

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        epsilon = settings.pop("pair_epsilon", None)
        if epsilon is None:
            return model(inputs, **settings)  # type: ignore[no-any-return]
        import torch

        sides = _apart(inputs)
        labels = torch.from_numpy(inputs.data["label"]).to(inputs.device)
        moves = self._moves(model, parts, sides, labels, epsilon, settings)
        return torch.cat([model(x, edit=_adding(move), **settings) for x, move in zip(sides, moves, strict=True)], 1)

    def _moves(
        self, model: Any, parts: nn.ModuleDict, sides: Sequence[Any], labels: Tensor, epsilon: float,
        settings: dict[str, Any],
    ) -> list[Tensor]:  # fmt: skip
        """Perturbations (T, H) of both sides: `epsilon` times the direction of the classification loss's gradient."""
        import torch
        import torch.nn.functional as F

        from embedkit.views.encoder import per_text

        probes: list[Tensor] = []

        def probe(hidden: Tensor, inputs: Any) -> Tensor:
            probes.append(torch.zeros_like(hidden, requires_grad=True))
            return hidden.detach() + probes[-1]

        with torch.enable_grad():
            u, v = (model(x, edit=probe, **settings) for x in sides)
            loss = F.cross_entropy(parts["classifier"](self._features(u, v)), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, probes)
        ordered = [x.select(np.argsort(x.costs, kind="stable")) for x in sides]  # as the embedding layer sees them
        if self.fidelity == "code":
            return [epsilon * F.normalize(gradient, dim=1) for gradient in gradients]
        return [epsilon * per_text(g, x) for g, x in zip(gradients, ordered, strict=True)]

    def _features(self, u: Tensor, v: Tensor) -> Tensor:
        import torch

        features = [u, v, (u - v).abs()]
        return torch.cat([*features, torch.maximum(u, v) ** 2] if self.fidelity == "code" else features, dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        if self.objective is None:
            return {}
        batch.owner["positive"], batch.keys["positive"] = batch.owner["anchor"], batch.keys["anchor"]
        return {"anchor": outputs["anchor"], "positive": self._second(outputs)[0]}

    def _second(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Second views of premises and hypotheses."""
        if "pair" in outputs:
            premises, hypotheses = outputs["pair"].chunk(2, dim=1)
            return premises, hypotheses
        return outputs["positive"], outputs["hypothesis2"]

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch.nn.functional as F

        features = self._features(outputs["anchor"], outputs["hypothesis"])[batch.rows]
        assert batch.label is not None
        loss = F.cross_entropy(parts["classifier"](features), batch.label[batch.rows], reduction="sum") / batch.size
        if self.objective is None:
            return {"classes": loss}
        names = {"anchor": "hypothesis", "positive": "hypothesis"}
        hypotheses = replace(
            batch,
            owner={n: batch.owner[o] for n, o in names.items()},
            keys={n: batch.keys[o] for n, o in names.items()},
        )
        both = {"anchor": outputs["hypothesis"], "positive": self._second(outputs)[1]}
        return {"classes": loss, "hypotheses": parts["contrast"](both, hypotheses).loss}


def _paired(first: Inputs, second: Inputs) -> Inputs:
    """Each text of `first` with that of `second` behind it as one sequence; ``data["split"]``: tokens of the first."""
    from embedkit.models.inputs.inputs import Inputs

    rows = [a + b for a, b in zip(first.rows(), second.rows(), strict=True)]
    return Inputs.of(rows, data={"split": first.costs})


def _apart(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """The two sides of `_paired` inputs; the second has seeds of its own."""
    from embedkit.models.augment.counter_rng import mixed

    front = inputs.places < inputs.data["split"][inputs.owner]
    sides = []
    for number, side_mask in enumerate((front, ~front)):
        side = inputs.keep(side_mask)
        side.positions = None  # each side counts from its own start
        sides.append(side.replace(seeds=inputs.seeds if number == 0 else mixed(inputs.seeds)))
    return sides[0], sides[1]


def _adding(move: Tensor) -> Any:
    def edit(hidden: Tensor, inputs: Any) -> Tensor:
        return hidden + move.to(hidden.dtype)

    return edit
