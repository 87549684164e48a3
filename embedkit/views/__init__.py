"""Views: augmentations of a text, or of the encoder's forward pass, found by name in `views`.

Any recipe uses them through the method ``views`` or the key ``augment`` of its own method."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
