"""Numbers that are not finite, vectors that collapse, rates that explode: stopped before the update, and named."""

from __future__ import annotations
