"""Encoders: texts to vectors. Loading, building, packed execution, encoding and saving.

Names are imported when they are first used, so that the package stays light to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.building import build
    from embedkit.models.dual import DualEncoder
    from embedkit.models.file_encoding import encode_file
    from embedkit.models.images import ImageInputs
    from embedkit.models.inputs import Inputs
    from embedkit.models.loading import load
    from embedkit.models.poolers import poolers
    from embedkit.models.preprocess import Preprocess
    from embedkit.models.saving import save
    from embedkit.models.static import StaticEncoder
    from embedkit.models.text import TextEncoder

_HOME = {
    "DualEncoder": "dual",
    "ImageInputs": "images",
    "Inputs": "inputs",
    "Model": "base",
    "Preprocess": "preprocess",
    "StaticEncoder": "static",
    "TextEncoder": "text",
    "build": "building",
    "encode_file": "file_encoding",
    "load": "loading",
    "poolers": "poolers",
    "save": "saving",
}

__all__ = [
    "DualEncoder",
    "ImageInputs",
    "Inputs",
    "Model",
    "Preprocess",
    "StaticEncoder",
    "TextEncoder",
    "build",
    "encode_file",
    "load",
    "poolers",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
