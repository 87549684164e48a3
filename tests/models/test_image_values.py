"""Images as users hold them: arrays of every shape and range, EXIF, files named as texts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embedkit.errors import DataError
from embedkit.models.inputs.images import ImageInputs, names_image, pixels_of
from embedkit.models.inputs.preprocess import Preprocess, open_image
from tests.helpers import dual

pytest.importorskip("open_clip")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def model() -> Any:
    return dual.dual("bert", "clip")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def test_one_photograph_one_vector_whatever_holds_it(model: Any, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture.save(path)
    pixels = np.asarray(picture)
    wanted = model.encode([picture])[0]
    forms = {
        "array": pixels, "channels first": pixels.transpose(2, 0, 1), "tensor": torch.from_numpy(pixels.copy()),
        "tensor channels first": torch.from_numpy(pixels.copy()).permute(2, 0, 1), "floats": pixels / 255.0,
        "half": torch.from_numpy(pixels / 255.0).float().permute(2, 0, 1), "path": path, "bytes": path.read_bytes(),
        "cell": {"bytes": path.read_bytes(), "path": None}, "named cell": {"bytes": None, "path": str(path)},
    }  # fmt: skip
    for name, form in forms.items():
        np.testing.assert_allclose(model.encode([form])[0], wanted, atol=1e-6, err_msg=name)
    for form in (picture, pixels, path, path.read_bytes()):  # one alone
        assert model.encode(form).shape == (model.dim,)
    batch = np.stack([pixels, pixels])
    np.testing.assert_allclose(model.encode(batch), [wanted, wanted], atol=1e-6)


def test_transparent_pixels_of_an_array(model: Any, picture: Image.Image) -> None:
    clear = picture.convert("RGBA")
    np.testing.assert_array_equal(model.encode([np.asarray(clear)]), model.encode([clear]))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.randn(3, 32, 32), "pixels are float32 from -.*the model normalises by itself"),
        (np.full((40, 50, 3), 255.0), "pixels are float64 from 255 to 255; give uint8"),
        (np.zeros((40, 50, 3), dtype=np.int16), "pixels are int16"),
        (np.zeros((40, 50, 3), dtype=np.int64), "pixels are int64"),
        (np.zeros((40, 50, 3), dtype=bool), "pixels are bool"),
        (torch.full((3, 32, 32), float("nan")), "pixels are float32 NaN"),
        (np.zeros((40, 50, 2), dtype=np.uint8), r"shape \(40, 50, 2\) are no colour image"),
        (np.zeros((3, 40, 3), dtype=np.uint8), "which axis holds the colours"),
        (np.zeros((5, 40, 50), dtype=np.float32), "no colour image"),
    ],
)
def test_pixels_that_mean_nothing_are_refused_in_one_line(model: Any, pixels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        model.encode([pixels])
    assert "inputs[0]" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grey_array_is_refused(model: Any) -> None:
    with pytest.raises(DataError, match="neither texts nor images"):
        model.encode(np.zeros((40, 50), dtype=np.uint8))
    with pytest.raises(DataError, match="no colour image"):
        model.encode([np.zeros((40, 50), dtype=np.uint8)])


def test_the_preprocess_output_of_open_clip_is_refused(model: Any, picture: Image.Image) -> None:
    import open_clip

    transform = open_clip.image_transform(32, is_train=False)
    with pytest.raises(DataError, match="normalises by itself"):
        model.encode([transform(picture)])


def test_pixels_of_the_models_size_are_taken_as_they_are() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, *SIZE), dtype=np.uint8)
    preprocess = Preprocess(size=SIZE, resize="longest", interpolation="box")
    np.testing.assert_array_equal(pixels_of([pixels], preprocess)[0], pixels)
    floats = torch.from_numpy(pixels / 255.0)
    assert torch.equal(pixels_of([floats], preprocess)[0], floats)


def test_an_array_that_cannot_be_written_is_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    pixels = np.zeros((3, *SIZE), dtype=np.uint8)
    pixels.flags.writeable = False
    assert pixels_of([pixels], Preprocess(size=SIZE)).shape == (1, 3, *SIZE)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_an_open_image_as_it_turns_a_file(turn: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    turned = open_image(opened)
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(open_image(buffer.getvalue())))
    assert turned.size == (picture.size if turn < 5 else picture.size[::-1])
    np.testing.assert_array_equal(np.asarray(open_image(turned)), np.asarray(turned))  # and not a second time


def test_a_text_that_names_an_image_file_is_no_caption(model: Any, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "Photo.JPG"
    picture.save(path, "JPEG")
    with pytest.raises(
        DataError, match=r"inputs\[1\]: the text .*Photo.JPG' is the path of an image"
    ):
        model.encode(["a cat", str(path)])
    assert model.encode(["a cat", path]).shape == (2, model.dim)
    assert model.encode(["nothing.jpg"]).shape == (1, model.dim)  # a file that is not there is a text


@pytest.mark.parametrize("text", ["a cat", "", "x" * 5000 + ".jpg", "\0.jpg", "~nobody-here/x.jpg", "no/such/file.png"])
def test_texts_that_name_no_image(text: str) -> None:
    assert not names_image(text)


def test_image_inputs_select_concat_and_move() -> None:
    pixels = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    inputs = ImageInputs(pixels, 7, {"seeds": np.arange(4, dtype=np.uint64)})
    assert inputs.costs.tolist() == [7] * 4
    part = inputs.select([3, 0, 3])
    assert torch.equal(part.pixels, pixels[[3, 0, 3]])
    assert part.data["seeds"].tolist() == [3, 0, 3]
    assert torch.equal(inputs.select(slice(1, 3)).pixels, pixels[1:3])
    joined = ImageInputs.concat([part, inputs.replace(other=np.ones(4))])
    assert len(joined) == 7
    assert set(joined.data) == {"seeds"}  # what only some have is left out
    assert joined.to("cpu").patches == 7
    assert "7 patches" in repr(joined)
