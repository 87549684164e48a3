"""Methods: one readable file a paper, found by name in `methods`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.methods.base import Contract, Method, View, methods

_FILES = (
    "pairs", "simcse", "mlm", "diffcse", "promptbert", "consert", "promcse",
    "views", "sent2vec", "dclr", "sct", "sg_opt", "micse", "macl", "mcse",
    "clip", "image_views", "joint", "lit",
)  # fmt: skip

__all__ = ["Contract", "Method", "View", "methods"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'embedkit.methods' has no attribute {name!r}")
    for file in _FILES:
        importlib.import_module(f"embedkit.methods.{file}")
    return getattr(importlib.import_module("embedkit.methods.base"), name)
