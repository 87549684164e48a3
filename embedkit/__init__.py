"""Train and evaluate embeddings of sentences and images.

Everything named here is imported when it is first used, so that ``import embedkit`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from embedkit import objectives
    from embedkit.api import export, train
    from embedkit.evaluation import Report, evaluate
    from embedkit.models import Model, load
    from embedkit.recipe import Recipe
    from embedkit.training import TrainResult

_LAZY = {
    "train": "embedkit.api",
    "export": "embedkit.api",
    "evaluate": "embedkit.evaluation",
    "Report": "embedkit.evaluation",
    "Model": "embedkit.models",
    "load": "embedkit.models",
    "Recipe": "embedkit.recipe",
    "TrainResult": "embedkit.training",
}

__all__ = [
    "Model",
    "Recipe",
    "Report",
    "TrainResult",
    "__version__",
    "evaluate",
    "export",
    "load",
    "objectives",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name == "objectives":
        return importlib.import_module("embedkit.objectives")
    raise AttributeError(f"module 'embedkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
