"""Views that change the words of a text, registered by name.

Words are separated by white space; a text without words stays as it is. The underlying functions are in
`embedkit.views.words` and `embedkit.views.spans`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from embedkit.config.settings import Count, Share, Template
from embedkit.errors import RecipeError
from embedkit.views import spans, words
from embedkit.views.base import Step, views

WordEdit = Callable[[list[str], np.random.Generator], list[str]]
Shape = Annotated[float, Field(ge=1e-3, le=1e3)]


def on_words(edit: WordEdit) -> Step:
    """A step that edits the list of words of a text.

    Examples
    --------
    >>> reverse = on_words(lambda words, random: words[::-1])
    >>> reverse.edit("a small red car", np.random.default_rng(0))
    'car red small a'
    """

    def run(text: str, random: np.random.Generator) -> str:
        items = text.split()
        return " ".join(edit(items, random)) if items else text

    return Step(edit=run)


@views.add("word-deletion")
def word_deletion(rate: Share = 0.1, marker: str | None = None) -> Step:
    """Drop each word with probability `rate`; a `marker` such as "[MASK]" stands for each run that is gone.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("word-deletion").texts("a small red car, near the old house", np.random.default_rng(3))
    ['small red car, the old house']
    """
    return on_words(lambda items, random: words.delete(items, random, rate=rate, marker=marker))


@views.add("span-deletion")
def span_deletion(spans: Count = 5, share: Share = 0.05, marker: str | None = None) -> Step:
    """Drop up to `spans` disjoint spans, each `share` of the words long.

    Parameters
    ----------
    marker : str or None
        Stands for each span that is gone, such as "[MASK]".

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("span-deletion").texts("a small red car, near the old house", np.random.default_rng(3))
    ['red near the']
    """
    return on_words(lambda items, random: words.delete_spans(items, random, spans=spans, share=share, marker=marker))


@views.add("reordering")
def reordering(pairs: Count = 5, share: Share = 0.05) -> Step:
    """Exchange up to `pairs` pairs of disjoint spans, each `share` of the words long.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("reordering").texts("a small red car, near the old house", np.random.default_rng(3))
    ['old house red car, the near a small']
    """
    return on_words(lambda items, random: words.swap_spans(items, random, pairs=pairs, share=share))


@views.add("word-shuffle")
def word_shuffle(window: Count | None = None) -> Step:
    """The words in random order; with a `window` none moves further than that.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("word-shuffle").texts("a small red car, near the old house", np.random.default_rng(3))
    ['a near house small the old car, red']
    """
    return on_words(lambda items, random: words.shuffle(items, random, window=window))


@views.add("word-repetition")
def word_repetition(rate: Share = 0.32) -> Step:
    """Repeat some words: from none up to `rate` x length of them (ESimCSE, Wu et al. 2022, on sub-words).

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("word-repetition").texts("a small red car, near the old house", np.random.default_rng(3))
    ['a a small small red car, near the old house']
    """
    return on_words(lambda items, random: words.repeat(items, random, rate=rate))


@views.add("random-span")
def random_span(least: Count = 32, most: Count = 512, alpha: Shape = 4.0, beta: Shape = 2.0) -> Step:
    """One span of the words; size floor(Beta(alpha, beta) x (most - least) + least), start uniform.

    DeCLUTR (Giorgi et al. 2021) draws anchors with (4, 2), mostly long, and positives with (2, 4), mostly short.

    Parameters
    ----------
    least, most : int
        Bounds of the size in words.
    alpha, beta : float
        Parameters of the Beta distribution of sizes.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("random-span").texts("a small red car, near the old house", np.random.default_rng(3))
    ['a small red car, near the old house']
    """
    if most < least:
        raise RecipeError(f"most is {most}", where="view random-span", remedy=f"least is {least}, give no less")

    def run(items: list[str], random: np.random.Generator) -> list[str]:
        start, stop = spans.random_span(len(items), random, least=least, most=most, shape=(alpha, beta))
        return items[start:stop]

    return on_words(run)


@views.add("phrases")
def phrases(parts: Count = 2, even: bool = False) -> Step:
    """Cut the text into `parts` neighbouring phrases; the row's vector is the mean of theirs (after CompCSE's "avg").

    The method ``compcse`` composes before its training head and compares the first 256 numbers only; here the head of a
    method that has one comes first.

    Parameters
    ----------
    even : bool
        Whether the phrases are of equal length; else they are cut at random places.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of("phrases").texts("a small red car, near the old house", np.random.default_rng(3))
    ['a small red car, near the', 'old house']
    """

    def run(text: str, random: np.random.Generator) -> list[str]:
        items = text.split()
        pieces = spans.cut(len(items), random, parts=parts, even=even) if items else []
        return [" ".join(items[a:b]) for a, b in pieces] or [text]

    return Step(edit=run, splits=True)


@views.add("template")
def template(text: Template) -> Step:
    """A prompt around the text, e.g. ``This sentence : "{}" means [MASK].`` (PromptBERT, Jiang et al. 2022).

    Parameters
    ----------
    text : str
        The prompt, with {} where the text goes.

    Examples
    --------
    >>> from embedkit.views.base import Chain
    >>> Chain.of({"name": "template", "text": 'This sentence : "{}" means [MASK].'}).prompt
    'This sentence : "{}" means [MASK].'
    """
    return Step(prompt=text)
