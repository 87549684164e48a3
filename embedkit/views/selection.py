"""Views of an image's caption: without function words, or one of several edits (CLIP-rocket)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedkit.config.settings import Share
from embedkit.errors import RecipeError
from embedkit.views.base import Chain, Step, views
from embedkit.views.text import on_words

_FUNCTION_WORDS_TEXT = """
a about above after again against all am an and any are as at be because been before being below between both but by
can could did do does doing down during each few for from further had has have having he her here hers herself him
himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or other
our ours ourselves out over own same she should so some such than that the their theirs them themselves then there
these they this those through to too under until up very was we were what when where which while who whom why will
with would you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_TEXT.split())
"""English words that name nothing: articles, pronouns, prepositions, auxiliaries."""


@views.add("stop-words")
def stop_words(rate: Share = 0.8) -> Step:
    """Drop all English function words of the text, with probability `rate`; a text of nothing else stays.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> Chain.of({"name": "stop-words", "rate": 1.0}).texts("a small red car near the house", np.random.default_rng(3))
    ['small red car near house']
    """

    def run(items: list[str], random: np.random.Generator) -> list[str]:
        if random.random() >= rate:
            return items
        return [word for word in items if word.strip(".,;:!?\"'()").lower() not in FUNCTION_WORDS] or items

    return on_words(run)


@views.add("one-of")
def one_of(steps: Sequence[str | dict[str, Any]]) -> Step:
    """One of several edits, drawn for each text; an entry may have a ``weight``, which is 1 otherwise.

    Parameters
    ----------
    steps : list
        Names of views, or mappings with a name, settings and a weight.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.views.base import Chain
    >>> chain = Chain.of({"name": "one-of", "steps": ["word-shuffle", {"name": "word-deletion", "rate": 0.5}]})
    >>> [chain.texts("a small red car", np.random.default_rng(seed))[0] for seed in (0, 1)]
    ['car', 'a red']
    """
    chains, weights = [], []
    for place, entry in enumerate(steps):
        settings = {"name": entry} if isinstance(entry, str) else dict(entry)
        weight = settings.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise RecipeError(
                f"weight is {weight!r}", where=f"view one-of.steps.{place}", remedy="give a number above 0"
            )
        weights.append(float(weight))
        chains.append(Chain.of(settings, f"view one-of.steps.{place}"))
    if not chains:
        raise RecipeError("there is nothing to draw from", where="view one-of.steps", remedy="give names of views")
    if any(chain.prompt is not None or chain.forward or chain.splits for chain in chains):
        raise RecipeError("an entry does more than edit words", where="view one-of.steps",
                          remedy="put it into the chain beside one-of")  # fmt: skip
    edges = np.cumsum(weights) / sum(weights)

    def run(text: str, random: np.random.Generator) -> str:
        place = min(int(np.searchsorted(edges, random.random(), side="right")), len(chains) - 1)
        return chains[place].texts(text, random)[0]

    return Step(edit=run)
