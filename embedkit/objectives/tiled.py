"""Sums over the rows of score tables, evaluated densely or by tiles."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from embedkit.objectives.stats import Stat, Table, dense_stats


def row_stats(tables: Sequence[Table], wanted: Sequence[Stat], tile: int | str | None) -> list[list[Tensor]]:
    """Each wanted number (n,) of each table."""
    return [dense_stats(table, wanted) if wanted else [] for table in tables]
