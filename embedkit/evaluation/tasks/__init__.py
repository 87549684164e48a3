"""The kinds of tasks, one file each; importing this package registers all of them."""

from __future__ import annotations

from embedkit.evaluation.tasks import probe, retrieval, sts

__all__ = ["probe", "retrieval", "sts"]
