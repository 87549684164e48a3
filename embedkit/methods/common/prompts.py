"""Texts in templates with a mask token and filled examples behind them, another one for each text; label words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

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


def read_label_words(model: Any, words: Sequence[str], template: str) -> None:
    """Let a text encoder read texts in `template`, saved as the prompt "label", with the head for its mask token.

    Raises
    ------
    ModelError
        The model's vector is not the state of a mask token.
    RecipeError
        A word is no single token.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart", ["model.pooling=mask", "model.prompts={own: '{} [MASK]'}"]).model)
    >>> read_label_words(model, ["dog"], "{} is a [MASK]")
    >>> model.prompts["label"], model.default_prompt
    ('{} is a [MASK]', 'label')
    """
    from embedkit.formats.transformers.masked_head import masked_head
    from embedkit.models.modules.text import TextEncoder

    if not isinstance(model, TextEncoder) or model.pooling != "mask" or model.layers:
        raise ModelError("the method reads the state of a mask token", where="model",
                         remedy="use a masked language model with model.pooling: mask and no head")  # fmt: skip
    word_ids(model, words)
    model.prompts = {**model.prompts, "label": template.replace("[MASK]", model.tokenizer.mask_token)}
    model.default_prompt, model.mask_head = "label", masked_head(model)


def label_logits(model: Any, states: Tensor, words: Sequence[str]) -> Tensor:
    """Logits (N, C) of label words from states (N, H) of mask tokens.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart", ["model.pooling=mask", "model.prompts={own: '{} [MASK]'}"]).model)
    >>> read_label_words(model, ["dog", "house"], "{} is a [MASK]")
    >>> label_logits(model, model(model.prepare(["it"], "label")), ["dog", "house"]).shape
    torch.Size([1, 2])
    """
    import torch
    import torch.nn.functional as F

    ids = torch.tensor(word_ids(model, words), device=states.device)
    vectors = model.encoder.get_input_embeddings().weight[ids]
    return F.linear(model.mask_head.transform(states), vectors, model.mask_head.bias[ids])


def drawn_examples(
    text: str, by_class: Mapping[str, Sequence[str]], words: Sequence[str], random: np.random.Generator, most: int
) -> list[tuple[str, str]]:
    """One other text of each class, its first `most` words, with the class's label word.

    Examples
    --------
    >>> texts = {"0": ["a dull film", "so bad"], "1": ["a good one"]}
    >>> drawn_examples("so bad", texts, ["bad", "good"], np.random.default_rng(0), most=2)
    [('a dull', 'bad'), ('a good', 'good')]
    """
    examples = []
    for texts, word in zip(by_class.values(), words, strict=True):
        others = [other for other in texts if other != text]
        if others:
            examples.append((" ".join(others[int(random.integers(len(others)))].split()[:most]), word))
    return examples


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
