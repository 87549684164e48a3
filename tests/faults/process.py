"""Processes that die or are asked to stop, at any moment, and what a restart finds."""

from __future__ import annotations
