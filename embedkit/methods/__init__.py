"""Methods: one readable file a paper, found by name in `methods`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.methods.base import Contract, Method, View, methods

_SHARED = {"attention", "augmenting", "auxiliary", "base", "parts"}  # what methods are made of; some need torch

__all__ = ["Contract", "Method", "View", "methods"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'embedkit.methods' has no attribute {name!r}")
    for file in pkgutil.iter_modules(__path__):
        if file.name not in _SHARED:
            importlib.import_module(f"embedkit.methods.{file.name}")
    return getattr(importlib.import_module("embedkit.methods.base"), name)
