"""TSDAE: the vector of a damaged sentence must let a decoder restore the sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Positive, Rate
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("tsdae")
class DenoisingAutoEncoder(Method):
    """Transformer-based sequential denoising auto-encoder (Wang, Reimers and Gurevych 2021, section 3).

    Each word of a sentence is deleted with probability ``rate``. The encoder makes one vector of what is left, and a
    decoder, which sees that vector and the tokens so far, says the next token of the whole sentence. Its layers are the
    encoder's, with the same weights (``tied``) or as a copy; what is new in them is attention to the vector, a memory
    of length one. The output layer is the encoder's masked-word head, pretrained where its folder has one. The loss is
    the mean cross-entropy over all tokens of the batch but first ones. Decoder and head are dropped at inference.

    Words are what white space separates; the authors delete tokens of NLTK's tokenizer. With an objective beside it,
    the vector of the sentence is contrasted too: ``rate: 0`` and ``objective: cmim`` is cMIM (Livne 2025) without its
    prior and its noise on the vector; there the words that the decoder knows from before carry what the vector lacks.

    Parameters
    ----------
    rate : float
        Probability that a word is deleted; one word is left at least.
    tied : bool
        Whether the decoder's layers and word vectors are the encoder's own.
    weight : float
        Factor of the loss.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["tsdae"](rate=0.5)
    >>> views = method.views([{"anchor": "a small red car, near the old house"}], np.random.default_rng)
    >>> {name: view.inputs for name, view in views.items()}
    {'anchor': ['a near the old house'], 'target': ['a small red car, near the old house']}
    """

    paper: ClassVar[str] = "Wang et al. 2021, Findings of EMNLP, TSDAE, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = None
    takes_parts: ClassVar[bool] = False

    def __init__(self, rate: Rate = 0.6, tied: bool = True, weight: Positive = 1.0) -> None:
        self.rate, self.tied, self.weight = rate, tied, weight

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.formats.transformers.masked_head import masked_head
        from embedkit.methods.common.parts import need_text
        from embedkit.models.heads.decoder import CausalDecoder

        encoder = need_text(model).encoder
        parts = {"cross": CausalDecoder(encoder, model.training_dim), "head": masked_head(model)}
        return nn.ModuleDict(parts if self.tied else {**parts, "layers": copy.deepcopy(encoder)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        from embedkit.views.base import Chain

        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        noise = Chain.of([{"name": "word-deletion", "rate": self.rate}])
        damaged = noise.apply(View(texts, owner), [random(i) for i in owner])
        return {"anchor": damaged, "target": View(texts, owner, settings={"target": True}, guided=False)}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, target: bool = False, **settings: Any) -> Tensor:
        """The vectors (n, D); of what is only restored none, (n, 1)."""
        return inputs.ids.new_zeros(len(inputs), 1).to(model.dtype) if target else model(inputs, **settings)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        """The whole sentence, whose tokens are restored, goes with the vector of the damaged one."""
        return {**outputs, "target": outputs["anchor"]}

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        if name != "target":
            return {}
        from embedkit.models.execution.plan import Plan
        from embedkit.models.heads.decoder import token_loss

        rows = np.flatnonzero(inputs.costs > 1)  # texts with a token to be guessed
        if len(rows) == 0:
            return {"restored": 0 * embeddings.sum()}
        order = rows[Plan.of(inputs.costs[rows] - 1).order]
        ordered = inputs.select(order)
        before = ordered.keep(ordered.places < np.repeat(ordered.costs - 1, ordered.costs))
        targets = ordered.ids[(ordered.places > 0).nonzero()[0]]
        encoder: Any = model.encoder if self.tied else parts["layers"]
        memory = embeddings[order].to(model.dtype)
        states = parts["cross"](encoder, before, memory, Plan.of(before.costs))
        loss = token_loss(parts["head"], encoder.get_input_embeddings().weight, states, targets)
        return {"restored": self.weight * loss / (batch.lengths["target"] - 1).sum().clamp(min=1)}
