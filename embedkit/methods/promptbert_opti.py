"""PromptBERT with a learned template: only the vectors of the template's words are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.promptbert import Prompted

if TYPE_CHECKING:
    from embedkit.models.base import Model


@methods.add("promptbert-opti")
class PromptBERTOptimised(Prompted):
    """PromptBERT with a learned template (Jiang et al. 2022, section 4.1, "OptiPrompt").

    The encoder is frozen. The words of the template, all but the mask token, become new words of the vocabulary that
    start with the old ones' vectors; only these vectors are trained, and a head that is used in training only, the
    transform of the pretrained masked-word head. Views: the sentence twice under the template (dropout). No bias is
    taken off. Objective: InfoNCE, temperature 0.05.

    The saved model is an encoder with a few more words whose template is written in them, so that it needs nothing
    special at inference. In the official code a learned word takes the place of the *last* one like it in the row, so
    that a sentence which holds "this", "sentence" or ":" loses its own; here it is always the template's.
    ``train_encoder`` trains all.

    Parameters
    ----------
    train_encoder : bool
        Train the encoder too.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["promptbert-opti"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))

    def __init__(self, train_encoder: bool = False) -> None:
        super().__init__()
        self.train_encoder = train_encoder

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        from embedkit.formats.transformers.masked_head import masked_transform
        from embedkit.models.inputs.tokens import SENTENCE_SLOT, SLOT
        from embedkit.models.modules.adapters import train_rows

        text = self.text_encoder(model)
        name = "first" if "first" in text.prompts else text.default_prompt
        if name is None:
            raise ModelError("there is no template to learn", where="model.prompts", remedy="give the prompt 'first'")
        old = text.prompts[name]
        new, first = _learnable_template(text, old)
        for other, template in text.prompts.items():  # the same template with another slot stays the same
            if template.replace(SENTENCE_SLOT, SLOT) == old:
                text.prompts[other] = new.replace(SLOT, SENTENCE_SLOT) if SENTENCE_SLOT in template else new
        if not self.train_encoder:
            text.encoder.requires_grad_(False)
            train_rows(text.encoder.get_input_embeddings().weight, first)
        head = masked_transform(text)
        head.train_only = True
        text.dense.append(head)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts, owner = [row["anchor"] for row in rows], list(range(len(rows)))
        return {"anchor": View(texts, owner), "positive": View(texts, owner)}


def _learnable_template(text: Any, template: str) -> tuple[str, int]:
    """The template with its words replaced by new trainable ones, and the id of the first of these."""
    prefix, slot, suffix = template.partition("{}")
    mask = text.tokenizer.mask_token
    if not slot or mask not in suffix:
        raise ModelError(f"template {template!r} has no {mask} behind its slot", where="model.prompts", remedy="add it")
    token_ids: list[int] = []

    def renamed(part: str) -> str:
        ids = text.tokenizer(part, add_special_tokens=False)["input_ids"] if part.strip() else []
        start = len(token_ids)
        token_ids.extend(ids)
        return "".join(f"[template{start + i}]" for i in range(len(ids)))

    before, _, after = suffix.partition(mask)
    parts = renamed(prefix), renamed(before), renamed(after)
    new = text.add_tokens([f"[template{i}]" for i in range(len(token_ids))], token_ids)
    return f"{parts[0]}{slot}{parts[1]}{mask}{parts[2]}", min(new)
