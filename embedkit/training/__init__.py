"""The shared trainer: one loop for every method, model and objective."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.training.planning import Plan, plan
    from embedkit.training.run import TrainResult, train

_LAZY = {"train": "run", "TrainResult": "run", "plan": "planning", "Plan": "planning"}

__all__ = ["Plan", "TrainResult", "plan", "train"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(f"embedkit.training.{_LAZY[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'embedkit.training' has no attribute {name!r}")
