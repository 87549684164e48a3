"""Settings of a run that have an effect only beside another one: where that is off, they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from embedkit.config.recipe import Recipe


def _streams(recipe: Recipe) -> bool:
    return any(source.stream for source in recipe.data.train)


def _chunks(recipe: Recipe) -> bool:
    return recipe.train.chunk_size is not None or recipe.train.chunk_tokens is not None


NEEDS: dict[str, tuple[Callable[[Recipe], bool], str]] = {
    "data.per_label": (lambda recipe: recipe.data.sampler == "by-label", "data.sampler: by-label"),
    "data.mixing_temperature": (lambda recipe: recipe.data.mixing == "temperature", "data.mixing: temperature"),
    "data.shuffle_buffer": (_streams, "stream: true in an entry of data.train"),
    "data.lanes": (_streams, "stream: true in an entry of data.train"),
    "train.evaluate_ema": (lambda recipe: recipe.train.ema is not None, "train.ema"),
    "train.keep_chunks": (_chunks, "train.chunk_size or train.chunk_tokens"),
}
"""Setting -> whether something reads it, and what would."""


def idle_settings(recipe: Recipe) -> Iterator[str]:
    """A line for each setting of the user's that nothing reads, because another one is off.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> print(*idle_settings(load_recipe("pairs", ["data.per_label=4"])))
    data.per_label has no effect without data.sampler: by-label
    >>> list(idle_settings(load_recipe("pairs", ["data.per_label=4", "data.sampler=by-label"])))
    []
    """
    for key, (is_read, needs) in NEEDS.items():
        name, _, field = key.partition(".")
        section = getattr(recipe, name)
        default = type(section).model_fields[field].get_default(call_default_factory=True)
        if recipe.origin.has(key) and getattr(section, field) != default and not is_read(recipe):
            yield f"{key} has no effect without {needs}"
