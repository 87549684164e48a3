"""Data: sources of rows, roles by name, samplers, mixtures and streams.

Nothing here imports torch or transformers, so that data is checked before anything heavy is loaded."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
