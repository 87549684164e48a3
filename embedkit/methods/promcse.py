"""PromCSE: the encoder stays as it is, trained keys and values in front of every layer make the vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Rate
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.pairs import role_views

if TYPE_CHECKING:
    from embedkit.models.base import Model


@methods.add("promcse")
class PromCSE(Method):
    """Deep soft prompts on a frozen encoder (Jiang et al. 2022, Findings of EMNLP, section 3).

    Views: with a positive in the data SimCSE's supervised ones, without it the sentence twice (the frozen encoder's
    dropout makes them differ). Trained are the prompt (``prompt_length`` x layers x 2 x d numbers, dropout 0.1, no
    re-parameterisation), the recipe's tanh head on [CLS], and a masked-word head where the recipe adds that loss. The
    prompt stays in the saved model, as does the head of the supervised form. Positions of the text are counted behind
    the prompt, as in the official code, where [CLS] stands at position ``prompt_length``.

    Objective: InfoNCE, temperature 0.05; the recipes with labels add 10 x the energy-based hinge of margin 0.2
    (section 3.2). On RoBERTa without labels the official code adds masked-word prediction whose weight 0.1 decays by
    0.95 every 100 steps; the paper does not say so. It is in the recipes.

    Parameters
    ----------
    prompt_length : int
        Virtual tokens of each layer.
    dropout : float
        Rate on the prompt's keys and values.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["promcse"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor'], 'infonce')
    """

    paper: ClassVar[str] = "Jiang, Zhang and Wang 2022, Findings of EMNLP, section 3"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"anchor"}), accepts=frozenset({"positive", "negatives"})
    )
    objective: ClassVar[dict[str, Any] | None] = {"name": "infonce", "temperature": 0.05}

    def __init__(self, prompt_length: Count = 16, dropout: Rate = 0.1) -> None:
        self.prompt_length, self.dropout = prompt_length, dropout

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive"})

    def adapt(self, model: Model) -> None:
        from embedkit.models.execution.packing import position_offset
        from embedkit.models.modules.soft_prompt import SoftPrompt
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder):
            raise ModelError(f"a {model.kind} model takes no soft prompt", remedy="use a transformers encoder")
        table = model.encoder.config.max_position_embeddings - position_offset(model.encoder)
        if model.max_length + self.prompt_length > table:
            raise ModelError(
                f"{model.max_length} tokens and {self.prompt_length} of the prompt need more than {table} positions",
                where="model.max_length", remedy="lower one of them",
            )  # fmt: skip
        model.encoder.requires_grad_(False)
        if model.soft_prompt is None or model.soft_prompt.length != self.prompt_length:
            model.soft_prompt = SoftPrompt(model.encoder.config, self.prompt_length, self.dropout)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        both = role_views(rows)
        if "positive" not in both:
            both["positive"] = View(list(both["anchor"].inputs), list(both["anchor"].owner))
        return both
