"""The slots of the similarity matrix kernel, and the choice of their parts by name and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from embedkit.errors import RecipeError, nearest
from embedkit.objectives.registry import BUILD_ARGUMENTS, settings_of
from embedkit.registry import Registry

P = TypeVar("P", bound=type[nn.Module])

SLOTS: dict[str, Registry[type[nn.Module]]] = {
    slot: Registry(f"{slot} part", "embedkit.objectives.parts", "embedkit.objectives.matrix")
    for slot in ("score", "scale", "positive", "direction", "bank", "target", "weight", "prior", "mask", "reducer")
}
"""Slot name -> parts that fit into it."""

DEFAULTS: dict[str, str] = {
    "score": "cosine", "scale": "fixed", "positive": "plain", "direction": "rows", "bank": "none", "target": "same",
    "weight": "uniform", "prior": "none", "mask": "standard", "reducer": "out",
}  # fmt: skip
"""The default part of every slot; together they are InfoNCE."""

Choices = dict[str, tuple[str, dict[str, Any]]]


def part(slot: str, name: str) -> Callable[[P], P]:
    """Decorator that files a module as the part `name` of a slot; its constructor's arguments are its settings.

    Examples
    --------
    >>> SLOTS["score"]["cosine"].__name__  # @part("score", "cosine") stands above the class
    'Cosine'
    """

    def file(cls: P) -> P:
        SLOTS[slot].add(name)(cls)
        return cls

    return file


def part_settings(slot: str, name: str) -> dict[str, Any]:
    """The settings of a part, with their defaults.

    Examples
    --------
    >>> part_settings("scale", "fixed")
    {'temperature': 0.05, 'bias': 0.0, 'base_temperature': None}
    """
    return {k: v for k, v in settings_of(SLOTS[slot][name]).items() if k not in BUILD_ARGUMENTS}


def _entry(slot: str, value: Any, where: str) -> tuple[str, dict[str, Any]]:
    settings = {"name": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise RecipeError(f"{slot} is {value!r}", where=where, remedy="give a name, or a mapping with a name")
    name = settings["name"]
    if name not in SLOTS[slot]:
        raise RecipeError(f"unknown {slot} {name!r}", where=where, remedy=nearest(name, SLOTS[slot]))
    rest = {k: v for k, v in settings.items() if k != "name"}
    options = part_settings(slot, name)
    for key in rest:
        if key not in options:
            raise RecipeError(f"{slot} {name!r} has no setting {key!r}", where=where, remedy=nearest(key, options))
    return name, rest


def choose_parts(base: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> tuple[Choices, dict[str, Any]]:
    """The part and settings of every slot, and the keys that belong to no part.

    `base` are the choices of a preset, `overrides` those of a recipe. A key that is a slot replaces the part (when the
    name stays, the preset's settings of it stay too); any other key is a setting of all parts that have it. The caller
    must accept or refuse the remaining keys of `overrides`.

    Examples
    --------
    >>> choices, rest = choose_parts({"scale": "learnable"}, {"temperature": 0.1, "tile": 8}, "objective")
    >>> choices["scale"], rest
    (('learnable', {'temperature': 0.1}), {'tile': 8})
    """
    choices: Choices = {
        slot: _entry(slot, value, where) for slot, value in {**DEFAULTS, **base}.items() if slot in SLOTS
    }
    for slot in overrides.keys() & SLOTS.keys():
        name, settings = _entry(slot, overrides[slot], where)
        old = choices[slot][1] if name == choices[slot][0] else {}
        choices[slot] = name, {**old, **settings}
    rest: dict[str, Any] = {}
    for key, value in {**base, **overrides}.items():
        homes = [settings for slot, (name, settings) in choices.items() if key in part_settings(slot, name)]
        for settings in homes:
            # What a recipe says inside a slot comes before what the preset says beside it.
            settings[key] = value if key in overrides else settings.get(key, value)
        if not homes and key not in SLOTS and key in overrides:
            rest[key] = value
    return choices, rest


def all_settings(choices: Choices) -> dict[str, Any]:
    """Every setting of the parts, with the value that it will have.

    Examples
    --------
    >>> choices, _ = choose_parts({}, {"temperature": 0.1}, "objective")
    >>> all_settings(choices)["temperature"], all_settings(choices)["own"]
    (0.1, 1.0)
    """
    every: dict[str, Any] = {}
    for slot, (name, settings) in choices.items():
        every.update({**part_settings(slot, name), **settings})
    return every


def make_part(choices: Choices, slot: str, dim: int | None, num_rows: int | None) -> nn.Module:
    """A new module for a slot.

    Examples
    --------
    >>> choices, _ = choose_parts({}, {"temperature": 0.1}, "objective")
    >>> make_part(choices, "scale", dim=None, num_rows=None).temperature
    0.1
    """
    name, settings = choices[slot]
    cls = SLOTS[slot][name]
    sizes = {k: v for k, v in {"dim": dim, "num_rows": num_rows}.items() if k in settings_of(cls)}
    return cls(**settings, **sizes)
