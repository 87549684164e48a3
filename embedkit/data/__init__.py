"""Data: sources of rows, roles by name, samplers, mixtures and streams.

Nothing here imports torch or transformers, so that data is checked before anything heavy is loaded. Names are imported
when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.data.prefetching import Prefetcher, prefetch
    from embedkit.data.rows import Row
    from embedkit.data.sources import read_rows
    from embedkit.data.training import RowBatch, TrainingRows, open_training

_HOMES = {
    "Prefetcher": "prefetching",
    "Row": "rows",
    "RowBatch": "training",
    "TrainingRows": "training",
    "open_training": "training",
    "prefetch": "prefetching",
    "read_rows": "sources",
}

__all__ = ["Prefetcher", "Row", "RowBatch", "TrainingRows", "open_training", "prefetch", "read_rows"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
