"""Broken and odd images: each a clear error, an accounted skip, or legal input; none silent."""

from __future__ import annotations
