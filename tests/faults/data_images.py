"""Images in files beside a csv: broken ones, paths that lead elsewhere, and odd ones with the pixels they must give."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.faults.data_frame import TEXTS, Broken, Content, Link
from tests.helpers.image_data import DUAL, bomb

CLIP = {"method": "clip", "model": DUAL}
SPOILT = "files/3.png"
"""The image that a case replaces; it stands in line 5 of ``t.csv``."""


def photo(seed: int = 0, wide: int = 24, high: int = 16) -> np.ndarray:
    """A picture without symmetry: RGB, uint8 (high, wide, 3)."""
    y, x = np.mgrid[:high, :wide]
    planes = [x * 255 // (wide - 1), y * 255 // (high - 1), (x + 2 * y + 16 * seed) % 200]
    return np.stack(planes, axis=2).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A file of it."""
    handle = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(handle, kind, **options)
    return handle.getvalue()


def data_set(cell: str | None = None, **changed: Content) -> dict[str, Content]:
    """A csv of eight images and captions, and the images; `cell` stands in place of the path of the fourth."""
    cells = [f"files/{n}.png" for n in range(8)]
    files: dict[str, Content] = {name: encoded(photo(n)) for n, name in enumerate(cells)}
    if cell is not None:
        cells[3] = cell
    rows = "".join(f"{path},{text}\n" for path, (text, _) in zip(cells, TEXTS, strict=True))
    return {"t.csv": f"image,caption\n{rows}", **files, **changed}


def _bad(name: str, content: Content, reason: str, *parts: str) -> Broken:
    files = {**data_set(), SPOILT: content}
    return Broken(name, files, ("t.csv:5", "'image'", *parts), {reason: 1}, change=CLIP)


def _path(name: str, cell: str, *parts: str, reason: str = "bad path", **more: Content) -> Broken:
    files = {**data_set(cell), "../secret.png": encoded(photo(9)), **more}
    return Broken(name, files, ("t.csv:5", "'image'", *parts), {reason: 1}, change=CLIP)


def _header(wide: int, high: int) -> bytes:
    """A GIF that claims a size and holds nothing."""
    return b"GIF89a" + wide.to_bytes(2, "little") + high.to_bytes(2, "little") + b"\0\0\0;"


_NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
_JPEG, _PNG = encoded(_NOISE, "JPEG"), encoded(_NOISE)
_FAULTS: dict[str, tuple[bytes, str, str]] = {
    "zero bytes": (b"", "empty image", "no bytes"),
    "a truncated JPEG": (_JPEG[: len(_JPEG) // 2], "damaged image", "decoded"),
    "a truncated PNG": (_PNG[: len(_PNG) // 2], "damaged image", "decoded"),
    "a PNG with a flipped byte": (_PNG[:200] + bytes([_PNG[200] ^ 255]) + _PNG[201:], "damaged image", "decoded"),
    "a JPEG's first 20 bytes": (_JPEG[:20], "not an image", "image format"),
    "a web page as an image": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image", "<!DOCTYP"),
    "a text as an image": (b"no picture", "not an image", "no pic"),
    "PostScript, which would start a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image",
                                                "%!PS"),
    "a bomb of 100,000 x 100,000 pixels": (bomb(100_000), "image too large", "10000000000 pixels"),
    "a bomb of 12,000 x 12,000 pixels": (bomb(12_000), "image too large", "max_pixels"),
    "a strip of 1 x 40,000 pixels": (encoded(np.zeros((40_000, 1, 3), np.uint8)), "image too large", "100 times"),
    "0 x 0 pixels": (_header(0, 0), "not an image", "GIF89a"),
    "32-bit pixels": (encoded(Image.new("F", (24, 16), 0.5), "TIFF"), "unknown pixels", "8 or 16 bits"),
}  # fmt: skip

REFUSED = [
    *(_bad(name, content, reason, part) for name, (content, reason, part) in _FAULTS.items()),
    _path("a path with ../", "../secret.png", "leads out of the data folder"),
    _path("a path with ../ in the middle", "files/../../secret.png", "leads out of the data folder"),
    _path("an absolute path", "/etc/hostname", "leads out of the data folder"),
    _path("a link out of the data folder", "link.png", "leads out", **{"link.png": Link("secret.png")}),
    _path("a folder that links out", "link/secret.png", "leads out", link=Link("")),
    _path("http://", "http://example.org/x.png", "not relative"),
    _path("file://", "file:///etc/hostname", "not relative"),
    _path("a file that is not there", "files/none.png", "there is no image file", reason="missing image"),
    _path("a folder in place of a file", "files", "there is no image file", reason="missing image"),
    _path("an empty path", "", "no bytes", reason="empty image"),
    Broken("an empty caption", {**data_set(), "t.csv": str(data_set()["t.csv"]).replace(TEXTS[3][0], " ")},
           ("t.csv:5", "captions are empty"), {"blank text": 1}, change=CLIP),
    Broken("swapped: paths and captions", data_set(), ("t.csv:2", "'caption'", "no image file", "relative"),
           source={"columns": {"caption": "image", "image": "text_1"}}, change=CLIP),
    Broken("no column of captions", {**data_set(), "t.csv": "image,note\nfiles/0.png,a\n"},
           ("t.csv", "role 'texts'", "'note'"), change=CLIP),
]  # fmt: skip


def all_at_once() -> tuple[dict[str, Content], dict[str, str]]:
    """Twenty good images and one of each fault; and ``t.csv:LINE`` -> reason of the bad ones."""
    names = list(_FAULTS)
    files: dict[str, Content] = {}
    lines, faults = ["image,caption"], {}
    for number in range(20 + len(names)):
        path = f"files/{number:02d}.png"
        content, caption = encoded(photo(number)), f"{TEXTS[number % 8][0]} {number}"
        if number % 2 and number // 2 < len(names):
            content, faults[f"t.csv:{number + 2}"], _ = _FAULTS[names[number // 2]]
        files[path] = content
        lines.append(f"{path},{caption}")
    lines.append("../secret.png,a secret")
    faults[f"t.csv:{len(lines)}"] = "bad path"
    return {"t.csv": "\n".join(lines) + "\n", **files, "../secret.png": encoded(photo(9))}, faults


@dataclass(frozen=True)
class Pixels:
    """What must come out of a file: RGB, uint8 (H, W, 3), to within `off` a value."""

    wanted: np.ndarray
    off: int = 0

    def check(self, content: bytes) -> None:
        """Training, evaluation and encoding see these pixels."""
        from embedkit.data.images.pictures import load_picture, to_rgb
        from embedkit.evaluation.core.inputs import EncodedImage
        from embedkit.models.inputs.preprocess import open_image

        seen: Mapping[str, Any] = {
            "training": load_picture(content).image, "evaluation": EncodedImage(content).decode(),
            "encoding": open_image(content),
        }  # fmt: skip
        for use, image in seen.items():
            found = np.asarray(to_rgb(image)).astype(int)
            assert found.shape == self.wanted.shape, f"{use}: {found.shape}, not {self.wanted.shape}"
            worst = int(np.abs(found - self.wanted).max())
            assert worst <= self.off, f"{use}: off by {worst}"
        held = Image.open(io.BytesIO(content))
        if held.mode.startswith("I"):  # 16 bits in the hands of the caller, too
            assert np.array_equal(np.asarray(open_image(held)), self.wanted[:, :, 0])


def _legal(
    name: str, content: bytes, wanted: np.ndarray, checked: str, off: int = 0
) -> tuple[Broken, Pixels, str]:  # fmt: skip
    return Broken(name, {**data_set(), SPOILT: content}, change=CLIP), Pixels(wanted, off), checked


def _turned(orientation: int) -> bytes:
    """The photo stored turned or mirrored, with the EXIF orientation that undoes it."""
    stored = {2: photo()[:, ::-1], 3: photo()[::-1, ::-1], 4: photo()[::-1], 5: photo().transpose(1, 0, 2),
              6: np.rot90(photo()), 7: np.rot90(photo()[::-1]), 8: np.rot90(photo(), -1)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(stored), exif=exif)


def _grey16() -> np.ndarray:
    return (photo()[:, :, 0].astype(np.uint16) << 8) + 77


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _clear(alpha: int) -> np.ndarray:
    return np.dstack([photo(), np.full(photo().shape[:2], alpha, np.uint8)])


def _palette() -> Image.Image:
    return Image.fromarray(photo()).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)


_FRAMES = [Image.fromarray(photo(seed)).quantize(256) for seed in (0, 5)]
_ON_WHITE = np.round(photo() * (128 / 255) + 255 * (127 / 255)).astype(np.uint8)

LEGAL = [
    _legal("a CMYK JPEG", encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=100, subsampling=0),
           photo(), "colours to within 12 of 255", 12),
    _legal("16 bits, PNG", encoded(_grey16()), _three(photo()[:, :, 0]), "the upper 8 bits of every pixel"),
    _legal("16 bits, TIFF", encoded(_grey16(), "TIFF"), _three(photo()[:, :, 0]), "the upper 8 bits of every pixel"),
    _legal("16 bits, PGM", encoded(Image.fromarray(_grey16()), "PPM"), _three(photo()[:, :, 0]), "the upper 8 bits"),
    _legal("an animated GIF", encoded(_FRAMES[0], "GIF", save_all=True, append_images=_FRAMES[1:]),
           np.asarray(_FRAMES[0].convert("RGB")), "the first picture"),
    _legal("an animated WebP", encoded(Image.fromarray(photo()), "WEBP", lossless=True, save_all=True,
           append_images=[Image.fromarray(photo(5))]), photo(), "the first picture"),
    _legal("an animated PNG", encoded(Image.fromarray(photo()), save_all=True, append_images=[Image.fromarray(
           photo(5))]), photo(), "the first picture"),
    *(_legal(f"EXIF orientation {n}", _turned(n), photo(), "upright") for n in range(2, 9)),
    _legal("damaged EXIF data", encoded(photo(), "PNG", exif=b"Exif\0\0 nonsense"), photo(), "pixels as they are"),
    _legal("a JPEG called .png", encoded(photo(), "JPEG", quality=100, subsampling=0), photo(), "read by content", 8),
    _legal("a palette", encoded(_palette()), np.asarray(_palette().convert("RGB")), "the palette's colours"),
    _legal("black and white, 1 bit", encoded(Image.fromarray(photo()[:, :, 0] > 99)),
           _three(np.where(photo()[:, :, 0] > 99, 255, 0).astype(np.uint8)), "0 and 255"),
    _legal("grey", encoded(photo()[:, :, 1]), _three(photo()[:, :, 1]), "three equal channels"),
    _legal("half transparent", encoded(_clear(128)), _ON_WHITE, "on white", 1),
    _legal("wholly transparent", encoded(_clear(0)), np.full_like(photo(), 255), "white"),
    _legal("1 x 1 pixel", encoded(photo()[:1, :1]), photo()[:1, :1], "exact"),
]  # fmt: skip
"""Files, the pixels that must come out, and what that shows."""
