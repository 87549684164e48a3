"""Faults of the disk: full, read-only, closed, torn files, a clock that goes back, links, modes."""

from __future__ import annotations

from tests.faults import disk_full, disk_state  # noqa: F401 - they register the cases
