"""Texts in templates with a mask token and filled examples behind them, another one for each text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import RecipeError

if TYPE_CHECKING:
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.views.base import View


def word_ids(model: Any, words: Iterable[str]) -> list[int]:
    """The token of each word, as it stands behind a blank.

    Raises
    ------
    RecipeError
        A word is no single token.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.data.builtin import tokenizer
    >>> len(word_ids(SimpleNamespace(tokenizer=tokenizer()), ["dog", "house"]))
    2
    """
    ids = []
    for word in words:
        own = model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(own) != 1 or own[0] == model.tokenizer.unk_token_id:
            what = "unknown" if len(own) == 1 else f"{len(own)} tokens"
            raise RecipeError(f"the label word {word!r} is {what}", where="method.words",
                              remedy="choose a word that the vocabulary has as one token")  # fmt: skip
        ids += own
    return ids


def in_prompts(model: Any, view: View) -> Inputs:
    """Tokens of a view whose inputs are JSON lists: text, template, and examples of text and word.

    What is too long is cut in the text, never in the prompt.

    Examples
    --------
    >>> from embedkit.config.recipe import ModelConfig
    >>> from embedkit.factory import build
    >>> from embedkit.views.base import View
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> in_prompts(model, View(['["a cat", "the {}", []]', '["a dog", "{} sleeps", []]'], [0, 1])).costs
    array([5, 8])
    """
    by_prompt: dict[str, list[int]] = {}
    texts = []
    for place, content in enumerate(view.inputs):
        text, template, examples = json.loads(content)
        texts.append(text)
        by_prompt.setdefault(prompt_of(template, examples, str(model.tokenizer.mask_token)), []).append(place)
    groups = [model.prepare([texts[i] for i in places], prompt) for prompt, places in by_prompt.items()]
    for group in groups:
        group.data.pop("gaps", None)  # only templates with text behind the slot have them, and marks of their own
        if group.marks is None and model.tokenizer.mask_token_id is not None:
            rows = group.rows()
            mask = model.tokenizer.mask_token_id
            group.data["marks"] = np.array([row.index(mask) if mask in row else 0 for row in rows], np.int64)
    order = np.argsort(np.concatenate([np.asarray(places) for places in by_prompt.values()]))
    whole: Inputs = type(groups[0]).concat(groups).select(order)
    return whole


def prompt_of(template: str, examples: Sequence[tuple[str, str]], mask: str) -> str:
    """A template with its slot still open, and behind it filled ones of other texts and their label words.

    Examples
    --------
    >>> prompt_of("It is [MASK]: {}", [("a {b}", "good")], "<mask>")
    'It is <mask>: {} It is good: a (b)'
    """
    open_template = template.replace("[MASK]", mask)
    filled = [
        open_template.replace(mask, word).replace("{}", text.replace("{", "(").replace("}", ")"))
        for text, word in examples
    ]
    return " ".join([open_template, *filled])
