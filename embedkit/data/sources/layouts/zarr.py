"""Folders of Zarr: arrays in chunks."""

from __future__ import annotations

from embedkit.data.schema.rows import Part
from embedkit.data.sources.registry import FolderRequest, Layout, layouts
from embedkit.data.vectors.arrays import columns_of_arrays, records_of
from embedkit.data.vectors.chunked import zarr_arrays
from embedkit.data.vectors.column import Piece

_MARKS = ("zarr.json", ".zgroup", ".zarray")


def zarr(request: FolderRequest) -> list[Part] | None:
    """One part with the arrays of a Zarr folder as columns, or None where the folder is none.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import zarr as library
    >>> group = library.open_group("rows.zarr", mode="w")
    >>> group["label"] = np.array([3, 4])
    >>> [part] = zarr(FolderRequest(Path("rows.zarr"), None, None, print))
    >>> list(part.records())
    [(1, {'label': 3}), (2, {'label': 4})]
    """
    folder = request.folder
    if not any((folder / mark).is_file() for mark in _MARKS):
        return None

    def columns() -> dict[str, Piece]:
        return columns_of_arrays(zarr_arrays(folder), str(folder))

    return [Part(str(folder), lambda: records_of(columns()), folder, token=str(folder), columns=columns, uneven=True)]


layouts.add("zarr")(Layout(0, zarr))
