"""What text views draw of an image's captions: whole ones, or sentences of long ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from embedkit.data.schema.sentences import split_sentences
from embedkit.errors import DataError, RecipeError

Texts = Literal["caption", "first", "sentence", "same", "negated"]
"""What a text view draws."""

NEGATION = "This image does not show {}"
"""What stands around a negated caption."""


def drawn_texts(
    captions: Sequence[str], kinds: Mapping[str, Texts], merged: int, random: np.random.Generator
) -> dict[str, str]:
    """A text of an image's captions for each view.

    Parameters
    ----------
    captions : list of str
        Of one image, the raw one first.
    kinds : mapping
        View -> "first", the first caption; "caption", one of them; "sentence", one of all their sentences, the first
        caption left out where it is a view of its own and there are others; "same" and "negated", the text of the first
        view.
        Captions and sentences are drawn without replacement as long as there are enough.
    merged : int
        Neighbouring sentences of a "sentence", of one caption.

    Examples
    --------
    >>> kinds = {"positive": "first", "text1": "sentence", "text2": "sentence", "text3": "same"}
    >>> drawn_texts(["a dog", "A dog runs. It is brown. The sun shines."], kinds, 1, np.random.default_rng(0))
    {'positive': 'a dog', 'text1': 'The sun shines.', 'text2': 'It is brown.', 'text3': 'a dog'}
    """
    choices = list(kinds.values())
    pools: dict[str, list[str]] = {"first": [captions[0]], "caption": list(captions)}
    if "sentence" in choices:
        longer = list(captions[1:]) if "first" in choices and len(captions) > 1 else list(captions)
        pools["sentence"] = [part for caption in longer for part in sentences_of(caption, merged)]
    draws = {kind: _order(pools[kind], choices.count(kind), random) for kind in pools if kind in choices}
    texts: dict[str, str] = {}
    for name, kind in kinds.items():
        texts[name] = next(iter(texts.values())) if kind in ("same", "negated") else draws[kind].pop(0)
    return texts


def _order(pool: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    """`count` texts in a drawn order, each as often as the others or once more."""
    order: list[str] = []
    while len(order) < count:
        ranks = random.bit_generator.random_raw(len(pool))  # type: ignore[attr-defined]
        order += [pool[place] for place in np.argsort(ranks, kind="stable")]
    return order[:count]


def sentences_of(caption: str, merged: int = 1) -> list[str]:
    """Every run of `merged` neighbouring sentences of a caption, the last ones too; all of it where it has fewer.

    Examples
    --------
    >>> sentences_of("A dog runs. It is brown. The sun shines.", merged=2)
    ['A dog runs. It is brown.', 'It is brown. The sun shines.']
    """
    sentences = split_sentences(caption)
    return [" ".join(sentences[start : start + merged]) for start in range(max(1, len(sentences) - merged + 1))]


def check_kinds(kinds: Mapping[str, Texts], merged: int, negation: str | None) -> str:
    """What stands around negated texts; views without a text and settings that no text view reads are refused.

    Raises
    ------
    RecipeError
        Naming the setting.

    Examples
    --------
    >>> check_kinds({"positive": "caption"}, 1, "not {}")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.negation: no view is negated; leave it out, or add one: negated: negated
    """
    first = next(iter(kinds), "")
    if kinds.get(first) in ("same", "negated"):
        raise RecipeError(f"{kinds[first]!r} is the text of the first view", where=f"method.texts.{first}",
                          remedy="write a view that draws a text before it")  # fmt: skip
    if merged > 1 and "sentence" not in kinds.values():
        raise RecipeError("no view draws sentences", where="method.merged", remedy="leave it out")
    if negation is not None and "negated" not in kinds.values():
        raise RecipeError("no view is negated", where="method.negation", remedy="leave it out, or add one: negated: "
                          "negated")  # fmt: skip
    return negation or NEGATION


def check_sentences(rows: Sequence[Sequence[str]]) -> None:
    """Refuse captions of which none has a second sentence: there is nothing to split.

    Raises
    ------
    DataError
        All captions of these rows are single sentences.

    Examples
    --------
    >>> check_sentences([["a dog"], ["two cats", "cats"]])
    Traceback (most recent call last):
    embedkit.errors.DataError: data.train: none of the first 2 rows has a caption of two sentences; ...
    """
    if not any(len(split_sentences(caption)) > 1 for captions in rows for caption in captions):
        raise DataError(
            f"none of the first {len(rows)} rows has a caption of two sentences", where="data.train",
            remedy="give long captions, or set the text views to 'caption'",
        )  # fmt: skip
