"""Decoding: every fault has its name, reduced pictures stay large enough, formats that run programs are not read."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedkit.data.builtin import sentences as builtin
from embedkit.data.images.pictures import load_picture, to_rgb
from embedkit.data.schema.rows import BadRow
from tests.helpers import image_data


def _file(size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    wide, high = size
    ramp = 255 - np.abs(np.add.outer(np.arange(high), np.arange(wide)) % 510 - 255)  # no jumps
    handle = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(handle, kind, **options)
    return handle.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats_are_read_by_content(kind: str, tmp_path: Path) -> None:
    content = _file((20, 14), kind)
    (tmp_path / "x.dat").write_bytes(content)  # the name says nothing
    for source in (content, str(tmp_path / "x.dat")):
        picture = load_picture(source)
        assert picture.image.size == (20, 14)
        assert picture.key == hashlib.blake2b(content, digest_size=16).digest()


@pytest.mark.parametrize("size", [(64, 48), (640, 480), (481, 1001), (2000, 300)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("need", [32, 100])
def test_reduced_pictures_keep_what_is_needed_and_less_than_twice_that(
    size: tuple[int, int], kind: str, need: int
) -> None:
    content = _file(size, kind)
    shorter = min(load_picture(content, need).image.size)
    assert shorter == min(size) if min(size) <= need else need <= shorter < 2 * need
    wide, high = load_picture(content, need).image.size
    assert abs(wide / high - size[0] / size[1]) < 0.05 * size[0] / size[1]


def test_a_reduced_picture_shows_the_same() -> None:
    content = _file((768, 576), "PNG")
    small = load_picture(content, 96).image
    wanted = load_picture(content).image.resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - np.asarray(wanted, float)).mean() < 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty image"),
        (b"not a picture at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),  # would start Ghostscript
        (_file((90, 70))[:600], "damaged image"),
        (_file((90, 70), "PNG")[:150], "damaged image"),
        (image_data.bomb(9_000), "image too large"),
        (image_data.bomb(), "image too large"),  # more than Pillow itself allows
    ],
)
def test_faults_have_names(content: bytes, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        load_picture(content, 32, 50_000_000)
    assert caught.value.reason == reason
    assert caught.value.remedy


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(BadRow) as caught:
            load_picture(str(path))
        assert caught.value.reason == "missing image"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_no_cut_of_a_file_raises_anything_else(cut: int) -> None:
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP"):
        content = _file((33, 21), kind)
        spoilt = bytearray(content)
        spoilt[len(content) * cut // 60] ^= 0xFF
        for data in (content[: len(content) * cut // 60], bytes(spoilt)):
            with contextlib.suppress(BadRow):
                load_picture(data, 8)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "JPEG"}.get(mode, "PNG")
    image = load_picture(_file((9, 7), kind, mode), 4).image
    assert to_rgb(image).mode == "RGB"


def test_transparent_pixels_are_white() -> None:
    assert np.asarray(to_rgb(Image.new("RGBA", (2, 2), (10, 20, 30, 0)))).min() == 255


def test_builtin_shapes_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for row in builtin.rows("shapes-test"):
        digest.update(row["image"] + "|".join(row["captions"]).encode())
    assert digest.hexdigest()[:16] == "72ea20038cbcd596"
    train = {tuple(row["captions"][0].split()) for row in builtin.rows("shapes-train")}
    test = list(builtin.rows("shapes-test"))
    assert len({row["image"] for row in test}) == len(test) == 96
    assert not any(tuple(row["captions"][0].split()) in train for row in test)
