"""Files of images to decoded pictures: upright, only as large as they are needed, every fault with a name.

JPEG files are decoded at a half, a quarter or an eighth of their size where that is enough (the decoder's own "draft"
mode, which skips most of the work); other files are averaged over whole squares of pixels right after decoding, so that
a batch of large photographs stays small in memory. Of an animation the first picture is read. Pixels of 16 bits come
with their upper 8, and a photograph that its EXIF data call turned is turned back: all who read files see the same.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from embedkit.data.schema.rows import BadRow
from embedkit.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""Formats that are read, by content and not by name; others of Pillow's start programs or are no pictures."""

MAX_PIXELS = 89_000_000
"""Pixels of an image at most, by its header: a small file can claim to be any size (a decompression bomb)."""

MAX_ASPECT = 100
"""Times that the longer side may be the shorter one; scaled by its shorter side, a longer strip would fill memory."""

FAULTS = ("missing image", "empty image", "not an image", "image too large", "damaged image", "unknown pixels")
"""Reasons of `load_picture`."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"}
)
"""Endings of names that are taken for images where nothing else says so."""

TEXT_ENDINGS = {"txt": "text", "text": "text", "caption": "caption", "transcript": "text"}
"""Endings of files that hold the text of an image beside it -> the column that it becomes."""

_REMEDY = "fix the file, or set data.on_bad_row: skip"


def is_image(name: str) -> bool:
    """Whether a file is an image by its ending.

    Examples
    --------
    >>> is_image("a.input.JPG"), is_image("jpg")
    (True, False)
    """
    _, dot, ending = name.rpartition(".")
    return bool(dot) and f".{ending.lower()}" in SUFFIXES


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes
    ----------
    image : PIL image
        In the mode of its file (8 bits a channel at most), pixels loaded, upright; smaller than the file where less
        was asked for.
    key : bytes
        16-byte hash of the file's content: equal files have equal keys, whatever is made of them.

    Examples
    --------
    >>> from embedkit.data.builtin.shapes import draw
    >>> picture = load_picture(draw((0, 0, 1, 0, 0)))
    >>> picture.image.size, len(picture.key)
    ((32, 32), 16)
    """

    image: Image
    key: bytes


def load_picture(source: bytes | str, need: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """The decoded image of a file or of its content.

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
        With one of `FAULTS` as reason.

    Examples
    --------
    >>> from PIL import Image
    >>> Image.new("RGB", (640, 480)).save("photo.png")
    >>> load_picture("photo.png", need=100).image.size
    (160, 120)
    """
    content = source if isinstance(source, bytes) else _read(source)
    if not content:
        raise BadRow("empty image", "the image file has no bytes", remedy=_REMEDY)
    image = _decoded(content, need, max_pixels)
    return Picture(image, hashlib.blake2b(content, digest_size=16).digest())


def picture_size(source: bytes | str) -> tuple[int, int] | None:
    """Width and height of a file or of its content, by its header; None for what `load_picture` refuses.

    Examples
    --------
    >>> from embedkit.data.builtin.shapes import draw
    >>> picture_size(draw((0, 0, 1, 0, 0))), picture_size(b"no image")
    ((32, 32), None)
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            return image.size
    except Exception:  # decoders raise anything on hostile bytes; the row is told where it is read
        return None


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
    _check_size(*image.size, max_pixels)
    try:
        if image.format == "PNG":  # which Pillow decodes without a look at the checksums
            image.verify()
            image = Image.open(io.BytesIO(content), formats=_formats())
        picture = _loaded(image, need)
    except Exception as error:  # as above
        raise _damaged(error) from error
    turn = _TURNS.get(_orientation(picture))
    picture = eight_bits(picture)
    return picture if turn is None else picture.transpose(Image.Transpose(turn))


def _check_size(wide: int, high: int, max_pixels: int) -> None:
    if wide * high == 0:
        raise BadRow("empty image", f"the image has {wide} x {high} pixels", remedy=_REMEDY)
    if wide * high > max_pixels:
        what = f"{wide} x {high} pixels are more than max_pixels = {max_pixels}"
        raise BadRow("image too large", what, remedy="raise data.max_pixels, or set data.on_bad_row: skip")
    if max(wide, high) > MAX_ASPECT * min(wide, high):
        what = f"{wide} x {high} pixels: one side is more than {MAX_ASPECT} times the other"
        raise BadRow("image too large", what, remedy="cut the image, or set data.on_bad_row: skip")


def _orientation(image: Any) -> int:
    """The orientation that the EXIF data give; 1, upright, where they give none or cannot be read."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data raise anything; the pixels are whole all the same
        return 1


_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> Pillow's number of the transposition that undoes it."""


def eight_bits(image: Any) -> Image:
    """An image of 16 bits a pixel reduced to its upper 8, any other image as it is; Pillow itself would clip at 255.

    Raises
    ------
    BadRow
        The pixels are of 32 bits or fractions, of which nobody knows what is white; reason "unknown pixels".

    Examples
    --------
    >>> from PIL import Image
    >>> eight_bits(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    255
    """
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        import numpy as np

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        what = f"pixels of mode {image.mode} (32 bits) have no known white"
        raise BadRow("unknown pixels", what, remedy="save the image with 8 or 16 bits a channel")
    return image  # type: ignore[no-any-return]


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow reads."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked here, and refused with a place
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
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return BadRow("damaged image", f"the image cannot be decoded ({reason})", remedy=_REMEDY)


def to_rgb(image: Any) -> Image:
    """The image in RGB, transparent pixels on white.

    Examples
    --------
    >>> from PIL import Image
    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # type: ignore[no-any-return]


def small_jpeg(image: Image, side: int, quality: int = 85) -> bytes:
    """An image as JPEG, at most `side` pixels on the longer side; what is transparent is white.

    Examples
    --------
    >>> from PIL import Image
    >>> small_jpeg(Image.new("RGBA", (640, 480)), 320)[:3].hex()
    'ffd8ff'
    """
    small = to_rgb(image).copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
