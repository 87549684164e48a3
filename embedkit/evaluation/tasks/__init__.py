"""The kinds of tasks, one file each; importing this package registers all of them."""

from __future__ import annotations

from embedkit.evaluation.tasks import clustering, geometry, image_text, pairs, probe, retrieval, sts, zero_shot

__all__ = ["clustering", "geometry", "image_text", "pairs", "probe", "retrieval", "sts", "zero_shot"]
