"""Word vectors by a contrastive loss on pairs of words that stand near each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, File, Rate, Whole
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.words import stay_rate, word_counts, words_of

if TYPE_CHECKING:
    from embedkit.models.base import Model


@methods.add("parallel-lines")
class ParallelLines(Method):
    """CWM, word vectors whose analogies are parallel lines (Ri, Lee and Verma 2023, RepL4NLP; read in the code).

    Rows are plain sentences. Of each, a word and another at most `window` words away (the reach is drawn for each word,
    as word2vec does) are the pair; `negatives` words are drawn with the weight count^0.75. Frequent words are left out
    at the rate of `t`, rare ones (seen fewer than `least` times) always. All words share one table, a static model of
    one vector a word, which starts at length one and is not normalised again. Objective: ``cosine-hinge``, margin 0.15.

    What differs from the official code: one pair of a sentence and visit, not every pair, so give more epochs; the
    tokenizer's word pieces are the units (a word of several has their mean); a batch is one step, where the code moves
    the word's vector inside the loop over its negatives.

    Parameters
    ----------
    frequencies : str
        A file of sentences whose words are counted, usually the training text. A run needs one.
    window : int
        Longest distance.
    negatives : int
        Drawn words of each pair.
    t : float
        Threshold of sub-sampling.
    least : int
        Times that a word was seen at least.

    Examples
    --------
    >>> method = ParallelLines("builtin:sentences", window=1, negatives=2, t=0.9, least=1)
    >>> views = method.views([{"anchor": "dogs bark"}], np.random.default_rng)
    >>> sorted([views["anchor"].inputs[0], views["positive"].inputs[0]]), len(views["negatives"].inputs)
    (['bark', 'dogs'], 2)
    """

    paper: ClassVar[str] = "Ri, Lee and Verma 2023, RepL4NLP, Contrastive Loss is All You Need to Recover Analogies"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"anchor"}))
    objective: ClassVar[dict[str, Any] | None] = {"name": "cosine-hinge", "margin": 0.15}

    def __init__(
        self, frequencies: File | None = None, window: Count = 5, negatives: Count = 2, t: Rate = 1e-3,
        least: Whole = 50,
    ) -> None:  # fmt: skip
        self.frequencies, self.window, self.negatives, self.t, self.least = frequencies, window, negatives, t, least

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"anchor", "positive", "negatives"})

    def adapt(self, model: Model) -> None:
        import torch

        if model.kind != "static":
            raise ModelError(f"is a {model.kind} model", where="model.kind",
                             remedy="parallel-lines trains kind: static")  # fmt: skip
        self._words()
        table: Any = model.embedding
        with torch.no_grad():
            table.weight.div_(table.weight.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        path = self._words()
        return self._views(rows, random, *drawn_words(path, self.least), word_counts(path))

    def _words(self) -> str:
        """The file of words, which must be there."""
        if self.frequencies is None:
            raise RecipeError("there is no file whose words are counted", where="method.frequencies",
                              remedy="give the training text")  # fmt: skip
        return self.frequencies

    def outline(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        words = [word for row in rows for word in row["anchor"].split()]
        counts = Counter(words)
        return self._views(rows, random, words, np.linspace(0, 1, len(words) + 1)[1:], (counts, counts.total()))

    def _views(
        self, rows: Sequence[Row], random: Callable[[int], np.random.Generator], vocabulary: list[str],
        chances: np.ndarray, frequency: tuple[Counter[str], int],
    ) -> dict[str, View]:  # fmt: skip
        pairs, others = [], []
        for i, row in enumerate(rows):
            generator = random(i)
            pairs.append(self.pair(words_of(row["anchor"]), *frequency, generator))
            places = np.searchsorted(chances, generator.random(self.negatives), side="right")
            others += [vocabulary[place] for place in places]
        owner = list(range(len(rows)))
        return {
            "anchor": View([word for word, _ in pairs], owner, guided=False),
            "positive": View([word for _, word in pairs], owner, guided=False),
            "negatives": View(others, [i for i in owner for _ in range(self.negatives)], guided=False),
        }

    def pair(
        self, words: Sequence[str], counts: Counter[str], total: int, random: np.random.Generator
    ) -> tuple[str, str]:  # fmt: skip
        """A word and one near it; where no two are left after sub-sampling, of all words; a lone word with itself."""
        stays = random.random(len(words)) < stay_rate(words, counts, total, self.t, self.least)
        left = [word for word, keep in zip(words, stays, strict=True) if keep]
        left = left if len(left) > 1 else list(words)
        place, reach = int(random.integers(len(left))), int(random.integers(1, self.window + 1))
        near = [at for at in range(max(0, place - reach), min(len(left), place + reach + 1)) if at != place]
        return left[place], left[near[int(random.integers(len(near)))]] if near else left[place]


@lru_cache(maxsize=2)
def drawn_words(path: str, least: int) -> tuple[list[str], np.ndarray]:
    r"""The words seen `least` times or more, and the sums of their chances count^0.75, which end at 1.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("sentences.txt").write_text("a cat\na dog\n")
    >>> words, chances = drawn_words("sentences.txt", 2)
    >>> words, chances.tolist()
    (['a'], [1.0])
    """
    counts, _ = word_counts(path)
    words = [word for word, count in counts.items() if count >= max(1, least)]
    if not words:
        raise RecipeError(f"no word is seen {least} times", where=path, remedy="lower method.least")
    weights = np.array([counts[word] for word in words], dtype=float) ** 0.75
    sums = np.cumsum(weights)
    return words, sums / sums[-1]
