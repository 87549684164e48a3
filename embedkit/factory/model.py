"""Models for training, from the `model` section of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.config.model import ModelConfig
from embedkit.factory.folder_settings import folder_of, permissions
from embedkit.factory.registry import builders
from embedkit.factory.settings import every_setting_used
from embedkit.formats.detect import inspect
from embedkit.formats.registry import readers

if TYPE_CHECKING:
    from embedkit.models.base import Model

READ_ELSEWHERE = ("kind", "use_max_length")
"""Settings of the `model` section that the builder of its kind does not read; the training loop obeys the second."""


def build(config: ModelConfig, seed: int = 0) -> Model:
    """The model of a recipe, in float32 on the CPU and in training mode.

    New parameters (a random encoder, a head, adapters) are a pure function of `seed`; the global random state is left
    as it was.

    Raises
    ------
    ModelError
        When the model cannot be read or built, and for every setting that has no effect on it.

    Examples
    --------
    >>> from embedkit.config.model import ModelConfig
    >>> from embedkit.factory import build
    >>> build(ModelConfig(kind="static", tokenizer="builtin", dim=4)).dim
    4
    """
    plan = None
    if config.name is not None and not config.name.startswith("open_clip:"):
        plan = inspect(folder_of(config), **permissions(config))  # refuse a wrong folder before torch is imported
    import torch

    with torch.random.fork_rng(devices=[]), every_setting_used(config, "model", READ_ELSEWHERE) as section:
        torch.manual_seed(seed)
        model = builders[config.kind](section).train()
    if plan is not None:  # for a method that goes on with a kept head
        model.classifiers = readers[plan.origin]().classifiers(plan.root)
    return model
