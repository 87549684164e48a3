"""Models for training, from the `model` section of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.factory.registry import builders
from embedkit.formats.detect import inspect, locate
from embedkit.recipe import ModelConfig

if TYPE_CHECKING:
    from embedkit.models.base import Model


def build(config: ModelConfig, seed: int = 0) -> Model:
    """The model of a recipe, in float32 on the CPU and in training mode.

    New parameters (a random encoder, a head, adapters) are a pure function of `seed`; the global random state is left
    as it was.

    Raises
    ------
    ModelError
        When the model cannot be read or built.
    """
    if config.name is not None and not config.name.startswith("open_clip:"):
        inspect(locate(config.name, config.revision))  # refuse a wrong folder before torch is imported
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builders[config.kind](config).train()
