"""Objectives: losses on the embeddings of a batch, found by name and composed of small parts."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
