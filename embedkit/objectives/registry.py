"""Objectives by name: filed by decorators, checked when a recipe is read, and built.

Two decorators file a preset. `objective` takes a class whose keyword arguments are the settings; `table_preset` (in
`embedkit.objectives.kernel`) takes the slots of the similarity matrix. Both end in one registry, `presets`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from embedkit.config.sections import Component
from embedkit.errors import RecipeError, nearest
from embedkit.objectives.base import Objective
from embedkit.registry import Registry, derived_from

T = TypeVar("T", bound=type[Objective])


@dataclass(frozen=True)
class Preset:
    """A published objective: its name, its source, its settings and how it is built.

    Attributes
    ----------
    name, paper : str
        Name in a recipe; authors, year, venue or arXiv id, and section or equation.
    make : callable
        ``make(settings, dim, num_rows) -> Objective``; refuses bad settings with a `RecipeError`.
    settings : dict
        Settings that can be overridden, with their defaults.
    family : str
        "table" for members of the similarity matrix kernel, else the name of the family.
    slots : str
        Its parts, for the list in the docs.
    state : str
        State between steps besides trained parameters; empty when there is none.
    cost : str
        Time of one evaluation for B rows of D numbers.
    tiled, splits : bool
        Whether it can be evaluated without holding the similarity matrix; whether processes share its work by anchors.
    note : str
        A caveat, such as a formula that is not verified against its paper.
    parts : tuple of callable
        What takes the settings: the class, or the parts of the similarity matrix kernel; their docstrings say what the
        settings mean.

    Examples
    --------
    >>> from embedkit.objectives import presets
    >>> clip = presets["clip"]
    >>> clip.paper, clip.slots
    ('Radford et al. 2021 (arXiv 2103.00020)', 'scale: learnable, direction: both')
    """

    name: str
    paper: str
    make: Callable[[dict[str, Any], int | None, int | None], Objective]
    settings: Mapping[str, Any]
    family: str
    slots: str = ""
    state: str = ""
    cost: str = "B² D"
    tiled: bool = False
    splits: bool = True
    note: str = ""
    parts: tuple[Callable[..., Any], ...] = ()


_by_class: dict[type[Objective], Preset] = {}
"""The preset of each class that the decorator `objective` filed under one name."""


_own = derived_from(
    Objective, "objective", "derive it from embedkit.objectives.Objective and define forward(embeddings, batch)",
    defines="forward",
)  # fmt: skip


def _adopt(name: str, part: Any) -> Preset:
    """The preset of a plug-in's objective: filed by its decorator, or a plain class with its arguments as settings."""
    if isinstance(part, Preset):
        return part
    if isinstance(part, type) and part in _by_class:
        return _by_class[part]
    return _preset(_own(name, part), name, paper="own part", family="own", splits=False)


presets: Registry[Preset] = Registry(
    "objective", "embedkit.objectives", "embedkit.objectives.losses", "embedkit.objectives.losses.prototypes",
    "embedkit.objectives.losses.statistics", "embedkit.objectives.compose",
    plugins="embedkit.objectives", adopt=_adopt,
)  # fmt: skip
"""Every objective."""


def _reject_unknown(settings: Mapping[str, Any], names: Mapping[str, Any], where: str) -> None:
    """Refuse the first key of `given` that is not in `known`."""
    for key in settings:
        if key not in names:
            raise RecipeError(f"unknown setting {key!r}", where=where, remedy=nearest(key, names))


def settings_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a class or function with their defaults; those without a default map to ``...``.

    Examples
    --------
    >>> settings_of(lambda temperature=0.05, *, tile: None)
    {'temperature': 0.05, 'tile': Ellipsis}
    """
    settings = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD) and name != "self":
            settings[name] = ... if parameter.default is parameter.empty else parameter.default
    return settings


BUILD_ARGUMENTS = ("dim", "num_rows")


def objective(name: str, *, paper: str, family: str, slots: str = "", state: str = "", cost: str = "B² D",
              tiled: bool = False, splits: bool = False, note: str = "",
              **defaults: Any) -> Callable[[T], T]:  # fmt: skip
    """Decorator that files a class as the objective `name`; its constructor's keyword arguments are the settings.

    A constructor argument called ``dim`` or ``num_rows`` is not a setting: it receives the embedding size and the
    number of training rows (None when unknown, as when a recipe is only checked). `defaults` replace the constructor's
    defaults, so that one class can be filed under several names.

    Examples
    --------
    >>> from embedkit.objectives import presets
    >>> dict(presets["cosent"].settings)  # filed by @objective("cosent", ...) above its class
    {'scale': 20.0}
    """

    def file(cls: T) -> T:
        about = {"family": family, "slots": slots, "state": state, "cost": cost, "tiled": tiled, "splits": splits}
        preset = _preset(cls, name, defaults, paper=paper, note=note, **about)
        presets.add(name)(preset)
        _by_class.setdefault(cls, preset)
        return cls

    return file


def _preset(cls: type[Objective], name: str, defaults: Mapping[str, Any] | None = None, **about: Any) -> Preset:
    """A class as a preset; `defaults` replace those of its constructor."""
    arguments, defaults = settings_of(cls), dict(defaults or {})
    settings = {k: v for k, v in arguments.items() if k not in BUILD_ARGUMENTS} | defaults

    def make(overrides: dict[str, Any], dim: int | None, num_rows: int | None) -> Objective:
        _reject_unknown(overrides, settings, f"objective {name}")
        missing = [k for k, v in settings.items() if v is ... and k not in overrides]
        if missing:
            raise RecipeError(f"{missing[0]} is missing", where=f"objective {name}", remedy="give it a value")
        sizes = {k: v for k, v in {"dim": dim, "num_rows": num_rows}.items() if k in arguments}
        return cls(**{**defaults, **overrides}, **sizes)

    return Preset(name=name, make=make, settings=settings, parts=(cls,), **about)


def build(config: Component | Mapping[str, Any] | str, *, dim: int | None = None,
          num_rows: int | None = None) -> Objective:  # fmt: skip
    """The objective that `config` describes.

    Parameters
    ----------
    config : Component, mapping or str
        ``{"name": "ntxent", "temperature": 0.1}``; a string is a name with the defaults.
    dim : int, optional
        Size of the embeddings; needed by objectives that keep a bank of vectors or train a layer.
    num_rows : int, optional
        Rows of the training data; needed by objectives that keep state by sample.

    Raises
    ------
    RecipeError
        Unknown name or setting, or a value that cannot work. No data is needed to find out: a check of a recipe calls
        `build` without `dim` and `num_rows`, and an objective that needs them says so when it is first evaluated.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> build({"name": "infonce", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(0.3133)
    """
    if isinstance(config, Component):
        config = {"name": config.name, **config.settings}
    elif isinstance(config, str):
        config = {"name": config}
    settings = dict(config)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise RecipeError("the objective has no name", where="objective", remedy="give objective.name")
    if name not in presets:
        raise RecipeError(f"unknown objective {name!r}", where="objective.name", remedy=nearest(name, presets))
    return presets[name].make(settings, dim, num_rows)
