"""Views: small changes of a text, or of how the encoder sees it, found by name in `views`.

Any recipe uses them through the method ``views`` or the key ``augment`` of its own method.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.views.base import Chain, Step, views

_FILES = ("text", "lookup", "encoder")

__all__ = ["Chain", "Step", "views"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'embedkit.views' has no attribute {name!r}")
    for file in _FILES:
        importlib.import_module(f"embedkit.views.{file}")
    return getattr(importlib.import_module("embedkit.views.base"), name)
