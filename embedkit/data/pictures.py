"""Files of images to decoded pictures: only as large as they are needed, every fault with a name.

JPEG files are decoded at a half, a quarter or an eighth of their size where that is enough (the decoder's own "draft"
mode, which skips most of the work); other files are averaged over whole squares of pixels right after decoding, so that
a batch of large photographs stays small in memory.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from embedkit.data.rows import BadRow
from embedkit.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""Formats that are read, by content and not by name; others of Pillow's start programs or are no pictures."""

MAX_PIXELS = 89_000_000
"""Pixels of an image at most, by its header: a small file can claim to be any size (a decompression bomb)."""

FAULTS = ("missing image", "empty image", "not an image", "image too large", "damaged image")
"""Reasons of `load_picture`."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""Endings of names that are taken for images where nothing else tells."""

_REMEDY = "mend the file, or set data.on_bad_row: skip"


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes
    ----------
    image : PIL image
        In the mode of its file, pixels loaded; smaller than the file where less was asked for.
    key : bytes
        16-byte hash of the file's content: equal files have equal keys, whatever is made of them.
    """

    image: Image
    key: bytes


def load_picture(source: bytes | str, need: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image.

    Parameters
    ----------
    source : bytes or str
        The content of a file, or its path.
    need : int, optional
        Pixels that the shorter side must keep; larger images come reduced to less than twice that (never enlarged).
    max_pixels : int
        More are refused before decoding.

    Raises
    ------
    BadRow
        With the reason "missing image", "empty image", "not an image", "image too large" or "damaged image".
    """
    content = source if isinstance(source, bytes) else _read(source)
    if not content:
        raise BadRow("empty image", "the image file has no bytes", remedy=_REMEDY)
    image = _decoded(content, need, max_pixels)
    return Picture(image, hashlib.blake2b(content, digest_size=16).digest())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:
        raise BadRow("missing image", f"there is no image file {path!r}", remedy=_REMEDY) from error
    except OSError as error:
        raise BadRow("missing image", f"{path!r} cannot be read ({error.strerror})", remedy=_REMEDY) from error


def _decoded(content: bytes, need: int | None, max_pixels: int) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("pillow", "clip", "reading images") from error
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        raise BadRow("not an image", f"no image format begins like {content[:8]!r}", remedy=_REMEDY) from error
    except Image.DecompressionBombError as error:
        raise BadRow("image too large", str(error).splitlines()[0], remedy=_REMEDY) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _damaged(error) from error
    wide, high = image.size
    if wide * high > max_pixels:
        what = f"{wide} x {high} pixels are more than max_pixels = {max_pixels}"
        raise BadRow("image too large", what, remedy="raise data.max_pixels, or set data.on_bad_row: skip")
    try:
        return _loaded(image, need)
    except Exception as error:  # as above
        raise _damaged(error) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _loaded(image: Any, need: int | None) -> Image:
    """The pixels, reduced to no less than `need` on the shorter side."""
    if need is not None and min(image.size) > need:
        factor = need / min(image.size)
        image.draft(None, tuple(math.ceil(side * factor) for side in image.size))
    image.load()
    times = 1 if need is None else min(image.size) // need
    if times > 1 and image.mode in ("RGB", "L", "CMYK", "RGBA", "LA"):
        image = image.reduce(times)
    return image  # type: ignore[no-any-return]


def _damaged(error: Exception) -> BadRow:
    said = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return BadRow("damaged image", f"the image cannot be decoded ({said})", remedy=_REMEDY)


def to_rgb(image: Any) -> Image:
    """A PIL image in RGB, transparent pixels on white."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # type: ignore[no-any-return]
