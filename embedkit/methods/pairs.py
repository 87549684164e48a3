"""Plain fine-tuning on your own pairs, triplets or scored pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.data.vectors.rows import column_of
from embedkit.errors import RecipeError, nearest
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs


def role_views(rows: Sequence[Row], prompts: dict[str, str] | None = None) -> dict[str, View]:
    """One view a text role: anchor and positive with one text a row, negatives with as many as each row has.

    Examples
    --------
    >>> views = role_views([{"anchor": "a", "positive": "b", "negatives": ["c", "d"]}])
    >>> views["negatives"]
    View(inputs=['c', 'd'], owner=[0, 0], prompt=None, ...)
    """
    prompts = prompts or {}
    views = {
        role: View(column_of(rows, role), list(range(len(rows))), prompts.get(role))
        for role in ("anchor", "positive")
        if rows and role in rows[0]
    }
    if rows and "negatives" in rows[0]:
        hard = [row["negatives"] for row in rows]
        owner = [i for i, texts in enumerate(hard) for _ in texts]
        views["negatives"] = View([text for texts in hard for text in texts], owner, prompts.get("negatives"))
    return views


PROMPT_NAMES = {
    "anchor": ("query",),
    "positive": ("document", "passage", "corpus"),
    "negatives": ("document", "passage", "corpus"),
}
"""Role -> names under which models have prompts for it; the first one of each is that under which ours are saved."""


def _text(model: Model, prompt: str) -> str:
    return str(getattr(model, "prompts", {}).get(prompt, prompt))


@methods.add("pairs")
class Pairs(Method):
    """Anchor and positive, with any number of hard negatives a row; or two texts with a score.

    With pairs and triplets the objective is InfoNCE over positives and hard negatives of the whole batch (van den Oord
    et al. 2018; Gao et al. 2021, section 4). For scored pairs choose an objective that reads scores, such as CoSENT.

    Parameters
    ----------
    prompts : dict, optional
        Role -> prompt text, for models that want "query: " and "passage: ". They are saved with the model: the
        anchor's as "query", the positive's as "document". When not given, a model that has prompts for queries and
        documents is trained with its own; ``{}`` is none.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["pairs"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'positive'], 'infonce')
    """

    paper: ClassVar[str] = "van den Oord et al. 2018, arXiv 1807.03748"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"anchor", "positive"}),
        accepts=frozenset({"negatives", "score", "scores", "label", "group"}),
    )
    objective: ClassVar[dict[str, Any]] = {"name": "infonce", "temperature": 0.05}

    def __init__(self, prompts: dict[str, str] | None = None) -> None:
        for role in prompts or {}:
            if role not in PROMPT_NAMES:
                raise RecipeError(
                    f"prompts are for roles, and {role!r} is none", where="method.prompts",
                    remedy=nearest(role, PROMPT_NAMES),
                )  # fmt: skip
        self.prompts = prompts

    def adapt(self, model: Model) -> None:
        names = {"query": "anchor", "document": "positive"}
        own = {name: self.prompts[role] for name, role in names.items() if self.prompts and role in self.prompts}
        if own:
            model.prompts = {**model.prompts, **own}

    def notes(self, model: Model) -> list[str]:
        prompts = {role: prompt for role in PROMPT_NAMES if (prompt := self.prompt_of(model, role)) is not None}
        listing = ", ".join(f"{role} {_text(model, prompt)!r}" for role, prompt in prompts.items())
        if self.prompts:
            return [f"prompts in training: {listing}; they are saved with the model as query and document"]
        if prompts:
            return [f"the model's own prompts are used in training: {listing}; method.prompts={{}} is none"]
        return []

    def prompt_of(self, model: Model, role: str) -> str | None:
        if self.prompts is not None:
            return self.prompts.get(role)
        own = getattr(model, "prompts", {})
        names = {role: next((n for n in choices if n in own), None) for role, choices in PROMPT_NAMES.items()}
        return names[role] if None not in names.values() else None

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        own = self.prompt_of(model, name) if view.prompt is None and name in PROMPT_NAMES else None
        return super().prepare(model, name, view if own is None else replace(view, prompt=own))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return role_views(rows, self.prompts)


@methods.add("nli-static")
class NliStatic(Pairs):
    """A static bag-of-word-pieces encoder trained on NLI and caption pairs with in-batch negatives.

    The training signal of Reimers and Gurevych 2019 (NLI) and Gao et al. 2021 (entailment as positive, contradiction as
    hard negative) on the encoder of Pagliardini et al. 2018 (a mean of trained word vectors).

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = methods["nli-static"]()
    >>> sorted(method.contract.requires), (method.objective or {}).get("name")
    (['anchor', 'positive'], 'infonce')
    """

    paper: ClassVar[str] = "Pagliardini et al. 2018, NAACL; Gao et al. 2021, section 4"
