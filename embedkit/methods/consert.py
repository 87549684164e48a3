"""ConSERT: contrast of views that are made at the embedding layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from embedkit.config.settings import Fidelity, NotNegative, Positive, Rate, check
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

CODE_RATE = 0.15  # the official factor of the contrastive loss


@dataclass
class Change:
    """What may change a view.

    Examples
    --------
    >>> Change(shuffle=True).shuffle
    True
    """

    token_cutoff: Rate = 0.0
    feature_cutoff: Rate = 0.0
    element_cutoff: Rate = 0.0
    shuffle: bool = False
    dropout: Rate = 0.0
    noise: NotNegative = 0.0


@dataclass
class PairChange(Change):
    """What may change a view of a pair.

    Examples
    --------
    >>> PairChange(adversarial=0.5).adversarial
    0.5
    """

    adversarial: NotNegative = 0.0


def forward_settings(config: Mapping[str, Any] | None, where: str, schema: type[Change] = Change) -> dict[str, Any]:
    """Forward settings of a view, in the order given; false takes one off that another recipe has.

    Examples
    --------
    >>> forward_settings({"shuffle": True, "token_cutoff": False}, "method.first")
    {'shuffle': True}
    """
    return check(schema, {name: value for name, value in (config or {}).items() if value is not False}, where)


def contrast(temperature: float, rate: float, fidelity: Fidelity) -> dict[str, Any]:
    """The contrastive objective: NT-Xent, in code the sum of both directions' means times a rate.

    Examples
    --------
    >>> contrast(0.1, 0.15, "code")["terms"]
    [{'name': 'ntxent', 'temperature': 0.1, 'weight': 0.3}]
    """
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
        changes = {"anchor": (first, "method.first"), "positive": (second, "method.second")}
        self.settings = {name: forward_settings(*change) for name, change in changes.items()}
        rate = CODE_RATE if fidelity == "code" else 1.0
        self.objective = contrast(temperature, rate, fidelity)  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        return {
            name: View(texts, owner, settings={"pooling": "mean", **settings})
            for name, settings in self.settings.items()
        }
