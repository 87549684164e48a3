"""The settings of the ways of mining that look at texts alone, checked when they are made."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from embedkit.errors import UserError
from embedkit.mining.settings import SIMILARITY, Settings

MARGINS = ("ratio", "distance", "absolute")
DIRECTIONS = ("max", "intersection", "forward", "backward")
EQUAL_TEXTS = ("drop", "keep")
_RANKS = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class NeighbourSettings(Settings):
    """What positives, paraphrases and bitext have in common.

    Parameters
    ----------
    min_score : float or None
        Lowest score of a pair, included.
    similarity : str
        ``cosine``, or ``dot`` for inner products.
    output_scores : bool
        Add a column ``score``.
    truncate_dim : int or None
        Keep the first coordinates of the model's vectors only.
    block_size : int
        Texts that are held in memory as vectors at a time. The output does not depend on it.

    Examples
    --------
    >>> NeighbourSettings(similarity="angle")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: similarity: 'angle' is no choice; known: cosine, dot
    """

    min_score: float | None = None
    similarity: str = "cosine"
    output_scores: bool = False
    truncate_dim: int | None = None
    block_size: int = 16_384

    def __post_init__(self) -> None:
        self._check_choice("similarity", SIMILARITY)
        self._check_whole("block_size", 1)
        if self.truncate_dim is not None:
            self._check_whole("truncate_dim", 1)
        self._check_scores()

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is found, as plain values."""
        form = ("output_scores", "block_size", "one_per_row")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in form}


@dataclass(frozen=True)
class ParaphraseSettings(NeighbourSettings):
    """Which pairs of texts are paraphrases.

    Parameters
    ----------
    top_k : int or None
        Neighbours of a text that are looked at; 100, or all others, when None.
    max_score : float or None
        Highest score of a pair, included.
    max_pairs : int
        Pairs at most, those of the highest scores.
    equal_texts : str
        ``drop`` takes equal texts, white space aside, for one; ``keep`` pairs them, too.
    prompt : str or None
        Name or text of the model's prompt.

    Examples
    --------
    >>> ParaphraseSettings(min_score=0.8).top_k is None
    True
    """

    command = "mine_paraphrases"

    top_k: int | None = None
    max_score: float | None = None
    max_pairs: int = 500_000
    equal_texts: str = "drop"
    prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("equal_texts", EQUAL_TEXTS)
        self._check_whole("max_pairs", 1)
        if self.top_k is not None:
            self._check_whole("top_k", 1)


@dataclass(frozen=True)
class BitextSettings(NeighbourSettings):
    """Which texts of two languages are taken for translations.

    Parameters
    ----------
    margin : str
        The score of a pair of similarity *s* whose texts have neighbours with the mean similarity *m*, over both:
        ``ratio`` *s* / *m*, ``distance`` *s* - *m*, ``absolute`` *s*.
    top_k : int
        Neighbours in the other language, of each text, over which the mean is taken and the best is looked for.
    direction : str
        ``forward`` takes the best target of each source, ``backward`` the best source of each target,
        ``intersection`` what both agree on; ``max`` takes all of these by descending score, each text once.
    max_pairs : int or None
        Pairs at most, those of the highest scores.
    source_prompt, target_prompt : str or None
        Name or text of the model's prompts.

    Examples
    --------
    >>> BitextSettings().margin, BitextSettings().top_k
    ('ratio', 4)
    """

    command = "mine_bitext"

    margin: str = "ratio"
    top_k: int = 4
    direction: str = "max"
    max_pairs: int | None = None
    source_prompt: str | None = None
    target_prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("margin", MARGINS)
        self._check_choice("direction", DIRECTIONS)
        self._check_whole("top_k", 1)
        if self.max_pairs is not None:
            self._check_whole("max_pairs", 1)


@dataclass(frozen=True)
class PositiveSettings(NeighbourSettings):
    """Which neighbours of a text become its positives and its negatives.

    Parameters
    ----------
    positive_ranks : str
        Ranks of the positives, the most similar text is 0: ``first:stop``, as a slice.
    negative_ranks : str or None
        Ranks of hard negatives, behind those of the positives.
    easy_negatives : int
        Negatives drawn from all texts behind these ranks.
    seed : int
        Of that draw; it depends on the seed and the text alone.
    min_score : float or None
        Lowest score of a positive.
    one_per_row : bool
        Triplets: the first positive with the first negative, the second with the second, the shorter list again from
        its beginning; in place of one row a positive with all negatives.
    prompt, corpus_prompt : str or None
        Name or text of the model's prompts.

    Examples
    --------
    >>> settings = PositiveSettings(positive_ranks="20:25", negative_ranks="3998:4000", easy_negatives=3)
    >>> settings.positives, settings.negatives, settings.last_rank
    ((20, 25), (3998, 4000), 4000)
    """

    command = "mine_positives"

    positive_ranks: str = "0:1"
    negative_ranks: str | None = None
    easy_negatives: int = 0
    seed: int = 0
    one_per_row: bool = False
    prompt: str | None = None
    corpus_prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("easy_negatives", "seed"):
            self._check_whole(name, 0)
        if self.negatives[0] < self.positives[1] and self.negative_ranks is not None:
            raise UserError("ranks of negatives lie among or before those of positives", where="negative_ranks",
                            remedy=f"begin at {self.positives[1]} or later")  # fmt: skip
        if self.seed and not self.easy_negatives:
            raise UserError("nothing is drawn", where="seed", remedy="leave it out, or set easy_negatives")
        if self.one_per_row and not self.num_negatives:
            raise UserError("there are no negatives", where="one_per_row",
                            remedy="leave it out, or set negative_ranks or easy_negatives")  # fmt: skip

    @property
    def positives(self) -> tuple[int, int]:
        """First rank of the positives, and the one behind the last."""
        return _ranks("positive_ranks", self.positive_ranks)

    @property
    def negatives(self) -> tuple[int, int]:
        """The same of the hard negatives; empty where there are none."""
        stop = self.positives[1]
        return (stop, stop) if self.negative_ranks is None else _ranks("negative_ranks", self.negative_ranks)

    @property
    def num_negatives(self) -> int:
        """Negatives of a text."""
        return self.negatives[1] - self.negatives[0] + self.easy_negatives

    @property
    def last_rank(self) -> int:
        """The rank behind the last one that is looked at."""
        return max(self.positives[1], self.negatives[1])


def _ranks(name: str, text: str) -> tuple[int, int]:
    match = _RANKS.fullmatch(str(text))
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"{text!r} is no range of ranks", where=name, remedy="write first:stop, for example 20:25")
    return int(match[1]), int(match[2])
