"""LM-SupCon: few-shot classification by label words, with supervised contrast between prompts of a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Fidelity, Positive, Template
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.targets import target_role
from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.prompts import drawn_examples, in_prompts, label_logits, read_label_words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch

_ROLE = target_role("class", "label")


@methods.add("lm-supcon")
class LMSupCon(Method):
    """Contrastive learning for prompt-based few-shot learners (Jian et al. 2022, NAACL, section 3).

    The anchor is the text in `template`; its mask token gives the logits of the label words, and so the cross-entropy
    over them (LM-BFF, Gao et al. 2021, section 4). SupCon (all views of a class attract) compares two views behind a
    tanh projector. With `demonstrations` both are views of their own: the text in a template drawn from `templates`,
    behind it one example of each class in that template with its label word; the anchor has examples too. Without them
    the first view is the anchor.

    The release takes two optimiser steps on one batch, SupCon first: ``fidelity: code``. Its two optimisers have
    moments of their own, here both steps share them. ``paper`` is one step on the sum.

    Parameters
    ----------
    words : mapping
        Class -> its label word, a single token.
    template, templates : str, list of str
        With ``{}`` and the mask token; `templates`, those of the views, are `template` alone when not given.
    demonstrations : bool
        Whether examples stand behind the text.
    rows, example_words : int
        First training rows, from which examples are drawn; words of an example at most. The text is cut to fit.
    temperature : float
        Of SupCon.
    fidelity : str
        "code" or "paper".

    Examples
    --------
    >>> method = LMSupCon({"0": "bad", "1": "good"}, "{} It was [MASK].")
    >>> method.views([{"anchor": "Dull"}], np.random.default_rng)["second"].inputs
    ['["Dull", "{} It was [MASK].", []]']
    """

    paper: ClassVar[str] = "Jian et al. 2022, NAACL, section 3; Gao et al. 2021, ACL, section 4"
    contract: ClassVar[Contract] = Contract(frozenset({"anchor"}), frozenset({_ROLE}))
    objective: ClassVar[dict[str, Any] | None] = None
    reads: ClassVar[frozenset[str]] = frozenset({_ROLE})

    def __init__(
        self, words: Mapping[str, str] | None = None, template: Template = "{} It was [MASK].",
        templates: Sequence[Template] = (), demonstrations: bool = False, example_words: Count = 40,
        temperature: Positive = 0.07, rows: Count = 10_000, fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        words = words or {"0": "bad", "1": "good"}
        self.classes, self.words = [str(name) for name in words], list(words.values())
        self.template, self.templates = template, list(templates) or [template]
        self.demonstrations, self.example_words, self.temperature = demonstrations, example_words, temperature
        self.fidelity, self.turns = fidelity, 2 if fidelity == "code" else 1
        self.start_rows = rows if demonstrations else 0
        self.examples: dict[str, list[str]] = {name: [] for name in self.classes}
        self.contract = replace(type(self).contract, limits={_ROLE: frozenset(self.classes)})  # type: ignore[misc]

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def learn_targets(self, facts: Mapping[str, Any]) -> None:
        if _ROLE not in facts:
            raise RecipeError("the rows have no class labels", where="data.train", remedy="map a column to label")

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        from embedkit.methods.common.head_terms import encoded

        return {"label": encoded("class", [row[_ROLE] for row in rows], self.classes, len(self.classes))}

    def adapt(self, model: Model) -> None:
        read_label_words(model, self.words, self.template)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit import objectives

        dim = model.training_dim
        contrast = objectives.build({"name": "supcon", "temperature": self.temperature}, dim=dim)
        return nn.ModuleDict({"projector": nn.Sequential(nn.Linear(dim, dim), nn.Tanh()), "contrast": contrast})

    def learn_start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        self.examples = {name: [row["anchor"] for row in rows if row[_ROLE] == name] for name in self.classes}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts: dict[str, list[str]] = {"anchor": [], "second": [], **({"first": []} if self.demonstrations else {})}
        for i, row in enumerate(rows):
            draws, text = random(i), row["anchor"]
            for name, prompts in texts.items():
                number = int(draws.integers(len(self.templates)))
                template = self.template if name == "anchor" else self.templates[number]
                examples = drawn_examples(text, self.examples, self.words, draws, self.example_words)
                prompts.append(json.dumps([text, template, examples]))
        return {name: View(prompts, list(range(len(rows)))) for name, prompts in texts.items()}

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        return in_prompts(model, view)

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """The state of the mask token and the logits of the label words: (n, H + C)."""
        import torch

        state = model(inputs, **settings)
        return torch.cat([state, label_logits(model, state, self.words)], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        from embedkit.methods.common.head_terms import own_targets, target_losses, there

        target, count, terms = batch.targets["label"], len(self.words), {}
        if self.fidelity == "paper" or batch.turn == 0:
            names = {"anchor": "first" if self.demonstrations else "anchor", "positive": "second"}
            z = {name: parts["projector"](outputs[source][:, :-count]) for name, source in names.items()}
            owner, keys = ({n: by_name[s] for n, s in names.items()} for by_name in (batch.owner, batch.keys))
            label = target.where(there(target), -1 - batch.ids)
            terms["contrast"] = parts["contrast"](z, replace(batch, owner=owner, keys=keys, label=label)).loss
        if self.fidelity == "paper" or batch.turn == 1:
            mine, number = own_targets(target, batch.owner["anchor"], batch.rows)
            logits = outputs["anchor"][mine, -count:]
            terms["label-words"] = target_losses("class", logits, target[mine]).sum() / number
        return terms
