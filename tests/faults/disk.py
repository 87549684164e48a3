"""Disks that are full, read-only or lie, files that are torn: what was safe stays safe, and is said."""

from __future__ import annotations
