"""The kinds of tasks, one file each; importing this package registers all of them."""

from __future__ import annotations

from embedkit.evaluation.tasks import retrieval, sts

__all__ = ["retrieval", "sts"]
