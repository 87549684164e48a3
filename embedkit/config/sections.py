"""What the sections of a recipe share: unknown keys are refused, a name or single entry may stand for the whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Settings(BaseModel):
    """Base of all sections of a recipe: unknown keys are refused, values are checked on assignment.

    Examples
    --------
    >>> class Crop(Settings):
    ...     area: float = 0.5
    >>> Crop(area=0.2)
    Crop(area=0.2)
    >>> Crop(aera=0.2)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Crop ...
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False, strict=True)


def by_name(value: Any) -> Any:
    """A mapping with a name: ``objective: infonce`` stands for ``objective: {name: infonce}``.

    Examples
    --------
    >>> by_name("infonce")
    {'name': 'infonce'}
    """
    return {"name": value} if isinstance(value, str) else value


def as_list(value: Any) -> Any:
    """A list: a single entry stands for a list of it, and null for an empty one.

    Examples
    --------
    >>> as_list({"kind": "tanh"}), as_list(None)
    ([{'kind': 'tanh'}], [])
    """
    return value if isinstance(value, list) else [] if value is None else [value]


class Part(BaseModel):
    """Settings that a registered part checks itself: every key but the name.

    Examples
    --------
    >>> Part.model_validate({"temperature": 0.05}).settings
    {'temperature': 0.05}
    """

    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class Component(Part):
    """A registered part chosen by name; its other keys are settings that the part itself checks.

    Examples
    --------
    >>> method = Component.model_validate({"name": "simcse-unsup", "dropout": 0.1})
    >>> method.name, method.settings
    ('simcse-unsup', {'dropout': 0.1})
    """

    name: str = Field(description="of a registered part, or my.py:Name")


class ObjectiveConfig(Part):
    """An objective by name, or without one the settings of the method's own.

    Examples
    --------
    >>> objective = ObjectiveConfig.model_validate({"temperature": 0.05})
    >>> objective.name is None, objective.settings
    (True, {'temperature': 0.05})
    """

    name: str | None = Field(None, description="of an objective, or my.py:Name; the method's own objective if unset")


Named = Annotated[Component, BeforeValidator(by_name)]


class StageConfig(Settings):
    """What a stage of a run takes from the stage before it; the keys of the stage itself are those of a recipe.

    Examples
    --------
    >>> StageConfig.model_validate({"start": "new", "rows": {"name": "label", "clusters": 10}}).rows.settings
    {'clusters': 10}
    """

    start: Literal["before", "new"] = Field(
        "before", description="weights to begin with: those of the stage before, or new ones by the section model"
    )
    rows: Named | None = Field(
        None, description="what makes the rows of the stage from data.train by the model of the stage before: the name "
        "of a command, label or mine, and its settings",
    )  # fmt: skip
