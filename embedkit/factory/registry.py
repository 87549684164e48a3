"""Builders of models for training, by the kind that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from embedkit.config.model import ModelConfig
from embedkit.registry import Registry

if TYPE_CHECKING:
    from embedkit.models.base import Model

builders: Registry[Callable[[ModelConfig], Model]] = Registry("kind of model", "embedkit.factory")
