"""Sentences, pairs and drawn shapes that embedkit makes itself, for first runs and tests."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
