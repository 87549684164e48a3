"""Helpers of the data tests: contracts without torch, and `open_training` written short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.config.recipe import DataConfig
from embedkit.data import TrainingRows, open_training


@dataclass(frozen=True)
class Roles:
    """Stands for `embedkit.methods.base.Contract`, which needs torch."""

    requires: frozenset[str]
    accepts: frozenset[str] = frozenset()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def roles(self) -> frozenset[str]:
        return self.requires | self.accepts


def contract(requires: str, accepts: str = "") -> Roles:
    """A contract from two lists of words."""
    return Roles(frozenset(requires.split()), frozenset(accepts.split()))


def opened(
    train: Sequence[dict[str, Any]],
    requires: str = "anchor",
    accepts: str = "",
    *,
    batch_size: int = 4,
    seed: int = 7,
    base_dir: Path = Path(),
    **settings: Any,
) -> TrainingRows:
    """`open_training` with settings written short."""
    config = DataConfig.model_validate({"train": list(train), **settings})
    return open_training(config, contract(requires, accepts), batch_size=batch_size, seed=seed, base_dir=base_dir)
