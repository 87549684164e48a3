"""The settings of hard-negative mining, checked when they are made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from embedkit.errors import UserError, nearest

S = TypeVar("S", bound="Settings")

SAMPLING = ("top", "random", "temperature")
SIMILARITY = ("cosine", "dot")
TOO_FEW = ("keep", "drop")

_PEERS = {
    "sampling_strategy": "sampling", "margin": "absolute_margin", "query_prompt_name": "query_prompt",
    "corpus_prompt_name": "corpus_prompt", "faiss_batch_size": "block_size",
}  # fmt: skip
"""Arguments of sentence-transformers' ``mine_hard_negatives`` whose name is another one here."""


def refuse_idle(
    why: str, values: Mapping[str, Any], of: Callable[..., Any] | None = None, *, remedy: str = "leave it out"
) -> None:
    """Refuse the first of some settings that is given although it has no effect.

    Parameters
    ----------
    why : str
        What takes the effect away.
    values : mapping
        Setting -> value.
    of : callable, optional
        The function whose settings they are: one that has another value than its default is given. Without it all
        that is not None is.
    remedy : str
        What to do about it.

    Raises
    ------
    UserError
        One is given.

    Examples
    --------
    >>> import embedkit
    >>> refuse_idle("no command is called", {"parallel": 1, "timeout": 9.0}, embedkit.generate)
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: timeout: no command is called, so that it has no effect; leave it out
    """
    defaults = {} if of is None else inspect.signature(of).parameters
    for name, value in values.items():
        default = defaults[name].default if name in defaults else None
        if value is not default and not (isinstance(value, str | int | float) and value == default):
            raise UserError(f"{why}, so that it has no effect", where=name, remedy=remedy)


class Settings:
    """What the settings of all ways of mining share: frozen dataclasses that check their fields when they are made.

    Examples
    --------
    >>> MiningSettings.of({"num_negative": 2})
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: mine has no setting 'num_negative'; did you mean 'num_negatives'?
    """

    command = "mine"
    peers: ClassVar[Mapping[str, str]] = {}
    """Names of other libraries -> ours."""

    @classmethod
    def of(cls: type[S], values: Mapping[str, Any]) -> S:
        """The settings with these values, names of other libraries understood; an unknown name is refused.

        Examples
        --------
        >>> MiningSettings.of({"sampling_strategy": "random"}).sampling
        'random'
        """
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        own: dict[str, Any] = {}
        for name, value in values.items():
            target = cls.peers.get(name, name)
            if target not in names:
                raise UserError(f"{cls.command} has no setting {name!r}", remedy=nearest(name, names))
            if target in own:
                raise UserError(f"{name} and {target} are one setting", where=cls.command, remedy="give one of them")
            own[target] = value
        return cls(**own)

    def _check_choice(self, name: str, choices: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise UserError(f"{value!r} is no choice", where=name, remedy=nearest(str(value), choices))

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{value!r} is no whole number from {least} on", where=name, remedy="give another number")

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{value!r} is no number", where=name, remedy="give a number, for example 0.05")

    def _check_scores(self) -> None:
        """The bounds ``min_score`` and ``max_score``."""
        low, high = getattr(self, "min_score", None), getattr(self, "max_score", None)
        for name in ("min_score", "max_score"):
            if hasattr(self, name):
                self._check_number(name)
        if low is not None and high is not None and low > high:
            raise UserError("min_score is above max_score", where="min_score", remedy="lower it, or raise max_score")


@dataclass(frozen=True)
class MiningSettings(Settings):
    """Which candidates become negatives, and how they are written.

    Ranks count from 0 among the candidates of an anchor, the most similar first, after those that can never be its
    negatives were taken out: its positives, texts equal to one of them or to itself, the same id, the same group.

    Attributes
    ----------
    num_negatives : int
        Negatives of an anchor at most.
    range_min, range_max : int
        First rank that is looked at, and the one behind the last. Where `range_max` is None it is ``range_min +
        num_negatives``, or ``range_min + max(100, 10 * num_negatives)`` when margins, scores or sampling choose, and
        ``range_min + 10 * num_negatives`` with a cross-encoder.
    absolute_margin, relative_margin : float or None
        A negative scores at most ``p - absolute_margin`` and ``p - abs(p) * relative_margin``, ``p`` being the lowest
        score of the anchor's positives.
    max_score, min_score : float or None
        Bounds of a negative's score, both included.
    sampling : str
        ``top`` takes the most similar ones, ``random`` any of the range with equal chances, ``temperature`` with
        chances in proportion to ``exp(score / temperature)``; without replacement.
    temperature : float or None
        Of the sampling by temperature; small values come near ``top``.
    seed : int
        Of the sampling; the draw for an anchor depends on the seed and its text alone.
    cross_encoder : object
        What scores the candidates of these ranks, and the positives, anew: a folder, hub id, ``my.py:function`` or
        object, see `embedkit.mining.scorer.load_scorer`. Margins, bounds, sampling and the output read its scores.
    cross_encoder_label : str, int or None
        Which of its outputs, where it has several.
    similarity : str
        ``cosine``, or ``dot`` for inner products.
    too_few : str
        ``keep`` or ``drop`` the rows of an anchor for which fewer than `num_negatives` were found.
    one_per_row : bool
        A row (anchor, positive, negative) for each negative, in place of ``negative_1``, ``negative_2`` ...
    as_list : bool
        One column ``negatives`` that holds lists.
    output_scores : bool
        Add a column ``scores``: that of the positive, then those of the negatives.
    query_prompt, corpus_prompt : str or None
        Name or text of the prompt for anchors and for candidates; the model's own for queries and documents when None.
    truncate_dim : int or None
        Keep the first coordinates of the model's vectors only.
    block_size : int
        Candidates, and anchors, that are held in memory at a time. The output does not depend on it.

    Examples
    --------
    >>> settings = MiningSettings(num_negatives=2, relative_margin=0.05)
    >>> settings.last_rank
    100
    >>> MiningSettings(sampling="best")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: sampling: 'best' is no choice; known: random, temperature, top
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    sampling: str = "top"
    temperature: float | None = None
    seed: int = 0
    cross_encoder: Any = None
    cross_encoder_label: str | int | None = None
    similarity: str = "cosine"
    too_few: str = "keep"
    one_per_row: bool = False
    as_list: bool = False
    output_scores: bool = False
    query_prompt: str | None = None
    corpus_prompt: str | None = None
    truncate_dim: int | None = None
    block_size: int = 16_384

    peers: ClassVar[Mapping[str, str]] = _PEERS

    def __post_init__(self) -> None:
        for name, choices in (("sampling", SAMPLING), ("similarity", SIMILARITY), ("too_few", TOO_FEW)):
            self._check_choice(name, choices)
        for name, least in (("num_negatives", 1), ("range_min", 0), ("seed", 0), ("block_size", 1)):
            self._check_whole(name, least)
        for name in ("range_max", "truncate_dim"):
            if getattr(self, name) is not None:
                self._check_whole(name, 1)
        for name in ("absolute_margin", "relative_margin", "temperature"):
            self._check_number(name)
        self._check_scores()
        self._check_together()

    def identity(self) -> dict[str, Any]:
        """The settings that decide which negatives are found, as plain values."""
        form = ("too_few", "one_per_row", "as_list", "output_scores", "block_size", "cross_encoder")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in form}

    @property
    def last_rank(self) -> int:
        """The rank behind the last one that is looked at."""
        if self.range_max is not None:
            return self.range_max
        if self.cross_encoder is not None:
            return self.range_min + 10 * self.num_negatives
        plain = self.sampling == "top" and not self.filters
        return self.range_min + (self.num_negatives if plain else max(100, 10 * self.num_negatives))

    @property
    def filters(self) -> tuple[str, ...]:
        """The names of the margins and bounds that are set."""
        names = ("absolute_margin", "relative_margin", "max_score", "min_score")
        return tuple(name for name in names if getattr(self, name) is not None)

    def _check_together(self) -> None:
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            raise UserError(
                f"ranks {self.range_min} to {self.range_max} hold fewer than {self.num_negatives} negatives",
                where="range_max", remedy="raise range_max, or lower num_negatives or range_min",
            )  # fmt: skip
        if (self.sampling == "temperature") != (self.temperature is not None):
            what = "sampling by temperature has none" if self.temperature is None else f"{self.sampling} reads none"
            raise UserError(what, where="temperature", remedy="give sampling temperature and a temperature together")
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(f"{self.temperature} is not above 0", where="temperature", remedy="give 0.05, for example")
        if self.cross_encoder_label is not None and self.cross_encoder is None:
            raise UserError("there is no cross-encoder", where="cross_encoder_label", remedy="give cross_encoder, too")
        if self.one_per_row and self.as_list:
            raise UserError("one_per_row and as_list are two forms", where="as_list", remedy="give one of them")
        if self.seed and self.sampling == "top":
            raise UserError("sampling top draws nothing", where="seed", remedy="leave it out, or set sampling random")
