"""What a shell offers for a word that is begun: names of recipes, methods, objectives and suites, and settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import typer


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return sorted(word for word in words if word.startswith(incomplete))


def recipe_words(incomplete: str) -> list[str]:
    """Shipped recipes.

    Examples
    --------
    >>> recipe_words("simcse-unsup-roberta")
    ['simcse-unsup-roberta-base', 'simcse-unsup-roberta-large']
    """
    from embedkit.config.resources import recipe_names

    return _beginning(incomplete, recipe_names())


def suite_words(incomplete: str) -> list[str]:
    """Shipped evaluation suites.

    Examples
    --------
    >>> suite_words("own-st")
    ['own-sts']
    """
    from embedkit.config.resources import suite_names

    return _beginning(incomplete, suite_names())


def method_words(incomplete: str) -> list[str]:
    """Training methods.

    Examples
    --------
    >>> method_words("simcl")
    ['simclr']
    """
    from embedkit.methods import methods

    return _beginning(incomplete, methods)


def objective_words(incomplete: str) -> list[str]:
    """Objectives.

    Examples
    --------
    >>> objective_words("cosen")
    ['cosent']
    """
    from embedkit.objectives.registry import presets

    return _beginning(incomplete, presets)


def setting_words(context: typer.Context, incomplete: str) -> list[str]:
    """``KEY=`` of a recipe's settings, and the values of those that have names: methods, objectives, switches, choices.

    Bash takes ``objective=cosen`` apart at "=" and asks for "cosen" alone; behind a word that is completed it puts a
    space, so that one key is offered together with its values, or with VALUE for what has no names.

    Examples
    --------
    >>> from click import Command
    >>> context = typer.Context(Command("train"))
    >>> setting_words(context, "train.gradient")
    ['train.gradient_checkpointing=', 'train.gradient_checkpointing=false', 'train.gradient_checkpointing=true']
    >>> setting_words(context, "objective=cosen")
    ['objective=cosent']
    """
    from embedkit.config.recipe_keys import recipe_keys

    for words in context.params.values():
        if isinstance(words, tuple | list) and len(words) > 1 and words[-1] == "=":
            return _beginning(incomplete, _values(str(words[-2])))
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={name}" for name in _beginning(value, _values(key))]
    keys = _beginning(incomplete, {name.replace(".N.", ".0.") for name in recipe_keys()})
    values = (sorted(_values(keys[0])) or ["VALUE"]) if len(keys) == 1 else []
    return [f"{key}=" for key in keys] + [f"{keys[0]}={value}" for value in values]


def _values(key: str) -> Iterable[str]:
    """The values of a setting that have names."""
    from embedkit.config.recipe_keys import recipe_keys

    if key == "method":
        return method_words("")
    if key == "objective":
        return objective_words("")
    return _names(recipe_keys().get(key.replace(".0.", ".N.")))


def _names(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("false", "true")
    elif get_origin(annotation) is Literal:
        yield from (str(name) for name in get_args(annotation))
    else:
        for inner in get_args(annotation):
            yield from _names(inner)
