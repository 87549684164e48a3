"""Faults of processes: killed, asked to stop, alone, twice in one folder, resumed as something else."""

from __future__ import annotations

from tests.faults import process_kill, process_stop  # noqa: F401 - they register the cases
