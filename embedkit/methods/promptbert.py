"""PromptBERT: the mask token of a template is the sentence's vector, and what the template says alone is taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Fidelity
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.pairs import role_views

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs

_ROBERTA = ("camembert", "roberta", "xlm-roberta")


class Prompted(Method):
    """What the methods with a template share: mask pooling, and where positions of the bias pass start.

    Examples
    --------
    >>> Prompted("paper").fidelity
    'paper'
    """

    paper: ClassVar[str] = "Jiang et al. 2022, EMNLP, PromptBERT"
    objective: ClassVar[dict[str, Any] | None] = {"name": "infonce", "temperature": 0.05}

    def __init__(self, fidelity: Fidelity = "code") -> None:
        self.fidelity = fidelity

    def text_encoder(self, model: Model) -> Any:
        """The model, which must read the mask token of a template."""
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder) or model.pooling != "mask" or not model.prompts:
            raise ModelError(
                "the method reads the mask token of a template", where="model",
                remedy="set model.pooling: mask, model.prompts and model.default_prompt",
            )  # fmt: skip
        return model

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        """Training reads the template ``first``, where there is one; the default is that of use time."""
        prompt = "first" if view.prompt is None and "first" in model.prompts else view.prompt
        return model.prepare(view.inputs, prompt)

    def _shift(self, model: Any) -> int:
        """RoBERTa's first position is 2; the official code starts at 0 in the bias pass."""
        from embedkit.models.execution.packing import position_offset

        counts_from_zero = self.fidelity == "code" and model.encoder.config.model_type in _ROBERTA
        return -position_offset(model.encoder) if counts_from_zero else 0


@methods.add("promptbert-unsup")
class PromptBERTUnsupervised(Prompted):
    """Unsupervised PromptBERT (Jiang et al. 2022, sections 4.2 and 4.3).

    Views: the sentence under the templates ``model.prompts.first`` and ``model.prompts.second`` (and dropout). A view's
    vector is the state of the mask token, less that of the template alone: the template without the sentence, its
    later tokens at the positions that they have with it (`embedkit.models.augment.template_bias`). One bias is computed
    for each template and sentence length of a chunk, with gradient and dropout. Objective: InfoNCE, temperature 0.05,
    behind a tanh head that is used in training only (the recipe's ``model.head``).

    As in the official code the saved model takes no bias off and uses the first template: that is what the published
    test scores measure, although the development scores that choose the checkpoint take it off (the recipes' section
    ``evaluation.vectors``). The test script puts a full stop behind sentences that end in none of . ? " ', worth points
    without fine-tuning, training and development scores do not: the recipes' default prompt does so with the slot
    ``{.}``. Their ``max_length`` counts the template too: 32 tokens of sentence, as published, plus its own.

    With ``fidelity: code`` the bias pass of RoBERTa counts positions from 0 instead of 2, as the official code does;
    ``paper`` counts as in the sentence's own pass.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["promptbert-unsup"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        from embedkit.models.augment.template_bias import TemplateBias

        text = self.text_encoder(model)
        missing = [name for name in ("first", "second") if name not in text.prompts]
        if missing:
            raise ModelError(f"there is no prompt {missing[0]!r}", where="model.prompts", remedy="give both templates")
        text.template_bias = TemplateBias("training", "pooled", self._shift(text))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        return {"anchor": View(texts, owner, "first"), "positive": View(texts, owner, "second")}


@methods.add("promptbert-sup")
class PromptBERTSupervised(Prompted):
    """Supervised PromptBERT (Jiang et al. 2022, section 4.2): SimCSE's triplets under one template.

    The bias of the template is taken off in training and at inference. Two heads, as in the official code: a model
    without a head in its recipe (BERT) gets the transform of its pretrained masked-word head (linear layer, gelu, layer
    norm), applied to the vector and to the bias *apart*; a model with a tanh head (RoBERTa) applies it to the
    difference. Both stay at inference. Objective: InfoNCE with hard negatives, temperature 0.05.

    The published transfer scores of this model were made without head and bias (the author, in an issue of the
    project): load the model with them for STS only. `fidelity` as in `PromptBERTUnsupervised`.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["promptbert-sup"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'positive'], 'infonce')
    """

    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"anchor", "positive"}), accepts=frozenset({"negatives"})
    )

    def adapt(self, model: Model) -> None:
        from embedkit.formats.transformers.masked_head import masked_transform
        from embedkit.models.augment.template_bias import TemplateBias

        text = self.text_encoder(model)
        if text.layers:
            text.template_bias = TemplateBias("always", "pooled", self._shift(text))
        else:
            text.dense.append(masked_transform(text))
            text.template_bias = TemplateBias("always", "head", self._shift(text))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return role_views(rows)
