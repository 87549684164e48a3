"""Suites: what is evaluated, written as YAML in ``eval/`` or in a file of your own.

Reading a suite loads no data and no model, so names of metrics are known before anything heavy starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from embedkit.config.recipe_io import read_yaml
from embedkit.config.resources import suite_names, suite_path
from embedkit.errors import UserError, nearest


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    """A path that stays below the data folder."""
    if "\0" in path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{path!r} leads out of the data folder")
    return path


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name that results are kept under: part of a file name."""
Inside = Annotated[str, AfterValidator(_inside)]


class HubSource(_Strict):
    """Where a task's data stand on the hub; also read from a local copy of that repository.

    ``columns`` maps the hub's column to embedkit's; ``splits`` maps embedkit's split to the hub's (the same name when
    absent).

    Examples
    --------
    >>> source = HubSource(path="mteb/stsbenchmark-sts", splits={"dev": "validation"})
    >>> source.splits["dev"]
    'validation'
    """

    path: Inside
    name: str | None = None
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    splits: dict[str, str | list[str]] = Field(default_factory=dict)


class TaskConfig(_Strict):
    """One task of a suite.

    ``file`` is the name below the data folder, without ending. ``splits`` maps the split a user asks for to the split
    (or splits) written in the file. ``rows`` is what the protocol has in a split: another number is reported. With
    ``own`` the task is the user's file, folder or Python object itself, named after it, with the splits that it has.

    Examples
    --------
    >>> TaskConfig(name="faq", kind="retrieval").splits
    {'test': 'test'}
    """

    name: Name
    kind: str
    own: bool = False
    file: Inside | None = None
    splits: dict[Name, Inside | list[Inside]] = {"test": "test"}
    rows: dict[str, int] = Field(default_factory=dict)
    hub: HubSource | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    def has(self, split: str) -> bool:
        """Whether the task can be asked for `split`; of own data only the data themselves can tell."""
        return self.own or split in self.splits

    def in_file(self, split: str) -> str | list[str]:
        """What `split` is called in the file."""
        return self.splits.get(split, split)


class SuiteConfig(_Strict):
    """A named list of tasks.

    ``average`` says how the main value "avg" is made: ``rounded`` is the mean of the task scores rounded to two
    decimals (SimCSE's table), ``plain`` the mean of the scores as they are, ``none`` leaves it out and then ``main``
    names a task. ``settings`` are given to every task that knows them. ``folder`` is the name of the sub-folder that
    holds the suite's files where a data folder holds several suites.

    Examples
    --------
    >>> faq = TaskConfig(name="faq", kind="retrieval")
    >>> SuiteConfig(name="mine", description="our questions", tasks=[faq]).main
    'avg'
    """

    name: Name
    description: str
    source: str = ""
    folder: Inside | None = None
    average: Literal["rounded", "plain", "none"] = "plain"
    main: str = "avg"
    settings: dict[str, Any] = Field(default_factory=dict)
    tasks: list[TaskConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> SuiteConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names) or "avg" in names:
            raise ValueError("task names must differ from each other and from 'avg'")
        choices = names if self.average == "none" else [*names, "avg"]
        if self.main not in choices:
            raise ValueError(f"main {self.main!r} is not one of {choices}")
        return self

    def choose(self, tasks: Sequence[str] | None, split: str) -> list[TaskConfig]:
        """The selected tasks, in the suite's order; without `tasks` all that have `split`.

        Raises
        ------
        UserError
            A task is unknown or does not have the split, or no task has it.
        """
        by_name = {task.name: task for task in self.tasks}
        for place, name in enumerate(tasks or ()):
            if name in (tasks or ())[:place]:
                raise UserError(f"task {name!r} is named twice", where=f"suite {self.name}", remedy="name it once")
            if name not in by_name:
                raise UserError(f"suite {self.name!r} has no task {name!r}", remedy=nearest(name, by_name))
            if not by_name[name].has(split):
                raise UserError(
                    f"task {name!r} has no split {split!r}",
                    where=f"suite {self.name}",
                    remedy=f"it has {', '.join(by_name[name].splits)}",
                )
        selection = [t for t in self.tasks if t.has(split) and (tasks is None or t.name in tasks)]
        if not selection:
            splits = sorted({s for t in self.tasks for s in t.splits})
            raise UserError(f"no task of suite {self.name!r} has a split {split!r}", remedy=f"use {', '.join(splits)}")
        return selection

    def main_of(self, tasks: Sequence[TaskConfig]) -> str:
        """The name of the main score when only these `tasks` are run."""
        names = [task.name for task in tasks]
        if self.main == "avg" or self.main in names:
            return self.main
        return names[0]


def load_suite(suite: str | Path | SuiteConfig) -> SuiteConfig:
    """A suite by its shipped name, by the path of a YAML file, or as it is.

    Raises
    ------
    UserError
        The name is unknown, the file is missing, or a key or value is wrong; the place is named.

    Examples
    --------
    >>> load_suite("retrieval").average
    'plain'
    """
    if isinstance(suite, SuiteConfig):
        return suite
    text = str(suite)
    path = Path(text) if text.endswith((".yaml", ".yml")) else suite_path(text)
    try:
        return SuiteConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(first["msg"], where=f"{path}:{key}" if key else str(path)) from error


def describe_suites() -> list[tuple[str, str]]:
    """Name and one-line description of every shipped suite, sorted by name.

    Examples
    --------
    >>> describe_suites()[0][0]
    'bitext'
    """
    return [(name, load_suite(name).description) for name in suite_names()]
