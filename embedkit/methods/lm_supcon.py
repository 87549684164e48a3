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
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.methods.common.prompts import in_prompts, word_ids

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
    template : str
        With ``{}`` and the mask token.
    templates : list of str
        Those of the views; `template` alone when not given.
    demonstrations : bool
        Whether examples stand behind the text.
    example_words : int
        Words of an example at most; what is too long in the end is cut from the text.
    temperature : float
        Of SupCon.
    rows : int
        Training rows, the first ones, that examples are drawn from.
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
        temperature: Positive = 0.07,
        rows: Count = 10_000, fidelity: Fidelity = "code",
    ) -> None:  # fmt: skip
        words = words or {"0": "bad", "1": "good"}
        self.classes, self.words = [str(name) for name in words], list(words.values())
        self.template, self.templates = template, list(templates) or [template]
        self.demonstrations, self.temperature, self.fidelity = demonstrations, temperature, fidelity
        self.example_words = example_words
        self.turns = 2 if fidelity == "code" else 1
        self.start_rows = rows if demonstrations else 0
        self.examples: dict[str, list[str]] = {}
        limits = {_ROLE: frozenset(self.classes)}
        self.contract = replace(type(self).contract, limits=limits)  # type: ignore[misc]

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def learn_targets(self, facts: Mapping[str, Any]) -> None:
        if _ROLE not in facts:
            raise RecipeError("the rows have no class labels", where="data.train", remedy="map a column to label")

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        from embedkit.methods.common.head_terms import encoded

        return {"label": encoded("class", [row[_ROLE] for row in rows], self.classes, len(self.classes))}

    def adapt(self, model: Model) -> None:
        from embedkit.formats.transformers.masked_head import masked_head
        from embedkit.models.modules.text import TextEncoder

        if not isinstance(model, TextEncoder) or model.pooling != "mask" or model.layers:
            raise ModelError(
                "the method reads the state of a mask token", where="model",
                remedy="use a masked language model with model.pooling: mask and no head",
            )  # fmt: skip
        word_ids(model, self.words)
        model.prompts = {**model.prompts, "label": self.template.replace("[MASK]", model.tokenizer.mask_token)}
        model.default_prompt, model.mask_head = "label", masked_head(model)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit import objectives

        projector = nn.Sequential(nn.Linear(model.training_dim, model.training_dim), nn.Tanh())
        contrast = objectives.build({"name": "supcon", "temperature": self.temperature}, dim=model.training_dim)
        return nn.ModuleDict({"projector": projector, "contrast": contrast})

    def start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        self.examples = {name: [row["anchor"] for row in rows if row[_ROLE] == name] for name in self.classes}

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        texts: dict[str, list[str]] = {"anchor": [], "second": [], **({"first": []} if self.demonstrations else {})}
        for i, row in enumerate(rows):
            draws = random(i)
            for name, prompts in texts.items():
                number = int(draws.integers(len(self.templates)))
                template = self.template if name == "anchor" else self.templates[number]
                examples = self._examples(row["anchor"], draws) if self.demonstrations else []
                prompts.append(json.dumps([row["anchor"], template, examples]))
        return {name: View(prompts, list(range(len(rows)))) for name, prompts in texts.items()}

    def _examples(self, text: str, draws: np.random.Generator) -> list[tuple[str, str]]:
        """One other text of each class, with the label word."""
        examples = []
        for name, word in zip(self.classes, self.words, strict=True):
            others = [other for other in self.examples.get(name, ()) if other != text]
            if others:
                example = others[int(draws.integers(len(others)))]
                examples.append((" ".join(example.split()[: self.example_words]), word))
        return examples

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        return in_prompts(model, view)

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """The state of the mask token and the logits of the label words: (n, H + C)."""
        import torch
        import torch.nn.functional as F

        state = model(inputs, **settings)
        ids = torch.tensor(word_ids(model, self.words), device=state.device)
        words = model.encoder.get_input_embeddings().weight[ids]
        return torch.cat([state, F.linear(model.mask_head.transform(state), words, model.mask_head.bias[ids])], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        from embedkit.methods.common.head_terms import target_losses, there
        from embedkit.methods.common.parts import own_rows

        target, count, terms = batch.targets["label"], len(self.words), {}
        if self.fidelity == "paper" or batch.turn == 0:
            names = {"anchor": "first" if self.demonstrations else "anchor", "positive": "second"}
            z = {name: parts["projector"](outputs[source][:, :-count]) for name, source in names.items()}
            owner, keys = ({n: by_name[s] for n, s in names.items()} for by_name in (batch.owner, batch.keys))
            label = target.where(there(target), -1 - batch.ids)
            terms["contrast"] = parts["contrast"](z, replace(batch, owner=owner, keys=keys, label=label)).loss
        if self.fidelity == "paper" or batch.turn == 1:
            present = there(target)
            mine = present & own_rows(batch.owner["anchor"], batch.rows)
            losses = target_losses("class", outputs["anchor"][mine, -count:], target[mine])
            terms["label-words"] = losses.sum() / present.sum().clamp(min=1)
        return terms
