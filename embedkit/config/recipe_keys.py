"""The keys of a recipe, read off its sections, and the message about a key or value that does not fit."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from embedkit.config.peer_names import ours
from embedkit.config.recipe import Recipe
from embedkit.config.rules import must, rule
from embedkit.config.sections import Part
from embedkit.errors import NEAREST, listed, nearest

_BRANCH = re.compile(r"function-.*|(list|dict|literal|constrained-int)\[.*|int|str")  # parts of a union, by pydantic


@functools.cache
def recipe_keys() -> dict[str, Any]:
    """Every dotted key of a recipe -> its annotation; ``N`` stands for the number of an entry of a list.

    Examples
    --------
    >>> {"train.lr", "data.train.N.path", "model.head.N.kind"} <= set(recipe_keys())
    True
    """
    return dict(_keys_below(Recipe, ""))


def _keys_below(section: type[BaseModel], prefix: str) -> list[tuple[str, Any]]:
    keys: list[tuple[str, Any]] = []
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        keys.append((key, field.annotation))
        inner, is_list = _section_of(field.annotation)
        if inner is not None and inner is not section and not issubclass(inner, Part):  # towers are models again
            keys += _keys_below(inner, f"{key}.N." if is_list else f"{key}.")
    return keys


def _section_of(annotation: Any, is_list: bool = False) -> tuple[type[BaseModel] | None, bool]:
    """The class of settings inside an annotation such as ``list[X] | None``, and whether it is an entry of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, is_list
    is_list = is_list or getattr(annotation, "__origin__", None) is list
    for inner in getattr(annotation, "__args__", ()):
        section = _section_of(inner, is_list)
        if section[0] is not None:
            return section
    return None, False


@functools.cache
def short_keys() -> dict[str, tuple[str, ...]]:
    """The last part of each key of a section -> the dotted keys that end so; keys of lists and towers have none.

    Examples
    --------
    >>> short_keys()["batch_size"]
    ('train.batch_size',)
    """
    by_name: dict[str, tuple[str, ...]] = {}
    for key in recipe_keys():
        section, _, name = key.partition(".")
        if name and "." not in name and section != "guide":
            by_name[name] = (*by_name.get(name, ()), key)
    return by_name


def nearest_key(name: str, sections: Sequence[str] = ()) -> str:
    """A clause that helps with an unknown key: a setting of the same section, or else of any.

    Parameters
    ----------
    name : str
        As it was written, without its section.
    sections : sequence of str
        The parts before it, numbers of lists as ``N``.

    Examples
    --------
    >>> nearest_key("lrr"), nearest_key("epoch", ["train"])
    ("did you mean 'train.lr'?", "did you mean 'epochs'?")
    >>> nearest_key("image", ["model"])
    "did you mean 'model.towers.image'?"
    """
    if sections:
        prefix = ".".join(sections) + "."
        inside = [key.removeprefix(prefix) for key in recipe_keys() if key.startswith(prefix)]
        siblings = [key for key in inside if "." not in key]
        clause = nearest(name, siblings)
        if clause.startswith("did you mean"):
            return clause
        deeper = [prefix + key for key in inside if key.rpartition(".")[2] == name]
        elsewhere = deeper[:NEAREST] or [key for key in ours(name) if key in recipe_keys()]
        return f"did you mean {listed([repr(key) for key in elsewhere], 'or')}?" if elsewhere else clause
    top = [key for key in recipe_keys() if "." not in key]
    clause = nearest(name, [*top, *short_keys()])
    if not clause.startswith("did you mean"):
        return clause
    for short, keys in short_keys().items():
        if repr(short) in clause and short not in top:
            clause = clause.replace(repr(short), listed([repr(key) for key in keys[:NEAREST]], "or"))
    return clause


def wrong_key_or_value(problems: Sequence[Mapping[str, Any]]) -> tuple[str, str | None, str]:
    """What is wrong, how to fix it, and the dotted key, of the first problem of a recipe; unknown keys come first.

    Parameters
    ----------
    problems : sequence of mapping
        As ``ValidationError.errors()`` gives them.

    Examples
    --------
    >>> wrong_key_or_value([{"type": "greater_than", "loc": ("train", "lr"), "input": -1.0, "ctx": {"gt": 0.0}}])
    ('train.lr is -1.0', 'it must be greater than 0', 'train.lr')
    """
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"] if not _BRANCH.fullmatch(str(part))]
    dotted_key = ".".join(place)
    same = [one for one in problems if [str(p) for p in one["loc"] if not _BRANCH.fullmatch(str(p))] == place]
    count = len(problems) - len(same)
    more = f" (and {count} more)" if count else ""
    if first["type"] == "extra_forbidden":
        above = ["N" if part.isdecimal() else part for part in place[:-1]]
        return f"unknown key {dotted_key!r}{more}", nearest_key(place[-1], above), dotted_key
    if first["type"] == "missing":
        return f"key {dotted_key!r} is missing{more}", "add it", dotted_key
    if first["type"] in ("value_error", "assertion_error"):
        message = rule(first)
        return f"{dotted_key or 'recipe'}: {message[:1].lower()}{message[1:]}{more}", None, dotted_key
    value = first["input"]
    if value is None and ":" in place[-1]:  # {query:anchor} is one key without a value in YAML
        key, _, text = place[-1].partition(":")
        what = f"{place[-1]!r} in {'.'.join(place[:-1])} has no value{more}"
        return what, f"write '{key}: {text}', with a blank behind the colon", dotted_key
    text = type(value).__name__.replace("dict", "a mapping").replace("list", "a list")
    text = text if isinstance(value, dict | list) else repr(value)
    return f"{dotted_key or 'recipe'} is {text}{more}", must(same), dotted_key
