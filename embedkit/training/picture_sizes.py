"""Pictures that are too small for what is cut out of them, told before a model is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from embedkit.data.images.pictures import picture_size
from embedkit.data.schema.roles import IMAGE_ROLES
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data import RowBatch, TrainingRows

MOST = 1_000  # pictures that are looked at, spread over the rows


def small_pictures(rows: TrainingRows, views: int, crop: int | None, patch: int | None) -> str | None:
    """A line on pictures that are smaller than a crop or a patch, by the headers of up to 1,000 of them, spread evenly
    over the rows; None where there are none, and for a stream.

    Parameters
    ----------
    views : int
        Views of each picture.
    crop, patch : int, optional
        Side of the smallest view that has a size of its own, and of a patch of the tower; a picture is held against the
        first that is there.

    Raises
    ------
    DataError
        None of all pictures has as many pixels as views.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from embedkit.data.builtin.shapes import draw
    >>> batch = SimpleNamespace(rows=[{"image": draw((0, 0, 1, 0, 0))}], ids=[7])
    >>> rows = SimpleNamespace(block=lambda places: batch, num_rows=1, where="photos:{}".format)
    >>> small_pictures(rows, views=2, crop=None, patch=16) is None
    True
    >>> small_pictures(rows, views=2, crop=48, patch=16)
    '1 of 1 pictures is smaller than a crop, 48 x 48, and is enlarged; the first: photos:7 (32 x 32)'
    """
    side, what = (crop, "a crop") if crop is not None else (patch or 0, "a patch of the tower")
    sizes = list(_sizes(rows))
    small = [(row, size) for row, size in sizes if min(size) < side]
    few = [(row, size) for row, size in sizes if size[0] * size[1] < views]
    if few and len(few) == len(sizes) and rows.num_rows is not None and rows.num_rows <= MOST:
        row, (wide, high) = max(few, key=lambda entry: entry[1][0] * entry[1][1])
        raise DataError(f"no picture has as many pixels as there are views of it, {views}: this, the largest, has "
                        f"{wide} x {high}", where=rows.where(row), remedy="give larger pictures")  # fmt: skip
    if not small and not few:
        return None
    row, (wide, high) = (small or few)[0]
    first = f"the first: {rows.where(row)} ({wide} x {high})"
    looked = f"{len(sizes):,} pictures" + (" looked at" if len(sizes) != rows.num_rows else "")
    lacks = f"{len(few):,} of {looked} have fewer pixels than there are views of each, {views}"
    if not small:
        return f"{lacks}; {first}"
    verb = "is" if len(small) == 1 else "are"
    line = f"{len(small):,} of {looked} {verb} smaller than {what}, {side} x {side}, and {verb} enlarged"
    return f"{line}; {lacks}; {first}" if few else f"{line}; {first}"


def _sizes(rows: TrainingRows) -> Iterator[tuple[int, tuple[int, int]]]:
    """Row and size, width and height, of the pictures that are looked at; what cannot be read is told elsewhere."""
    block = getattr(rows, "block", None)
    if block is None or rows.num_rows is None:  # of a stream, of which one batch costs the whole shuffle buffer
        return
    places = np.linspace(0, rows.num_rows - 1, min(rows.num_rows, MOST)).astype(np.int64)
    batch: RowBatch = block(np.unique(places).tolist())
    for row, number in zip(batch.rows, batch.ids, strict=True):
        for role in IMAGE_ROLES:
            image = row.get(role)
            size = picture_size(image) if isinstance(image, bytes | str) else None
            if size is not None:
                yield number, size
