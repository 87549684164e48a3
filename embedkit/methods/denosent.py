"""DenoSent: contrast of two wordings of a sentence, and a decoder that restores one from the vector of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Fidelity, NotNegative, Rate
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


def _contrast(weight: float, temperature: float) -> dict[str, Any]:
    return {"name": "sum", "terms": [{"name": "infonce", "temperature": temperature, "weight": weight}]}


@methods.add("denosent")
class DenoSent(Method):
    """DenoSent (Wang et al. 2024, AAAI, section 3).

    A row is a sentence and another wording of it, its back-translation (discrete noise); without one the sentence
    itself. Both are contrasted in the batch. A decoder restores all tokens of a sentence at once, those of a template
    too: it reads the encoder's embedding layer's output for that sentence, detached, with a share ``noise`` of its
    numbers dropped (continuous noise), and in each layer the vector of the other wording. Its layers are new:
    post-norm, one head, no causal mask; the output layer is the encoder's masked-word head. It is dropped at inference,
    with the recipe's linear projector: the vector then is the state of the mask token in the template.

    Where code and paper differ, ``fidelity: code`` (what made the numbers) restores the *back-translation* from the
    sentence's vector, weighs contrast and restoration 5 to 7 and has temperature 0.05. ``paper`` restores the sentence
    from its back-translation's vector, one to one, at 0.03.

    Parameters
    ----------
    layers, heads, inner : int
        Of the decoder: number of layers, heads of the self-attention, size of the feed-forward block.
    noise : float
        Share of the numbers that are dropped from the decoder's input.
    dropout : float
        Rate inside the decoder.
    weight : float, optional
        Factor of the restoration's loss, the mean cross-entropy over all tokens; 7 in code, 1 on paper.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["denosent"](fidelity="paper")
    >>> views = method.views([{"anchor": "a cat", "positive": "one cat"}], np.random.default_rng)
    >>> {name: view.inputs for name, view in views.items()}
    {'anchor': ['a cat'], 'positive': ['one cat'], 'target': ['a cat']}
    >>> method.weight, method.objective["terms"]
    (1.0, [{'name': 'infonce', 'temperature': 0.03, 'weight': 1.0}])
    """

    paper: ClassVar[str] = "Wang et al. 2024, AAAI, DenoSent, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}), accepts=frozenset({"positive"}))
    objective: ClassVar[dict[str, Any] | None] = _contrast(5.0, 0.05)
    takes_parts: ClassVar[bool] = False

    def __init__(
        self, layers: Count = 16, heads: Count = 1, inner: Count = 2048, noise: Rate = 0.825, dropout: Rate = 0.1,
        weight: NotNegative | None = None, fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        self.layers, self.heads, self.inner, self.noise, self.dropout = layers, heads, inner, noise, dropout
        self.fidelity = fidelity
        by_code = fidelity == "code"
        self.weight = weight if weight is not None else 7.0 if by_code else 1.0
        self.objective = _contrast(5.0, 0.05) if by_code else _contrast(1.0, 0.03)  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.formats.transformers.masked_head import masked_head
        from embedkit.methods.common.parts import need_text
        from embedkit.models.execution.kernels import Dropout
        from embedkit.models.heads.decoder import DecoderLayer, need_like_bert

        text = need_text(model)
        need_like_bert(text.encoder)
        sizes = (model.training_dim, text.hidden_size, self.heads, self.inner, self.dropout)
        decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(self.layers))
        return nn.ModuleDict({"decoder": decoder, "noise": Dropout(self.noise), "head": masked_head(model)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        anchors, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        others = [row.get("positive") or row["anchor"] for row in rows]
        restored = others if self.fidelity == "code" else anchors
        target = View(restored, owner, settings={"target": True}, guided=False)
        return {"anchor": View(anchors, owner), "positive": View(others, owner), "target": target}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, target: bool = False, **settings: Any) -> Tensor:
        """The vectors (n, D); of what is only restored none, (n, 1)."""
        return inputs.ids.new_zeros(len(inputs), 1).to(model.dtype) if target else model(inputs, **settings)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        """What is restored goes with the vector of the other wording."""
        return {**outputs, "target": outputs["anchor" if self.fidelity == "code" else "positive"]}

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        if name != "target" or self.weight == 0:
            return {}
        import torch

        from embedkit.models.execution.plan import Plan
        from embedkit.models.heads.decoder import embedded, token_loss

        plan = Plan.of(inputs.costs)
        ordered, memory = inputs.select(plan.order), embeddings[plan.order].to(model.dtype)
        with torch.no_grad():
            states = embedded(model.encoder, ordered)  # (T, H)
        states = parts["noise"](states)
        layers: Any = parts["decoder"]
        for layer in layers:
            states = layer(states, memory, plan)
        words = model.encoder.get_input_embeddings().weight
        loss = token_loss(parts["head"], words, states, ordered.ids)
        return {"restored": self.weight * loss / batch.lengths["target"].sum()}
