"""Objectives: functions of the embeddings of a batch, found by name and composed of small parts.

Importing this package is light; torch is imported when a name of it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "build": "registry", "presets": "registry", "objective": "registry", "Preset": "registry", "load": "registry",
    "Objective": "base", "ObjectiveBatch": "base", "LossOutput": "base", "NegativeCount": "base",
    "table": "catalogue", "TableObjective": "kernel",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'embedkit.objectives' has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedkit.objectives.{_HOME[name]}"), name)
