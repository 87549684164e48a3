"""Recipes made from the schema itself: written and read they are the same, and no key is let in that is unknown."""

from __future__ import annotations

import functools
import types
import typing
from typing import Any

import annotated_types as at
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from embedkit.config.overrides import parse_words
from embedkit.config.peer_names import FLAGS, SETTINGS
from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import check_recipe, dump_recipe, load_recipe, parse_yaml
from embedkit.config.recipe_keys import short_keys
from embedkit.config.sections import Component
from embedkit.errors import RecipeError
from tests.properties.lines import own_line
from tests.training import runs

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def _limit(limits: list[Any], kinds: tuple[type, ...], otherwise: float) -> tuple[float, bool]:
    """The limit of one side, and whether it is left out."""
    for limit in limits:
        if isinstance(limit, kinds):
            strict = isinstance(limit, at.Gt | at.Lt)
            return next(getattr(limit, name) for name in ("gt", "ge", "lt", "le") if hasattr(limit, name)), strict
    return otherwise, False


def _numbers(kind: type, limits: list[Any]) -> st.SearchStrategy[Any]:
    (low, above), (high, below) = _limit(limits, (at.Gt, at.Ge), 0), _limit(limits, (at.Lt, at.Le), 1000)
    if kind is int:
        return st.integers(int(low) + above, int(high) - below)
    return st.floats(low, high, exclude_min=above, exclude_max=below, allow_subnormal=False)


def _flat(metadata: Any) -> list[Any]:
    return [one for item in metadata for one in (_flat(item.metadata) if hasattr(item, "metadata") else [item])]


def value(kind: Any, limits: list[Any]) -> st.SearchStrategy[Any]:
    """Values of an annotation of the schema."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return value(inner[0], _flat(inner[1:]) + limits)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(value(one, limits) for one in inner))
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is list:
        least = 1 if any(isinstance(m, at.MinLen) for m in limits) else 0
        return st.lists(value(inner[0], []), min_size=least, max_size=3)
    if origin is tuple:
        return st.tuples(*(value(one, []) for one in inner)).map(list)
    if origin is dict:
        return st.dictionaries(TEXTS, value(inner[1], []), max_size=3)
    if kind is Component:
        return st.fixed_dictionaries({"name": NAMES}).flatmap(
            lambda base: st.dictionaries(TEXTS, PLAIN, max_size=2).map(lambda more: {**more, **base})
        )
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return st.deferred(lambda: section(kind))  # a tower is a section of the model, which is one itself
    if kind in (int, float):
        return _numbers(kind, limits)
    plain = {str: NAMES | TEXTS, bool: st.booleans(), type(None): st.none(), Any: PLAIN}
    return plain[kind]


@functools.cache
def section(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """A section with its required keys and some of the others."""
    keys = {name: value(field.annotation, _flat(field.metadata)) for name, field in model.model_fields.items()}
    required = {name: keys[name] for name, field in model.model_fields.items() if field.is_required()}
    if "name" in keys and model is Recipe:
        required["name"] = NAMES
    return st.fixed_dictionaries(required, optional={n: s for n, s in keys.items() if n not in required})


GOOD: dict[str, Any] = runs.recipe()
SECTIONS = {
    name: value(field.annotation, _flat(field.metadata))
    for name, field in Recipe.model_fields.items()
    if name != "name"
}


def _one_origin(model: dict[str, Any]) -> dict[str, Any]:
    """A model section that keeps the rules between its keys, which few drawn ones do."""
    others = ("config", "towers", "modalities", "default_prompt")
    given = {key: value for key, value in model.items() if key not in others}
    prompts = model.get("prompts") or {}
    return {**given, "kind": "text", "name": model.get("name") or "m", "default_prompt": next(iter(prompts), None)}


SECTIONS["model"] = SECTIONS["model"].map(_one_origin)
# The keys of a stage are those of a recipe, which the other sections draw; here are a name and a few of them.
SECTIONS["stages"] = st.lists(
    st.fixed_dictionaries({"name": NAMES}, optional={key: SECTIONS[key] for key in ("seed", "method", "train")}),
    max_size=2, unique_by=lambda stage: stage["name"],
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(SECTIONS))
@settings(max_examples=50)
@given(data=st.data())
def test_what_is_written_is_read_back(name: str, data: st.DataObject) -> None:
    given_section = data.draw(SECTIONS[name])
    try:
        recipe = load_recipe({**GOOD, name: given_section})
    except RecipeError:  # a rule between keys
        reject()
    text = dump_recipe(recipe)
    again = load_recipe(parse_yaml(text, "written"))
    assert again == recipe and dump_recipe(again) == text
    assert load_recipe(recipe) == recipe


def _places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every section of a recipe that refuses unknown keys."""
    found = [place] if isinstance(node, BaseModel) and not isinstance(node, Component) else []
    if isinstance(node, BaseModel):
        items: Any = [(name, getattr(node, name)) for name in type(node).model_fields]
    else:
        items = enumerate(node) if isinstance(node, list) else ()
    return found + [deep for key, item in items for deep in _places(item, (*place, key))]


@given(place=st.sampled_from(_places(check_recipe(GOOD))), key=NAMES | TEXTS, set_to=PLAIN)
def test_an_unknown_key_is_refused_wherever_it_stands(place: tuple[Any, ...], key: str, set_to: Any) -> None:
    node: Any = check_recipe(GOOD)
    data: Any = node.model_dump(mode="json")
    root = data
    for step in place:
        node = node[step] if isinstance(step, int) else getattr(node, step)
        data = data[step]
    assume(key not in type(node).model_fields and key != "extends")
    data[key] = set_to
    with pytest.raises(RecipeError) as caught:
        check_recipe(root)
    assert "unknown key" in caught.value.line()


@given(text=st.text(max_size=60) | st.from_regex(r"([\w.]+: ?[\[\]{}&*!|>'\"%@`#,?:-]{0,6}\w*\n? *){1,6}"))
def test_any_text_is_a_value_or_an_error_of_our_own(text: str) -> None:
    with own_line() as line:
        found = parse_yaml(text, "t.yaml")
    if line:
        assert line[0].startswith("t.yaml")
    else:
        assert found is None or isinstance(found, dict | list | str | int | float | bool)
        assert not isinstance(found, dict) or all(isinstance(key, str) for key in found)


KEYS = sorted(("seed", "data", "data.train.0.limit", "LOSS", *short_keys(), *SETTINGS, *FLAGS))


@given(
    word=st.text(max_size=30) | st.sampled_from(KEYS),
    rest=st.text(max_size=30) | st.integers(-9, 99).map(str) | st.sampled_from(["true", "TripletLoss", "own.csv"]),
)
def test_any_override_is_applied_or_refused(word: str, rest: str) -> None:
    with own_line() as line:
        found: Any = load_recipe(GOOD, [f"{word}={rest}"]).model_dump()
    if line:
        return
    (override,) = parse_words([f"{word}={rest}"], lambda text, _: parse_yaml(text, "override"))
    for step in override.key.strip().split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert _is_value(found, override.value) or str(found) == str(override.value).strip()


def _is_value(found: Any, value: Any) -> bool:
    """Whether a part of a recipe is what was given, a name standing for the part that has it."""
    if isinstance(found, list) and isinstance(value, list):
        return len(found) == len(value) and all(map(_is_value, found, value))
    if isinstance(found, dict):
        own = {"name": value} if isinstance(value, str) else value
        return all(key in found and _is_value(found[key], item) for key, item in own.items())
    return bool(found == value)


@given(key=st.sampled_from(["seed", "train.batch_size", "train.max_steps"]), number=st.integers(2, 60))
def test_a_fitting_override_is_applied(key: str, number: int) -> None:
    found: Any = load_recipe(GOOD, [f"{key}={number}"])
    for step in key.split("."):
        found = getattr(found, step)
    assert found == number
