"""Random bytes for every reader of files: no error but our own, and no crash."""

from __future__ import annotations
