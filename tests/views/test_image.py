"""Image views: drawn from the seed alone, in bounds, each change does what its name says."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedkit.data.images.pictures import Picture, load_picture
from embedkit.errors import RecipeError
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.views.image import TRANSFORMS, ImageInput, Transform, _crop, _uniform, prepare_images, seed_of


def _picture(wide: int = 50, high: int = 44) -> Picture:
    across = np.linspace(0, 255, wide)[None, :].repeat(high, 0)
    down = np.linspace(0, 255, high)[:, None].repeat(wide, 1)
    pixels = np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
    handle = io.BytesIO()
    Image.fromarray(pixels).save(handle, "PNG")
    return load_picture(handle.getvalue())


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_pixels_depend_on_the_seed_alone(name: str) -> None:
    picture, transform = _picture(), TRANSFORMS[name]
    made = [ImageInput(picture, transform, (1, seed)).render((24, 32)) for seed in (2, 2, 3, 4, 5, 6)]
    assert made[0].shape == (3, 24, 32)
    assert made[0].dtype == np.uint8
    assert np.array_equal(made[0], made[1])
    assert any(not np.array_equal(made[0], other) for other in made[2:])
    assert ImageInput(picture, transform, (1, 2)).key == picture.key


def test_numbers_are_the_same_with_every_numpy() -> None:
    first = [round(number, 6) for number, _ in zip(_uniform((5, 6)), range(3), strict=False)]
    assert first == [0.155724, 0.955484, 0.559949]


def test_a_crop_keeps_its_own_shape() -> None:
    """With `preprocess.patch` crops have the picture's proportions, more or less; a size of the view's own holds."""
    tower = SimpleNamespace(patches_of=lambda size: 1, mixes_images=False)
    model: Any = SimpleNamespace(preprocess=Preprocess(size=(32, 32), resize="squash", patch=8), image=tower)
    pictures = [_picture(200, 50), _picture(40, 44), _picture(3, 9)]
    for name in ("clip", "simclr"):
        views = [ImageInput(picture, TRANSFORMS[name], (1, seed)) for seed in range(20) for picture in pictures]
        inputs: Any = prepare_images(model, views)
        assert inputs.pixels.shape[1:] == (3, 8, 8) and inputs.costs.max() <= 16
        shapes = inputs.shapes.reshape(20, 3, 2)
        assert (shapes[:, 0, 1] > shapes[:, 0, 0]).all() and (shapes[:, 2, 0] > shapes[:, 2, 1]).all()
        box = TRANSFORMS[name].box((200, 50), (1, 0), own=True)
        assert box is not None and 3 / 4 - 0.1 < (box[2] - box[0]) / (box[3] - box[1]) / 4 < 4 / 3 + 0.1
    assert prepare_images(model, views, own_shapes=False).pixels.shape == (60, 3, 32, 32)
    small = [replace(view, size=(16, 16)) for view in views]
    assert prepare_images(model, small).pixels.shape == (60, 3, 16, 16)
    tower.mixes_images = True
    assert prepare_images(model, views).pixels.shape == (60, 3, 32, 32)


def test_a_crop_that_makes_an_image_smaller_smooths_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    handle = io.BytesIO()
    Image.fromarray(noise).save(handle, "PNG")
    whole = Transform(crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    pixels = ImageInput(load_picture(handle.getvalue()), whole, (1, 2)).render((56, 56))
    assert pixels.std() < noise.std() / 6  # single pixels, one of eight, have two thirds of it and more


def test_rows_have_seeds_of_their_own() -> None:
    random = np.random.Generator(np.random.Philox(key=[1, 2], counter=[3, 4, 0, 0]))
    again = np.random.Generator(np.random.Philox(key=[1, 2], counter=[3, 4, 0, 0]))
    seeds = [seed_of(random), seed_of(random)]
    assert seeds == [seed_of(again), seed_of(again)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("sides", [(60, 40), (40, 60), (1, 90), (90, 1), (1, 1), (300, 301)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.9, 1.0), (0.5, 0.5)])
def test_crops_lie_inside_and_keep_the_area(sides: tuple[int, int], area: tuple[float, float]) -> None:
    for number in range(50):
        left, upper, right, lower = _crop(sides, area, (3 / 4, 4 / 3), _uniform((number, 0)))
        assert 0 <= left < right <= sides[0]
        assert 0 <= upper < lower <= sides[1]
        if sides == (300, 301):
            share = (right - left) * (lower - upper) / (300 * 301)
            assert area[0] - 0.01 <= share <= area[1] + 0.01
            assert 0.74 < (right - left) / (lower - upper) < 1.35


def _only(**settings: Any) -> Any:
    """The picture with one change only, as an array (H, W, 3)."""
    return np.asarray(Transform(crop=None, **settings)(_picture().image, (1, 1), (3, 4)), dtype=float)


def test_each_change_does_what_it_says() -> None:
    plain = _only()
    assert np.array_equal(plain, np.asarray(_picture().image))
    assert np.array_equal(_only(flip=1.0), plain[:, ::-1])
    grey = _only(grey=1.0)
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.abs(np.diff(_only(blur=1.0)[:, 25, 1])).max() <= np.abs(np.diff(plain[:, 25, 1])).max() + 1
    bright = _only(jitter=(0.8, 0, 0, 0), jitter_rate=1.0)
    factor = bright.mean() / plain.mean()
    assert 0.2 <= factor <= 1.8 and abs(factor - 1) > 1e-3
    turned = _only(jitter=(0, 0, 0, 0.5), jitter_rate=1.0)
    assert np.abs(turned.max(axis=2) - plain.max(axis=2)).max() <= 2  # the hue turns, the value stays
    assert np.abs(turned - plain).mean() > 5
    assert np.array_equal(_only(jitter=(0, 0, 0, 0), jitter_rate=1.0), plain)


def test_rates_are_kept() -> None:
    picture = _picture(8, 8)
    flipped = Transform(crop=None, flip=0.3)
    plain = np.asarray(picture.image)
    count = sum(not np.array_equal(np.asarray(flipped(picture.image, (1, 1), (n, 0))), plain) for n in range(600))
    assert 130 < count < 230


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("simclear", "did you mean 'simclr'"),
        ({"crops": [0.1, 1.0]}, "did you mean 'crop'"),
        ({"crop": [0.9, 0.1]}, "crop is"),
        ({"crop": [0.0, 1.0]}, r"method\.transform\.crop\.0: crop\.0 is 0\.0; it must be greater than 0"),
        ({"crop": 0.5}, "it must be a list"),
        ({"flip": 2}, "flip is 2"),
        ({"jitter": [0.1]}, r"jitter is \[0\.1\]; it must have more entries"),
        ({"jitter": [0.1, 0.1, 0.1, 0.1, 0.1]}, "it must have 4 entries at most"),
        ({"jitter": [0.1, 0.1, 0.1, 0.9]}, r"jitter\.3 is 0\.9; it must be at most 0\.5"),
        ({"ratio": [1, float("inf")]}, "finite"),
        ({"ratio": None}, "ratio is None"),
        ({"name": ["clip"]}, "unknown transform"),
    ],
)
def test_wrong_settings_are_named(config: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Transform.of(config)


def test_names_settings_and_none() -> None:
    assert Transform.of(None) is Transform.of("none") is None
    assert Transform.of({"name": "simclr", "blur": 0.0}) == Transform(
        (0.08, 1.0), flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), jitter_rate=0.8, grey=0.2
    )
    assert ImageInput(_picture()).render((8, 8)).size == (50, 44)  # left to the model's preprocessing
    assert TRANSFORMS["clip"].margin == pytest.approx(0.9**-0.5)
    assert TRANSFORMS["simclr"].margin == 2.0
