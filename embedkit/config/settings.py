"""Settings of what is found by name, checked against the annotations of what takes them, before it is called.

A constructor says what it takes, ``rate: Share = 0.1`` or ``fidelity: Fidelity = "code"``, and checks nothing of it
itself. As in the sections of a recipe, numbers are no text, switches no numbers, and nothing is infinite. Only rules
between several settings stay in its body.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from embedkit.config.rules import must
from embedkit.errors import RecipeError, nearest


def _with_slot(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("hold {} once, where the text goes")
    return template


def _distinct(values: Sequence[Any]) -> Sequence[Any]:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"name {twice!r} once, it stands there twice")
    return values


Distinct = AfterValidator(_distinct)
"""Of a list in which an entry has no more effect when it stands there twice, or counts twice where it is to count once:
``Annotated[list[str], Distinct]``."""
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
"""A share that cannot be all, as of dropout."""
Fidelity = Literal["code", "paper"]
"""Which of the two a method follows where they differ."""
TargetKind = Literal["class", "classes", "soft", "degrees", "number"]
"""What the column of a head's target holds, see `embedkit.data.schema.targets`."""
Template = Annotated[str, AfterValidator(_with_slot)]
"""Text with ``{}`` in it, once. What a validator of settings raises goes on after "it must"."""
File = Annotated[str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)]
"""A path or the id of a model, also as a `Path`."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=())


@functools.cache
def settings_model(target: Callable[..., Any]) -> type[BaseModel]:
    """The named parameters of a class or function as the fields of a model of pydantic.

    Examples
    --------
    >>> def crop(area: Share = 0.5): ...
    >>> settings_model(crop).model_json_schema()["properties"]["area"]["maximum"]
    1
    """
    by_init = isinstance(target, type) and not is_dataclass(target)  # a field is read in the module of its class
    hints = get_type_hints(target.__init__ if by_init else target, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != "self"
    }
    return create_model("Settings", __config__=_STRICT, **fields)


def check(
    target: Callable[..., Any], settings: Mapping[str, Any], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """The settings of a class or function, converted as its annotations say, in the order of `settings`.

    Parameters
    ----------
    target : callable
        Its annotations are what is allowed; they are read when settings are first checked.
    settings : mapping
        By name of the parameter.
    where : str
        The key of a recipe below which they stand, e.g. ``"method"``.
    also : iterable of str
        Names that are known there besides, for the hint on a wrong one.

    Raises
    ------
    RecipeError
        Names the key: it is unknown (with the nearest name), is missing, or its value does not fit.

    Examples
    --------
    >>> def crop(area: Share = 0.5): ...
    >>> check(crop, {"area": 0.2}, "view")
    {'area': 0.2}
    >>> check(crop, {"area": 2}, "view")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: view.area: area is 2; it must be at most 1
    """
    model = settings_model(target)
    for key in settings:
        if key not in model.model_fields:
            remedy = nearest(str(key), [*model.model_fields, *also])
            raise RecipeError(f"unknown setting {key!r}", where=f"{where}.{key}", remedy=remedy)
    try:
        values = model.model_validate(settings)
    except ValidationError as error:
        raise _refusal(error, settings, where) from None
    return {key: getattr(values, key) for key in settings}


def checked(init: Callable[..., None], where: str) -> Callable[..., None]:
    """The ``__init__`` of a class with its arguments checked as by `check`, by whatever way it is called.

    Examples
    --------
    >>> class Crop:
    ...     def __init__(self, area: Share = 0.5) -> None: ...
    >>> checked(Crop.__init__, "view")(Crop(), area=2.0)
    Traceback (most recent call last):
    embedkit.errors.RecipeError: view.area: area is 2.0; it must be at most 1
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def call(*args: Any, **keywords: Any) -> None:
        values = signature.bind(*args, **keywords)
        fields = settings_model(init).model_fields
        values.arguments |= check(
            init, {key: values.arguments[key] for key in fields if key in values.arguments}, where
        )
        init(*values.args, **values.kwargs)

    return call


def _refusal(error: ValidationError, settings: Mapping[str, Any], where: str) -> RecipeError:
    """What pydantic found first, and all that it would take in that place."""
    problems = error.errors()
    place, value = _place(problems[0]["loc"], settings)
    if not place:
        key = problems[0]["loc"][0]
        return RecipeError(f"{key} is missing", where=f"{where}.{key}", remedy="give it a value")
    remedy = must([problem for problem in problems if _place(problem["loc"], settings)[0] == place])
    key = ".".join(map(str, place))
    return RecipeError(f"{key} is {value!r}", where=f"{where}.{key}", remedy=remedy)


def _place(loc: Sequence[int | str], settings: Any) -> tuple[list[int | str], Any]:
    """The keys that lead to a wrong value, and the value; pydantic's names of the parts of a union are left out."""
    place, value = [], settings
    for part in loc:
        is_entry = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        if is_entry or (isinstance(value, Mapping) and part in value):
            place.append(part)
            value = value[part]
    return place, value


def refuse_idle(owner: type, values: Mapping[str, Any], where: str, needs: str) -> None:
    """Refuse settings that are not their defaults, where what reads them is off.

    Parameters
    ----------
    owner : type
        Whose settings they are.
    values : mapping
        Setting -> its value.
    where : str
        Key of the section.
    needs : str
        What has to be set for them, in words.

    Raises
    ------
    RecipeError
        Naming the first one.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> refuse_idle(methods["sent2vec"], {"t": 5e-6, "least": 9}, "method", "frequencies")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.least: has no effect without frequencies; set that, or leave it out (5 if ...)
    """
    for name, value in values.items():
        default = inspect.signature(owner).parameters[name].default
        if value != default:
            raise RecipeError(
                f"has no effect without {needs}", where=f"{where}.{name}",
                remedy=f"set that, or leave it out ({default} if a recipe has it)",
            )  # fmt: skip
