"""From an image to pixels: every setting against plain Pillow, torchvision's and transformers' numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedkit.errors import DataError, ModelError
from embedkit.models.inputs.images import own_pixels
from embedkit.models.inputs.preprocess import FILTERS, Preprocess, open_image, rgb
from tests.helpers import dual

PICTURES = dual.images(8)


def plain(preprocess: Preprocess, picture: Image.Image) -> np.ndarray:
    return preprocess(picture).transpose(1, 2, 0)


@pytest.mark.parametrize("name", FILTERS)
def test_squash_is_pillows_resize(name: str) -> None:
    preprocess = Preprocess(size=(20, 30), resize="squash", interpolation=name)
    for picture in PICTURES:
        wanted = np.asarray(picture.resize((30, 20), FILTERS[name]))
        np.testing.assert_array_equal(plain(preprocess, picture), wanted)


@pytest.mark.parametrize("size", [16, 32, 75])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_shortest_is_torchvisions_resize_and_center_crop(size: int, interpolation: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    mode = transforms.InterpolationMode(interpolation)
    both = transforms.Compose([transforms.Resize(size, mode), transforms.CenterCrop(size)])
    preprocess = Preprocess(size=(size, size), interpolation=interpolation)
    for picture in PICTURES:
        np.testing.assert_array_equal(plain(preprocess, picture), np.asarray(both(picture)))


@pytest.mark.parametrize(("edge", "size"), [(40, 32), (32, 40), (33, 32)])
def test_an_edge_beside_the_size(edge: int, size: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    both = transforms.Compose(
        [transforms.Resize(edge, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    )
    for picture in PICTURES:
        wanted = np.asarray(both(picture))
        np.testing.assert_array_equal(plain(Preprocess(size=(size, size), edge=edge), picture), wanted)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_longest_shows_the_whole_image_and_fills_the_rest(size: tuple[int, int]) -> None:
    preprocess = Preprocess(size=size, resize="longest", fill=7)
    for picture in PICTURES:
        pixels = plain(preprocess, picture)
        assert pixels.shape == (*size, 3)
        ratio = max(picture.height / size[0], picture.width / size[1])
        wide, high = max(1, round(picture.width / ratio)), max(1, round(picture.height / ratio))
        inside = np.asarray(picture.resize((wide, high), FILTERS["bicubic"]))
        top, left = (size[0] - high) // 2, (size[1] - wide) // 2
        np.testing.assert_array_equal(pixels[top : top + high, left : left + wide], inside)
        outside = np.ones(size, dtype=bool)
        outside[top : top + high, left : left + wide] = False
        assert (pixels[outside] == 7).all()


def test_none_cuts_and_fills_without_resizing() -> None:
    picture = PICTURES[0]
    pixels = plain(Preprocess(size=(10, 10), resize="none"), picture)
    whole = np.asarray(picture)
    top, left = round((picture.height - 10) / 2), round((picture.width - 10) / 2)
    np.testing.assert_array_equal(pixels, whole[top : top + 10, left : left + 10])
    larger = plain(Preprocess(size=(200, 200), resize="none", fill=9), picture)
    assert larger.shape == (200, 200, 3)
    assert (larger[0, 0] == 9).all()


def test_odd_margins_by_either_rule() -> None:
    picture = Image.fromarray(np.arange(13 * 13 * 3, dtype=np.uint8).reshape(13, 13, 3))
    whole = np.asarray(picture)
    rounded = plain(Preprocess(size=(10, 10), resize="none", crop="round"), picture)
    cut = plain(Preprocess(size=(10, 10), resize="none", crop="truncate"), picture)
    np.testing.assert_array_equal(rounded, whole[2:12, 2:12])  # 1.5 rounds to the even 2
    np.testing.assert_array_equal(cut, whole[1:11, 1:11])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16"])
def test_every_mode_gives_three_channels(mode: str) -> None:
    source = PICTURES[0].convert("RGBA") if mode in ("RGBA", "LA") else PICTURES[0]
    picture = Image.new("I;16", (40, 30), 40_000) if mode == "I;16" else source.convert(mode)
    pixels = Preprocess(size=(16, 16))(picture)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(("alpha", "value"), [("white", 255), ("drop", 10)])
def test_transparent_pixels(alpha: Any, value: int) -> None:
    picture = Image.new("RGBA", (16, 16), (10, 10, 10, 0))
    assert (Preprocess(size=(16, 16), alpha=alpha)(picture) == value).all()
    assert rgb(picture, alpha).mode == "RGB"


@pytest.mark.parametrize("convert", ["before", "after"])
def test_a_palette_is_resized_in_the_order_of_its_library(convert: Any) -> None:
    picture = PICTURES[0].quantize(8)
    preprocess = Preprocess(size=(20, 20), resize="squash", convert=convert, alpha="drop")
    first, last = picture.convert("RGB").resize((20, 20), 3), picture.resize((20, 20), 3).convert("RGB")
    turned = first if convert == "before" else last
    np.testing.assert_array_equal(plain(preprocess, picture), np.asarray(turned))


def test_settings_survive_json() -> None:
    preprocess = Preprocess(size=(20, 30), edge=40, mean=(0.1, 0.2, 0.3), resize="longest", fill=3, crop="truncate")
    assert Preprocess.of(preprocess.to_json()) == preprocess
    assert all(isinstance(value, list | str | int | float | None) for value in preprocess.to_json().values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": "longes"}, "unknown resize 'longes'"),
        ({"crop": "middle"}, "unknown crop 'middle'"),
        ({"convert": "never"}, "unknown convert 'never'"),
        ({"alpha": "black"}, "unknown alpha 'black'"),
        ({"patch": 0}, "patch is 0; give 1 to 224"),
        ({"sise": [3, 3]}, "unknown setting 'sise'; did you mean 'size'"),
    ],
)
def test_unknown_settings_and_values_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Preprocess.of(settings)


@pytest.mark.parametrize("shape", [(), (5,), (5, 6), (3,), (0, 6, 3), (5, 6, 2)])
def test_arrays_that_are_no_image_of_a_shape_of_its_own(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="are no colour image"):
        own_pixels([np.zeros(shape, np.uint8)], Preprocess(size=(64, 64), patch=16))


@pytest.mark.parametrize("item", [3, None, ["x"], b"", b"no image", "no/such/file.jpg", {"pixels": 1}])
def test_what_is_no_image(item: Any) -> None:
    with pytest.raises(DataError) as caught:
        open_image(item)
    assert "\n" not in str(caught.value)
