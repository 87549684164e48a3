"""Settings of a folder with those of a recipe in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.recipe import ModelConfig

if TYPE_CHECKING:
    pass


def replaced(spec: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """The settings of a folder with those of the recipe in their place."""
    spec = dict(spec)
    for key in ("pooling", "max_length", "normalize"):
        value = getattr(config, key)
        if value is not None:
            spec[key] = value
    if config.prompts:
        spec["prompts"] = {**spec.get("prompts", {}), **config.prompts}
    if config.default_prompt is not None:
        spec["default_prompt"] = config.default_prompt
    return spec
