"""The contract of an evaluation task: what it wants encoded, and the score it makes of the vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from embedkit.config.rules import must
from embedkit.config.settings import Distinct
from embedkit.errors import UserError, nearest
from embedkit.evaluation.core.stats import Samples
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.registry import Registry, derived_from

_OWN_WORDS = frozenset({"value_error", "assertion_error", "extra_forbidden", "missing"})
"""Refusals of pydantic that are told as they are."""

if TYPE_CHECKING:
    from embedkit.evaluation.core.embedder import Embedder
    from embedkit.evaluation.core.gallery import Example
    from embedkit.evaluation.core.inputs import Item
    from embedkit.evaluation.datasets.look import Look
    from embedkit.evaluation.datasets.tables import Table
    from embedkit.evaluation.mteb.parts import MtebPart


class TaskSettings(BaseModel):
    """Base of the settings of one kind of task; unknown keys are refused.

    ``columns`` says what columns of own data are: ``{QUESTION: query}``, by the names that the task reads or by those
    of roles; without it they are recognised by their names.

    Examples
    --------
    >>> TaskSettings(columns={"QUESTION": "query"}).columns
    {'QUESTION': 'query'}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str] = Field(default_factory=dict)


Cutoffs = Annotated[tuple[PositiveInt, ...], Field(min_length=1), Distinct]
"""Depths of a ranking, each once."""

Side = Literal["query", "document"]
"""The two sides of a search: models may have a prompt for each."""


@dataclass(frozen=True)
class Request:
    """Inputs, all texts or all images, that a task will ask for, so that a suite encodes each distinct one once.

    ``prompt`` is the name or text of a prompt, the empty text being one too. Without it the inputs of a `side` get the
    model's own prompt for that side.

    Examples
    --------
    >>> Request(["how do I pay?"], side="query").prompt is None
    True
    """

    items: Sequence[Item]
    prompt: str | None = None
    side: Side | None = None


@dataclass
class TaskResult:
    """The score of a task, with its metrics, samples and notes.

    Attributes
    ----------
    name, metric : str
        The task and its main metric.
    score : float
        The main metric; the unit is in `metric` (correlations and accuracies are x 100).
    metrics : dict of str to float
        Every metric, the main one included.
    samples : Samples or None
        What the score was made of, for intervals and paired comparison. The score is the statistic times `unit`.
    unit : float
        100 where the statistic is on 0..1 and the score on 0..100.
    interval : tuple of float or None
        95 % bootstrap interval of the score.
    details : dict
        Counts and side findings that belong in the report: rows, ties, zero vectors.
    notes : list of str
        Departures from the protocol, in words.
    worst : list of dict
        What the model does worst on, as texts; saved where samples are.
    examples : list of Example
        Searches to look at, images as thumbnails; saved where samples are.

    Examples
    --------
    >>> result = TaskResult("stsb", "spearman", 82.41, {"spearman_all": 82.41}, notes=["stsb: 9 rows left out"])
    >>> result.score, result.interval, result.unit
    (82.41, None, 100.0)
    """

    name: str
    metric: str
    score: float
    metrics: dict[str, float]
    samples: Samples | None = None
    unit: float = 100.0
    interval: tuple[float, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    worst: list[dict[str, str]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Opening:
    """What a task is opened with: data, split, sub-folder, seed; settings of the suite, and overrides of the user,
    which win over the task's own.

    ``data`` is a folder, None for the hub, or for a task on own data the table or the folder itself.

    Examples
    --------
    >>> Opening(Path("data"), "dev", overrides={"aggregation": "wmean"}).overrides
    {'aggregation': 'wmean'}
    """

    data: Path | Table | None
    split: str
    folder: str | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One task, opened: its files are checked. Subclasses are registered by kind, each in a file of its own.

    Class attributes
    ----------------
    settings_type : type of TaskSettings
        The settings that this kind knows.
    hub_type : str
        What the hub's model cards call this kind; the kind itself when empty.
    definitions : mapping of str to str
        Metrics whose usual names have several meanings, and the meaning here; noted wherever their values are shown.
    mteb_ways : tuple of str
        Endings of the names of the mteb tasks that `as_mteb` gives, in their order.

    Examples
    --------
    >>> from embedkit.evaluation import open_suite
    >>> columns = {"sentence1": ["a cat", "a"], "sentence2": ["a pet", "b"], "score": [4, 0]}
    >>> task = open_suite("own-sts", columns).tasks[0]
    >>> task.config.kind, task.data["rows"], task.requests()[0].items
    ('sts', 2, ['a cat', 'a', 'a pet', 'b'])
    """

    settings_type: ClassVar[type[TaskSettings]] = TaskSettings
    hub_type: ClassVar[str] = ""
    definitions: ClassVar[Mapping[str, str]] = {}
    mteb_ways: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        self.config, self.name, self.split = config, config.name, opening.split
        self.opening = opening
        self.notes: list[str] = []
        self.settings: Any = self._settings(opening.settings, opening.overrides)

    def _settings(self, suite: Mapping[str, Any], overrides: Mapping[str, Any]) -> TaskSettings:
        """The suite's settings that this kind knows, then the task's own, which must all be known, then the user's."""
        fields = self.settings_type.model_fields
        merged = {key: value for key, value in suite.items() if key in fields} | self.config.settings
        merged |= {key: value for key, value in overrides.items() if key in fields}
        try:
            return self.settings_type.model_validate(merged)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            what, remedy = first["msg"], None
            if first["type"] not in _OWN_WORDS:
                what, remedy = f"{key} is {first['input']!r}", must([first])
            raise UserError(what, where=f"task {self.name}: settings.{key}", remedy=remedy) from error

    def stored_settings(self) -> dict[str, Any]:
        """The settings as result files keep them; a mapping of columns only where there is one."""
        return self.settings.model_dump(exclude=None if self.settings.columns else {"columns"})

    def expect_rows(self, count: int, noun: str = "rows") -> None:
        """Note when the number of rows differs from the protocol's."""
        official = self.config.rows.get(self.split)
        if official is not None and count != official:
            self.notes.append(f"{self.name}: {count:,} {noun}, the protocol has {official:,}: not comparable")

    def own_table(self, table: Table, names: Mapping[str, str], optional: Sequence[str] = ()) -> Table:
        """A table of own data under the names that the task reads (`own_columns`), its guesses in the notes; a table of
        the suite's files as it is."""
        if not self.config.own and not self.settings.columns:
            return table
        from embedkit.evaluation.datasets.columns import own_columns

        table, notes = own_columns(table, names, self.settings.columns, optional)
        self.notes += notes
        return table

    @classmethod
    def reading(cls, look: Look) -> str | None:
        """What own data that look like this are to this kind of task, in words; None where they are nothing to it."""
        return None

    def as_mteb(self) -> list[MtebPart]:
        """The task in mteb's form, a part for each of `mteb_ways`.

        Raises
        ------
        UserError
            mteb has no such kind of task.
        """
        kinds = ", ".join(kind for kind, task in TASKS.items() if task.as_mteb is not Task.as_mteb)
        raise UserError(f"mteb has no task like {self.config.kind!r}", where=f"task {self.name}",
                        remedy=f"kinds: {kinds}")  # fmt: skip

    @property
    @abstractmethod
    def data(self) -> dict[str, Any]:
        """Where the data came from and their hash: ``source``, ``rows``, ``sha256``."""

    @abstractmethod
    def requests(self) -> list[Request]:
        """What will be encoded and is small enough to be held together with the other tasks' inputs."""

    @abstractmethod
    def score(self, embed: Embedder) -> TaskResult:
        """The result for the model behind `embed`."""


TASKS: Registry[type[Task]] = Registry(
    "kind of evaluation task",
    "embedkit.evaluation.tasks",
    "embedkit.evaluation.tasks.analysis",
    plugins="embedkit.tasks",
    adopt=derived_from(Task, "kind of task", "derive it from embedkit.evaluation.Task"),  # type: ignore[type-abstract]
)


def kind_in(results: object) -> type[Task] | None:
    """The kind of task that a result file names; None for one that is no longer there, or that is a user's own file.

    Examples
    --------
    >>> kind_in("sts").__name__, kind_in("my.py:Mine")
    ('StsTask', None)
    """
    there = isinstance(results, str) and ":" not in results and results in TASKS
    return TASKS[str(results)] if there else None


def known_settings(kinds: Sequence[str]) -> set[str]:
    """Names of the settings that some task of these kinds knows.

    Examples
    --------
    >>> sorted(known_settings(["sts"]))
    ['aggregation', 'columns', 'subsets', 'zero_vectors']
    """
    return {key for kind in kinds for key in TASKS[kind].settings_type.model_fields}


def check_settings(kinds: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise UserError for a setting that no task of these kinds knows.

    Examples
    --------
    >>> check_settings(["sts"], {"agregation": "mean"})
    Traceback (most recent call last):
        ...
    embedkit.errors.UserError: unknown evaluation setting 'agregation'; did you mean 'aggregation'?
    """
    names = known_settings(kinds)
    for key in settings:
        if key not in names:
            raise UserError(f"unknown evaluation setting {key!r}", remedy=nearest(key, names))
