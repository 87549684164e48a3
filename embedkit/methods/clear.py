"""CLEAR: two noisy copies of a sentence, by deleted words and spans, exchanged spans and synonyms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from embedkit.config.settings import File
from embedkit.errors import RecipeError
from embedkit.methods.base import methods
from embedkit.methods.views import Views
from embedkit.views.base import Chain

if TYPE_CHECKING:
    from embedkit.models.base import Model

Noise = Literal["word-deletion", "span-deletion", "reordering", "substitution"]


@methods.add("clear")
class CLEAR(Views):
    """CLEAR (Wu et al. 2020, arXiv 2012.15466; no official code, rates from memory of the paper [M]).

    Views: the sentence with one kind of noise, and again with another: 70 % of the words deleted, five spans of 5 %
    deleted, five pairs of such spans exchanged, or 30 % of the words replaced from a table of synonyms. Words deleted
    side by side leave `marker`, a new word of the vocabulary that starts as the mask. Objective: NT-Xent; masked words
    beside it (``auxiliary: [{name: mlm}]``), with the same weight.

    Parameters
    ----------
    first, second : str
        The noise of the two views.
    marker : str
        What stands for deleted words.
    synonyms : str or None
        A table for `substitution`, as the view of this name reads it.

    Examples
    --------
    >>> sorted(CLEAR().chains), CLEAR(first="reordering").chains["anchor"].steps[0].edit is None
    (['anchor', 'positive'], False)
    """

    paper: ClassVar[str] = "Wu et al. 2020, arXiv 2012.15466, CLEAR"
    objective: ClassVar[dict[str, Any]] = {"name": "ntxent", "temperature": 0.1}

    def __init__(
        self, first: Noise = "word-deletion", second: Noise = "reordering", marker: str = "[DEL]",
        synonyms: File | None = None,
    ) -> None:  # fmt: skip
        if (synonyms is None) == ("substitution" in (first, second)):
            raise RecipeError(
                "substitution and a table of synonyms belong together", where="method.synonyms",
                remedy="give the table, or another noise" if synonyms is None else "leave it out, or use substitution",
            )  # fmt: skip
        self.first, self.second, self.marker, self.synonyms = first, second, marker, synonyms
        self.names = ("anchor", "positive")

    @cached_property
    def chains(self) -> Mapping[str, Chain]:  # type: ignore[override]
        """The chain of each view."""
        settings: dict[str, dict[str, Any]] = {
            "word-deletion": {"rate": 0.7, "marker": self.marker}, "span-deletion": {"marker": self.marker},
            "reordering": {}, "substitution": {"rate": 0.3, "table": self.synonyms},
        }  # fmt: skip
        places = (("anchor", "first", self.first), ("positive", "second", self.second))
        return {name: Chain.of({"name": noise, **settings[noise]}, f"method.{key}") for name, key, noise in places}

    def adapt(self, model: Model) -> None:
        tokenizer: Any = getattr(model, "tokenizer", None)
        vocabulary = {} if tokenizer is None else tokenizer.get_vocab()
        deletes = {self.first, self.second} & {"word-deletion", "span-deletion"}
        if deletes and self.marker not in vocabulary and hasattr(model, "add_tokens"):
            text: Any = model
            mask = tokenizer.mask_token_id
            text.add_tokens([self.marker], [tokenizer.unk_token_id if mask is None else mask])
