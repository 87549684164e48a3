"""Paths of images in cells: made absolute, and held inside the folder that they may name files of."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from embedkit.data.schema.rows import BadRow

IMAGE_PATH_REMEDY = (
    "write paths relative to the folder of the data file, or set 'image_folder' to the folder that they start from"
)
"""What helps where no image is found."""

_FIX = "fix the row, or set data.on_bad_row: skip"
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def image_path(image: str, home: Path | None, images: Path | None = None) -> str:
    """The path in a cell, made absolute; it must stay inside `home`, the folder of the data file.

    With `images` it may be absolute and must stay inside that folder; relative ones start there.

    Raises
    ------
    BadRow
        It leads elsewhere, or no file with content is there; the caller adds the place.

    Examples
    --------
    >>> _ = Path("dog.jpg").write_bytes(b"...")
    >>> image_path("dog.jpg", Path()) == str(Path("dog.jpg").resolve())
    True
    """
    home = home if images is None else images
    if home is None or _URL.match(image):
        raise BadRow("bad path", f"the image path {image[:80]!r} is not relative", remedy=IMAGE_PATH_REMEDY)
    folder = str(home) if home.is_absolute() else str(home.resolve())
    path = os.path.normpath(os.path.join(folder, image))
    try:
        inside = _inside(path, folder)
        size = os.stat(path).st_size if inside and os.path.isfile(path) else -1
    except ValueError:  # a NUL in it
        inside, size = True, -1
    if not inside:
        raise BadRow(
            "bad path", f"the image path {image[:80]!r} leads out of the data folder", remedy=IMAGE_PATH_REMEDY
        )
    if size < 0:
        raise BadRow("missing image", f"there is no image file {image[:80]!r}", remedy=IMAGE_PATH_REMEDY)
    if size == 0:
        raise BadRow("empty image", f"the image file {image[:80]!r} has no bytes", remedy=_FIX)
    return path


def _inside(path: str, folder: str) -> bool:
    """Whether a normalised path lies in a folder, symbolic links followed."""
    parent, name = os.path.split(path)
    real = os.path.realpath(path) if os.path.islink(path) else os.path.join(_real(parent), name)
    return real.startswith(_real(folder).rstrip(os.sep) + os.sep)


@cache
def _real(folder: str) -> str:
    return os.path.realpath(folder)
