"""What a shell offers for a word that is begun: names of recipes, methods, objectives and suites, and settings."""

from __future__ import annotations

from collections.abc import Iterable


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


def setting_words(incomplete: str) -> list[str]:
    """``KEY=`` of a recipe's settings, and the names that ``method=`` and ``objective=`` take.

    Examples
    --------
    >>> setting_words("train.gradient")
    ['train.gradient_checkpointing=']
    >>> setting_words("objective=cosen")
    ['objective=cosent']
    """
    from embedkit.config.recipe_keys import recipe_keys

    key, equals, value = incomplete.partition("=")
    names = {"method": method_words, "objective": objective_words}
    if equals and key in names:
        return [f"{key}={name}" for name in names[key](value)]
    return _beginning(incomplete, (f"{name.replace('.N.', '.0.')}=" for name in recipe_keys()))
