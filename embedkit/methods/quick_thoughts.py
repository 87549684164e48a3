"""Sentences told from others by their neighbours in a document: Quick-Thoughts, and predictive coding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedkit.config.settings import Fidelity
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model


class OrderedSentences(Method):
    """Base class of methods whose rows are the sentences of documents, in batches of consecutive ones.

    Examples
    --------
    >>> rows = [{"anchor": "One.", "document_id": "a", "position": 0}]
    >>> OrderedSentences().views(rows, np.random.default_rng)["anchor"].inputs
    ['One.']
    """

    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor", "document_id", "position"}))
    reads: ClassVar[frozenset[str]] = frozenset({"document_id", "position"})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {"anchor": View([row["anchor"] for row in rows], list(range(len(rows))))}


@methods.add("quick-thoughts")
class QuickThoughts(OrderedSentences):
    """Quick-Thoughts (Logeswaran and Lee 2018, ICLR).

    Two encoders with separate weights, f and g, read every sentence of a batch of consecutive ones. The scores
    ``f(s_i) · g(s_j)``, plain inner products without a temperature, are classified: the target of i is spread evenly
    over the sentences at most ``objective.context`` places away in its document. A sentence that has no neighbour in
    its batch has no loss; the official code takes the neighbours in the batch across the borders of documents.

    Code and paper differ: ``fidelity: code`` sets the score of a sentence with itself to 0, so that it keeps a constant
    part in the denominator; ``paper`` leaves it out. The published encoders are GRUs; here any text encoder is
    trained, and g starts as a copy of f. A sentence's vector is that of f beside that of g: what is scored and saved
    holds both (`embedkit.models.combined.concatenation`). Only a single encoder can be exported to other libraries or
    trained on; ``encoders: first`` keeps f alone. A checkpoint is read as f alone; g is in it as ``parts.context``.

    Parameters
    ----------
    fidelity : str
        "code" or "paper".
    encoders : str
        What is saved: "both", or the "first".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["quick-thoughts"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'document_id', 'position'], 'context')
    """

    paper: ClassVar[str] = "Logeswaran and Lee 2018, ICLR, An efficient framework for learning sentence representations"
    objective: ClassVar[dict[str, Any]] = {"name": "context"}

    def __init__(self, fidelity: Fidelity = "code", encoders: Literal["both", "first"] = "both") -> None:
        self.encoders = encoders
        if fidelity == "paper":
            self.objective = {"name": "context", "bank": "none"}  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({"context": copy.deepcopy(model)})

    def in_use(self, model: Model, parts: nn.ModuleDict) -> Model:
        if self.encoders == "first":
            return model
        from embedkit.models.combined.concatenation import EncoderConcatenation

        context: Any = parts["context"]
        return EncoderConcatenation(
            [model, context], unit=False, normalize=model.normalize, similarity_fn_name=model.similarity_fn_name
        ).eval()

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        views = super().views(rows, random)
        anchor = views["anchor"]
        return {**views, "positive": View(anchor.inputs, anchor.owner, settings={"encoder": "context"})}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        encoder: Any = parts["context"] if settings.pop("encoder", None) else model
        return encoder(inputs, **settings)  # type: ignore[no-any-return]


@methods.add("cpc")
class PredictiveCoding(OrderedSentences):
    """Contrastive predictive coding of sentences (van den Oord et al. 2018, sections 2.2 and 3.3).

    A GRU reads the vectors of a document's sentences in order; a bilinear map for each of the next sentences tells its
    vector from all others of the batch. The objective ``cpc`` has the GRU and the maps, which are dropped at inference.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["cpc"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'document_id', 'position'], 'cpc')
    """

    paper: ClassVar[str] = "van den Oord et al. 2018, arXiv 1807.03748, sections 2.2 and 3.3"
    objective: ClassVar[dict[str, Any]] = {"name": "cpc"}

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return self.provides
