"""Masked-word prediction: by itself, or beside any other method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("mlm")
class MaskedWords(Method):
    """Masked language modelling (Devlin et al. 2019, section 3.1).

    Each token that is no special token is chosen with probability `rate`; of the chosen ones 80 % are masked, 10 %
    replaced by a random token, 10 % left. The loss is the mean cross-entropy over all chosen tokens of the batch. The
    head (the pretrained one of the encoder's folder, or a new one) shares the word vectors with the encoder, and is
    saved with it, so that a later run, or transformers' fill-mask, finds it.

    Beside another method (recipe key ``auxiliary: [{name: mlm, weight: 0.1}]``) it reads a masked copy of every text
    view in a forward pass of its own, as SimCSE's ``--do_mlm`` does (Gao et al. 2021, section 6.3). The official code
    had an error until November 2021: its contrastive branch read masked texts too, and the published "+ MLM" rows are
    probably from before; ``main_reads: masked`` repeats it. That code's head has an output matrix of its own, which
    starts as the word vectors and is trained apart (so does PromCSE's, whose encoder is frozen): ``tied: false``, as in
    the recipes with this auxiliary. Such a head is dropped at inference.

    Parameters
    ----------
    rate : float
        Share of tokens to guess.
    tied : bool
        Whether the head's output matrix is the encoder's word vectors.
    main_reads : str
        "texts", or "masked": the method that this one stands beside reads its own views masked in the same way.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["mlm"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], None)
    """

    paper: ClassVar[str] = "Devlin et al. 2019, NAACL, section 3.1"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(
        self, rate: Annotated[float, Field(gt=0, lt=1)] = 0.15, tied: bool = True,
        main_reads: Literal["texts", "masked"] = "texts",
    ) -> None:  # fmt: skip
        self.rate, self.tied, self.main_reads = rate, tied, main_reads

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def adapt(self, model: Model) -> None:
        from embedkit.formats.transformers.masked_head import masked_head
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder):
            raise ModelError(f"a {model.kind} model cannot guess words", remedy="use a transformers encoder")
        if self.tied:
            model.mask_head = masked_head(model)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.formats.transformers.masked_head import masked_head

        if self.tied:
            return nn.ModuleDict()
        text: Any = model
        words = text.encoder.get_input_embeddings().weight.detach().clone()
        output = nn.Embedding(len(words), words.shape[1], _weight=words)
        return nn.ModuleDict({"head": masked_head(model), "words": output})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {"anchor": View([row["anchor"] for row in rows], list(range(len(rows))))}

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        return {
            name: View(view.inputs, view.owner, view.prompt, settings={})
            for name, view in views.items()
            if view.tower == "text"
        }

    def before_main(self, model: Any, inputs: Any) -> Any:
        if self.main_reads == "texts":
            return inputs
        from embedkit.models.modules.masked import hide_tokens

        return hide_tokens(inputs, model.tokenizer, self.rate, "mlm-main").inputs

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """For each text the sum of its losses and the number of its chosen tokens: (n, 2)."""
        from embedkit.methods.common.masked_pass import word_losses
        from embedkit.models.modules.masked import hide_tokens, in_input_order

        hidden = hide_tokens(inputs, model.tokenizer, self.rate)
        states = in_input_order(model.token_states(hidden.inputs, **settings), inputs)
        tied = (model.mask_head, model.encoder.get_input_embeddings()) if self.tied else None
        head, words = tied or (parts["head"], parts["words"])
        return word_losses(states, hidden.targets, inputs, head, words)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        from embedkit.methods.common.parts import own_rows

        count = sum(z[:, 1].sum() for z in outputs.values()).detach().clamp(min=1.0)  # type: ignore[union-attr]
        mine = [z[own_rows(batch.owner[name], batch.rows), 0].sum() for name, z in outputs.items()]
        return {"mlm": sum(mine) / count}  # type: ignore[dict-item]
