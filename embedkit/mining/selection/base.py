"""What a criterion sees and says: rows that are left, and which of them stay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from embedkit.config.recipe_io import parse_yaml
from embedkit.config.settings import check
from embedkit.errors import UserError, listed, nearest
from embedkit.evaluation.core.stats import Array
from embedkit.mining.rows.table import RowTable
from embedkit.mining.rows.vectors import Encoder, RowVectors, VectorSource, encoded_column, vectors_of
from embedkit.registry import Registry, not_a


def _amount(value: int | float | str) -> int | float | str:
    text = str(value).strip()
    if isinstance(value, str) and text.endswith("%"):
        try:
            value = float(text[:-1]) / 100
        except ValueError:
            value = text
    if isinstance(value, float) and 0 < value <= 1:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError("be a number of rows, 1000, or a share, 0.5 or 50%")


Amount = Annotated[int | float | str, AfterValidator(_amount)]
"""A number of rows (a whole number), or a share of them (0.5, ``50%``)."""


def count_of(amount: int | float | str, rows: int, where: str) -> int:
    """The number of rows that an `Amount` of `rows` is: a share is rounded, and 1 at least.

    Examples
    --------
    >>> count_of(0.5, 7, "random"), count_of(3, 7, "random")
    (4, 3)
    """
    if isinstance(amount, int):
        if amount > rows:
            raise UserError(f"{amount:,} rows are asked for, and {rows:,} are left", where=where,
                            remedy="lower the number, or give a share like 50%")  # fmt: skip
        return amount
    return max(1, round(float(amount) * rows))


@dataclass
class Context:
    """What criteria may read.

    Attributes
    ----------
    table : RowTable
        All rows.
    encoder : Encoder
        The model, where there is one.
    column, image_column : str or None
        The columns that were named.
    vectors, image_vectors : optional
        Given vectors of the rows and of their images.
    read : set of str
        Which of these a criterion has asked for.

    Examples
    --------
    >>> from embedkit.mining.rows.table import read_table
    >>> context = Context(read_table(["a cat", "a dog"]), Encoder())
    >>> context.texts(np.array([1]))
    ['a dog']
    """

    table: RowTable
    encoder: Encoder
    column: str | None = None
    image_column: str | None = None
    vectors: VectorSource | None = None
    image_vectors: VectorSource | None = None
    read: set[str] = field(default_factory=set)

    @cached_property
    def _main(self) -> tuple[RowVectors, str]:
        self.read.add("vectors")
        return vectors_of(self.table, self.encoder, self.vectors, self.column, self.image_column)

    @property
    def rows(self) -> RowVectors:
        """The vectors of the texts, or of the images of rows without texts."""
        return self._main[0]

    def unread(self) -> list[str]:
        """The model and the given vectors that nobody has asked for."""
        sources = {"vectors": self.vectors, "image_vectors": self.image_vectors}
        names = [name for name, value in sources.items() if value is not None and name not in self.read]
        return [*(["the model"] if self.encoder and not self.encoder.was_used else []), *names]

    @property
    def subject(self) -> str:
        """The column that examples show."""
        return encoded_column(self.table, self.column, self.image_column, False)

    def texts(self, places: Array, column: str | None = None) -> list[str]:
        """The texts of rows, in the column that is named here, or for all criteria, or that its name tells."""
        return self.table.texts(self.table.text_column(column or self.column), places)


@dataclass(frozen=True)
class Example:
    """A row that was left out.

    Attributes
    ----------
    place : int
        The row.
    like : int or None
        The row that stays in its place.
    score : float or None
        Their similarity, or what the row was judged by.

    Examples
    --------
    >>> Example(3, like=0, score=0.97).like
    0
    """

    place: int
    like: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a criterion says.

    Attributes
    ----------
    places : int array
        The rows that stay, ascending.
    examples : list of Example
        Rows that were left out; the report shows some of them.
    details : dict
        Figures for the report.

    Examples
    --------
    >>> Outcome(np.array([0, 2])).details
    {}
    """

    places: Array
    examples: Sequence[Example] = ()
    details: dict[str, Any] = field(default_factory=dict)


Rule = Callable[[Context, Array], Outcome]
"""The rows that are left, ascending places (n,) -> those that stay."""


def _adopt(name: str, part: Any) -> Callable[..., Rule]:
    if not callable(part) or isinstance(part, type):
        raise not_a("criterion", part, name, "give a function of settings that returns rule(context, places)")
    rule: Callable[..., Rule] = part
    return rule


criteria: Registry[Callable[..., Rule]] = Registry(
    "criterion", "embedkit.mining.selection.criteria", plugins="embedkit.criteria", adopt=_adopt
)
"""Criteria by name: functions of settings, the first of which may be given as ``NAME=VALUE``."""


@dataclass(frozen=True)
class Criterion:
    """A criterion with its settings.

    Examples
    --------
    >>> Criterion.of("length={most: 80, unit: words}").settings
    {'most': 80, 'unit': 'words'}
    >>> Criterion.of("near-duplicates=0.9").settings
    {'threshold': 0.9}
    >>> Criterion.of({"name": "near-duplicates", "treshold": 0.9})
    Traceback (most recent call last):
    ...
    embedkit.errors.RecipeError: near-duplicates.treshold: unknown setting 'treshold'; did you mean 'threshold'?
    """

    name: str
    settings: dict[str, Any]
    rule: Rule

    @classmethod
    def of(cls, entry: str | Mapping[str, Any]) -> Criterion:
        """The criterion of ``NAME``, ``NAME=VALUE``, ``NAME={SETTING: VALUE}``, or a mapping with ``name``.

        Raises
        ------
        UserError, RecipeError
            The name or a setting is unknown, or a value does not fit.
        """
        if isinstance(entry, str):
            entry = _mapping(entry)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise UserError(f"{entry!r} is no criterion", where="criteria",
                            remedy="write {name: length, least: 3}")  # fmt: skip
        name = entry["name"]
        if " " in name or name not in criteria:
            raise UserError(f"unknown criterion {name!r}", remedy=nearest(name, criteria))
        make = criteria[name]
        settings = check(make, {key: value for key, value in entry.items() if key != "name"}, name)
        return cls(name, settings, make(**settings))

    def __call__(self, context: Context, places: Array) -> Outcome:
        """What the criterion says of the rows at `places` (n,).

        Raises
        ------
        UserError
            It is the function of a user, which failed, told with the first row for which it does, or returned
            something else.
        """
        try:
            outcome = self.rule(context, places)
        except UserError:
            raise
        except Exception as error:  # the user's code can raise anything
            if criteria[self.name].__module__.startswith("embedkit."):
                raise
            raise UserError(f"failed ({type(error).__name__}: {error})", where=_at_fault(self, context, places),
                            remedy="mend the function") from error  # fmt: skip
        if not isinstance(outcome, Outcome):
            raise UserError(f"returned {type(outcome).__name__}", where=self.name,
                            remedy="return Outcome(places), of embedkit.mining.selection.base")  # fmt: skip
        return outcome

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name} ({inside})" if inside else self.name


def _at_fault(criterion: Criterion, context: Context, places: Array) -> str:
    """The criterion, with the first row for which it fails alone, where there is one: found by halving."""
    while len(places) > 1:
        for part in np.array_split(places, 2):
            try:
                criterion.rule(context, part)
            except Exception:  # as above
                places = part
                break
        else:
            return f"{criterion.name} on {len(places):,} rows"
    return f"{criterion.name} on {context.table.places[places[0]]}"


def _mapping(word: str) -> Mapping[str, Any]:
    """The mapping that a word stands for."""
    if word.lstrip().startswith("{"):
        value = parse_yaml(word, "criteria")
        return value if isinstance(value, Mapping) else {}
    name, equals, text = word.partition("=")
    value = parse_yaml(text, name) if equals else {}
    if isinstance(value, Mapping):
        return {"name": name, **value}
    if " " in name or name not in criteria:
        return {"name": name}  # the caller says what is near
    settings = inspect.signature(criteria[name]).parameters
    first = next(iter(settings))
    if "str" in str(settings[first].annotation) and isinstance(value, int | float):
        remedy = f"name the setting, {name}={{SETTING: {text}}}, of {listed(list(settings), 'and')}"
        raise UserError(f"it is {text}, and must be text", where=f"{name}.{first}", remedy=remedy)
    return {"name": name, first: value}


def without(places: Array, drop: Array) -> Array:
    """The places but for those in `drop`.

    Examples
    --------
    >>> without(np.array([0, 3, 4]), np.array([3])).tolist()
    [0, 4]
    """
    return places[~np.isin(places, drop)]
