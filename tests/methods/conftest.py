"""Processes for the tests of methods."""

from __future__ import annotations

from tests.training.conftest import processes

__all__ = ["processes"]
