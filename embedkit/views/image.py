"""Views of images: random crops and colour changes for training, rendered late, in worker threads.

A method makes an `ImageInput` for each view of a row: the decoded picture, what is to be done with it, and a seed. Its
pixels are computed when the view is prepared for the model, whose size is known then. What is drawn is a pure function
of the seed, made of raw generator output, so that it stays the same with every version of NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from embedkit.config.settings import Positive, Share, check
from embedkit.data.images.pictures import Picture, to_rgb
from embedkit.errors import RecipeError, nearest
from embedkit.system.workers import OF_THREAD

if TYPE_CHECKING:
    from embedkit.models.inputs.images import ImageInputs
    from embedkit.models.inputs.preprocess import Preprocess
    from embedkit.models.inputs.shapes import ShapedImages
    from embedkit.views.mixing import Mix

_DRAWS = 64  # numbers drawn for one view; a crop takes 4 for each of at most 10 tries, the rest fewer than 16
_BICUBIC = 3  # Pillow's number
Area = Annotated[float, Field(gt=0, le=1)]
Hue = Annotated[float, Field(ge=0, le=0.5)]
_FROM_LIST = Field(strict=False)  # what a recipe has as a list


@dataclass(frozen=True)
class Transform:
    """Random augmentation of a training image.

    Attributes
    ----------
    crop : (float, float) or None
        Range of the share of the image's area that a random crop covers; None leaves the framing to the model's
        preprocessing.
    ratio : (float, float)
        Width over height of a crop, before it is resized to the model's size; where each image keeps its own shape
        (``preprocess.patch``), that times width over height of the image.
    flip : float
        Probability of mirroring the image left to right.
    jitter : (float, float, float, float)
        Strengths of random brightness, contrast, saturation and hue; factors are drawn from 1 - s to 1 + s, the hue's
        shift from -s to s of the colour circle.
    jitter_rate, grey, blur : float
        Probabilities of changing the colours, of making the image grey, and of blurring it (Gaussian, radius 0.1 to 2
        pixels).
    solarise : float
        Probability of turning every channel value of 128 and more into 255 less it (Grill et al. 2020, appendix B).
    saliency : float
        Probability of keeping only what stands out: pixels are multiplied by the spectral residual of the image (Hou
        and Zhang 2007), from 0 to 1.

    Examples
    --------
    >>> from PIL import Image
    >>> image = Image.new("RGB", (64, 48), "red")
    >>> Transform.of({"name": "simclr", "blur": 0.0})(image, size=(32, 32), seed=(0, 1)).size
    (32, 32)
    >>> Transform.of("simclr").margin  # decode twice as large as the model's image
    2.0
    """

    crop: Annotated[tuple[Area, Area], _FROM_LIST] | None = (0.9, 1.0)
    ratio: Annotated[tuple[Positive, Positive], _FROM_LIST] = (3 / 4, 4 / 3)
    flip: Share = 0.0
    jitter: Annotated[tuple[Share, Share, Share, Hue], _FROM_LIST] = (0.0, 0.0, 0.0, 0.0)
    jitter_rate: Share = 0.0
    grey: Share = 0.0
    blur: Share = 0.0
    solarise: Share = 0.0
    saliency: Share = 0.0

    @classmethod
    def of(cls, config: str | Mapping[str, Any] | None, where: str = "method.transform") -> Transform | None:
        """The transform of a name in `TRANSFORMS`, or of settings (``name`` says which ones they change).

        Raises
        ------
        RecipeError
            Unknown name or setting, or a value out of bounds.
        """
        if config is None or config == "none":
            return None
        if not isinstance(config, str | Mapping):
            raise RecipeError(f"{config!r} is no transform", where=where, remedy=nearest(str(config), TRANSFORMS))
        settings = {"name": config} if isinstance(config, str) else dict(config)
        name = settings.pop("name", "clip")
        if not isinstance(name, str) or name not in TRANSFORMS:
            raise RecipeError(f"unknown transform {name!r}", where=where, remedy=nearest(str(name), TRANSFORMS))
        transform = replace(TRANSFORMS[name], **check(cls, settings, where, ["name"]))
        for key, pair in (("crop", transform.crop), ("ratio", transform.ratio)):
            if pair is not None and pair[0] > pair[1]:
                raise RecipeError(f"{key} is {pair!r}", where=f"{where}.{key}", remedy="give the smaller number first")
        return transform

    @property
    def margin(self) -> float:
        """How many times larger than the model's image a picture should be decoded, so that crops stay sharp.

        At most 2: for the smallest crops of strong transforms a little sharpness is given up for memory.
        """
        return 1.0 if self.crop is None else min(2.0, self.crop[0] ** -0.5)

    def box(
        self, sides: tuple[int, int], seed: tuple[int, int], own: bool = False
    ) -> tuple[int, int, int, int] | None:  # fmt: skip
        """The crop (left, top, right, bottom) of a picture of these sides (width, height); None where none is cut.

        With `own`, `ratio` is in units of the picture's own.
        """
        unit = sides[0] / sides[1] if own else 1.0
        low, high = self.ratio
        return None if self.crop is None else _crop(sides, self.crop, (low * unit, high * unit), _uniform(seed))

    def mirrors(self, seed: tuple[int, int]) -> bool:
        """Whether the image is mirrored."""
        return next(_uniform(seed, 1)) < self.flip

    def __call__(self, image: Any, size: tuple[int, int], seed: tuple[int, int], own: bool = False) -> Any:
        """A PIL image in RGB of `size` (height, width), of the old size where nothing is cropped; `own` as in `box`."""
        image = to_rgb(image)
        box = self.box(image.size, seed, own)
        if box is not None:
            image = image.resize((size[1], size[0]), _BICUBIC, box=box, reducing_gap=2.0)
        draws = _uniform(seed, 1)
        if next(draws) < self.flip:
            image = image.transpose(0)  # left to right
        if next(draws) < self.jitter_rate:
            image = _jitter(image, self.jitter, draws)
        draws = _uniform(seed, 2)
        if next(draws) < self.grey:
            image = image.convert("L").convert("RGB")
        if next(draws) < self.blur:
            from PIL import ImageFilter

            image = image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * next(draws)))
        draws = _uniform(seed, 3)
        if next(draws) < self.solarise:
            from PIL import ImageOps

            image = ImageOps.solarize(image, 128)
        if next(draws) < self.saliency:
            image = salient(image)
        return image


TRANSFORMS: dict[str, Transform] = {
    "clip": Transform(),
    "simclr": Transform((0.08, 1.0), flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), jitter_rate=0.8, grey=0.2, blur=0.5),
    "moco": Transform((0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_rate=0.8, grey=0.2, blur=0.5),
    "weak": Transform((0.5, 1.0), flip=0.5),
    "small": Transform((0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_rate=0.8, grey=0.2),
    "strong": Transform((0.08, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_rate=0.8, grey=0.2, blur=0.5),
    "byol": Transform((0.08, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.2, 0.1), jitter_rate=0.8, grey=0.2, blur=1.0),
    "byol-second": Transform(
        (0.08, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.2, 0.1), jitter_rate=0.8, grey=0.2, blur=0.1, solarise=0.2
    ),
}
"""Transforms by name. ``clip``: a random crop of nine tenths, as open_clip; ``simclr``: Chen et al. 2020, appendix A,
strength 1; ``moco``: Chen et al. 2020 (MoCo v2); ``weak`` and ``strong``: CLIP-rocket's views; ``small``: for images of
32 pixels or so, which blurring would wipe out; ``byol`` and ``byol-second``: the two views of BYOL and Barlow Twins
(blur and solarisation as in Barlow Twins; colours from memory of the papers)."""


@dataclass(frozen=True)
class ImageInput:
    """One image of a view.

    Attributes
    ----------
    picture : Picture
        The decoded file.
    transform : Transform or None
        Random changes; None for the model's own preprocessing alone.
    seed : (int, int)
        What the changes are drawn from, two numbers below 2**64.
    size : (int, int), optional
        Height and width where they are not the model's.
    partner, mix : ImageInput and Mix, optional
        The image that it is mixed with, and how.
    turn : (int, int), optional
        The quarter, row by row, that is turned, and by how many right angles.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.data.images.pictures import Picture
    >>> picture = Picture(Image.new("RGB", (64, 48), "red"), key=b"1")
    >>> ImageInput(picture, TRANSFORMS["clip"], seed=(0, 1)).render((32, 32)).shape
    (3, 32, 32)
    """

    picture: Picture
    transform: Transform | None = None
    seed: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    partner: ImageInput | None = None
    mix: Mix | None = None
    turn: tuple[int, int] | None = None

    @property
    def key(self) -> bytes:
        """Equal for equal files, whatever the augmentation."""
        return self.picture.key

    def fitted(self, preprocess: Preprocess) -> Preprocess:
        """The preprocessing of the view where it keeps its own shape, that of its crop: see `Preprocess.fitted`."""
        sides: tuple[int, int] = self.picture.image.size
        box = None if self.transform is None else self.transform.box(sides, self.seed, own=True)
        return preprocess.fitted(sides if box is None else (box[2] - box[0], box[3] - box[1]))

    def render(self, size: tuple[int, int], own: bool = False) -> Any:
        """Pixels uint8 (3, H, W) of a crop, or a PIL image; a model's `prepare` takes both. `own` as in `box`."""
        if self.transform is None:
            return self.picture.image
        image = self.transform(self.picture.image, size, self.seed, own)
        if self.transform.crop is None:
            return image
        pixels = np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
        if self.turn is not None:
            half = min(size) // 2
            down, across = (half * (self.turn[0] // 2), half * (self.turn[0] % 2))
            part = pixels[:, down : down + half, across : across + half]
            pixels[:, down : down + half, across : across + half] = np.rot90(part, self.turn[1], (1, 2)).copy()
        return (
            pixels if self.mix is None or self.partner is None else self.mix.pixels(pixels, self.partner.render(size))
        )

    @property
    def is_crop(self) -> bool:
        """Whether a random crop gives its framing, not a model's preprocessing."""
        return self.transform is not None and self.transform.crop is not None

    def frame(self, preprocess: Preprocess | None = None) -> np.ndarray:
        """What the view shows of its picture, float64 (7,): left, top, right and bottom of its frame, 1 where it is
        mirrored, and the picture's width and height. The unit is the picture's longer side. `preprocess` gives the
        frame where there is no random crop.

        Examples
        --------
        >>> from PIL import Image
        >>> from embedkit.data.images.pictures import Picture
        >>> from embedkit.models.inputs.preprocess import Preprocess
        >>> picture = Picture(Image.new("RGB", (80, 40), "red"), key=b"1")
        >>> ImageInput(picture).frame(Preprocess(size=(32, 32))).tolist()  # the square in the middle
        [0.25, 0.0, 0.75, 0.5, 0.0, 1.0, 0.5]
        """
        sides: tuple[int, int] = self.picture.image.size
        cut = None if self.transform is None else self.transform.box(sides, self.seed)
        box: tuple[float, float, float, float] | None = cut
        mirrored = self.transform is not None and self.transform.mirrors(self.seed)
        if box is None:
            assert preprocess is not None, "without a random crop the model's preprocessing gives the frame"
            box = preprocess.frame(sides)
        return np.array([*(edge / max(sides) for edge in box), mirrored, *(side / max(sides) for side in sides)])


def image_inputs(
    pictures: Sequence[Picture], transform: Transform | None, generators: Sequence[np.random.Generator],
    size: tuple[int, int] | None = None,
) -> list[ImageInput]:  # fmt: skip
    """The images of a view, each with a seed drawn from its row's generator.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.data.images.pictures import Picture
    >>> picture = Picture(Image.new("RGB", (64, 48), "red"), key=b"1")
    >>> inputs = image_inputs([picture, picture], TRANSFORMS["simclr"], [np.random.default_rng(row) for row in (0, 1)])
    >>> len(inputs), inputs[0].seed != inputs[1].seed
    (2, True)
    """
    return [
        ImageInput(picture, transform, seed_of(generator), size)
        for picture, generator in zip(pictures, generators, strict=True)
    ]


def seed_of(random: np.random.Generator) -> tuple[int, int]:
    """The seed of one view: the next two raw numbers of its row's generator.

    Examples
    --------
    >>> seed_of(np.random.default_rng(0)) == seed_of(np.random.default_rng(0))
    True
    """
    first, second = random.bit_generator.random_raw(2).tolist()  # type: ignore[attr-defined]
    return first, second


def turn_of(seed: tuple[int, int]) -> tuple[int, int]:
    """A quarter and a number of right angles, each from 0 to 3, drawn from the seed of a view.

    Examples
    --------
    >>> turn_of((0, 1)) == turn_of((0, 1))
    True
    """
    draws = _uniform(seed, 4)
    return int(4 * next(draws)), int(4 * next(draws))


def prepare_images(model: Any, inputs: Sequence[Any], own_shapes: bool = True) -> ImageInputs | ShapedImages:
    """The images of a view as the model's input; an empty list is an empty `ImageInputs`.

    All have one size; but where the model keeps the shape of each image (``preprocess.patch``), the view has no size of
    its own and `own_shapes` is true, they are `ShapedImages`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from PIL import Image
    >>> from embedkit.models.inputs.preprocess import Preprocess
    >>> model = SimpleNamespace(preprocess=Preprocess(size=(32, 32)), image=SimpleNamespace(patches_of=lambda size: 4))
    >>> prepare_images(model, [Image.new("RGB", (64, 48), "red")])
    ImageInputs((1, 3, 32, 32), 4 patches, cpu)
    """
    import torch

    from embedkit.models.inputs.images import ImageInputs, pixels_of

    if own_shapes and inputs and _keeps_shapes(model, inputs):
        return _shaped(model.preprocess, inputs)
    own = {image.size for image in inputs if isinstance(image, ImageInput)} - {None, model.preprocess.size}
    preprocess = replace(model.preprocess, size=own.pop(), edge=None) if own else model.preprocess
    size = preprocess.size
    if inputs and all(isinstance(image, ImageInput) and image.is_crop for image in inputs):
        workers = OF_THREAD.get()
        pixels, frame = crops(inputs, size) if workers is None else workers.call(crops, inputs, size, units=len(inputs))
        return ImageInputs(torch.from_numpy(pixels), model.image.patches_of(size), {"frame": frame})
    images = [image.render(size) if isinstance(image, ImageInput) else image for image in inputs]
    frames = [image.frame(preprocess) for image in inputs if isinstance(image, ImageInput)]
    data = {"frame": np.stack(frames)} if frames and len(frames) == len(inputs) else {}
    return ImageInputs(pixels_of(images, preprocess), model.image.patches_of(size), data)


def crops(inputs: Sequence[ImageInput], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 3, H, W) of random crops and what each shows, float64 (N, 7), see `ImageInput.frame`.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.data.images.pictures import Picture
    >>> picture = Picture(Image.new("RGB", (64, 48), "red"), key=b"1")
    >>> pixels, frames = crops([ImageInput(picture, TRANSFORMS["simclr"])], (32, 32))
    >>> pixels.shape, frames.shape
    ((1, 3, 32, 32), (1, 7))
    """
    views = [(image.render(size), image.frame()) for image in inputs]
    return np.stack([pixels for pixels, _ in views]), np.stack([frame for _, frame in views])


def shaped_crops(inputs: Sequence[ImageInput], preprocess: Preprocess) -> list[np.ndarray]:
    """Pixels uint8 (3, H, W) of random crops, each in its own shape, see `ImageInput.fitted`.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.data.images.pictures import Picture
    >>> from embedkit.models.inputs.preprocess import Preprocess
    >>> picture = Picture(Image.new("RGB", (90, 20), "red"), key=b"1")
    >>> preprocess = Preprocess(size=(32, 32), resize="squash", patch=8)
    >>> [view.shape for view in shaped_crops([ImageInput(picture, TRANSFORMS["clip"])], preprocess)]
    [(3, 16, 64)]
    """
    return [image.render(image.fitted(preprocess).size, own=True) for image in inputs]


def _keeps_shapes(model: Any, inputs: Sequence[Any]) -> bool:
    """Whether images of a view keep their shapes: not where batch normalisation needs all of them in one pass."""
    sized = any(isinstance(image, ImageInput) and image.size is not None for image in inputs)
    return model.preprocess.patch is not None and not sized and not model.image.mixes_images


def _shaped(preprocess: Preprocess, inputs: Sequence[Any]) -> ShapedImages:
    import torch

    from embedkit.models.inputs.images import own_pixels, pixels_of
    from embedkit.models.inputs.shapes import ShapedImages

    side = preprocess.patch or 1
    if all(isinstance(image, ImageInput) and image.is_crop for image in inputs):
        workers, pair = OF_THREAD.get(), (inputs, preprocess)
        views = shaped_crops(*pair) if workers is None else workers.call(shaped_crops, *pair, units=len(inputs))
        return ShapedImages.of([torch.from_numpy(view) for view in views], side)
    pixels = []
    for image in inputs:
        if isinstance(image, ImageInput):
            own = image.fitted(preprocess)
            pixels.append(pixels_of([image.render(own.size, own=True)], own)[0])
        else:
            pixels += own_pixels([image], preprocess)
    return ShapedImages.of(pixels, side)


def salient(image: Any) -> Any:
    """An RGB image times its spectral residual (Hou and Zhang 2007), from 0 where nothing stands out to 1.

    Examples
    --------
    >>> from PIL import Image
    >>> picture = Image.new("RGB", (64, 64), "white")
    >>> picture.paste("red", (40, 40, 48, 48))
    >>> salient(picture).size
    (64, 64)
    """
    from PIL import Image, ImageFilter

    small = np.asarray(image.convert("L").resize((64, 64), _BICUBIC), dtype=np.float64)
    spectrum = np.fft.fft2(small)
    height = np.log(np.abs(spectrum) + 1e-9)
    around = np.pad(height, 1, mode="wrap")
    mean = sum(around[i : i + 64, j : j + 64] for i in range(3) for j in range(3)) / 9
    residual = np.exp(height - mean + 1j * np.angle(spectrum))
    energy = np.abs(np.fft.ifft2(residual)) ** 2
    most = float(energy.max())
    weights = Image.fromarray(np.uint8(np.round(255 * energy / most if most > 0 else 0 * energy)))
    weights = weights.filter(ImageFilter.GaussianBlur(2.5)).resize(image.size, _BICUBIC)
    strength = np.asarray(weights, dtype=np.float64)
    strength = strength / max(float(strength.max()), 1.0)
    return Image.fromarray(np.uint8(np.round(np.asarray(image) * strength[:, :, None])))


def _uniform(seed: tuple[int, int], stream: int = 0) -> Iterator[float]:
    return iter(_draws(seed, stream))


@lru_cache(maxsize=64)  # pixels and frame of an image ask for the same ones
def _draws(seed: tuple[int, int], stream: int) -> list[float]:
    raw = np.random.Philox(key=seed, counter=[0, 0, 0, stream]).random_raw(_DRAWS)
    return ((raw >> np.uint64(11)) * 2.0**-53).tolist()  # type: ignore[no-any-return]


def _crop(
    sides: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], draws: Iterator[float]
) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of a drawn area and shape inside (width, height); the middle if none fits."""
    wide, high = sides
    for _ in range(10):
        size = wide * high * (area[0] + (area[1] - area[0]) * next(draws))
        low, top = math.log(ratio[0]), math.log(ratio[1])
        shape = math.exp(low + (top - low) * next(draws))
        width, height = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
        across, down = next(draws), next(draws)
        if 0 < width <= wide and 0 < height <= high:
            left, upper = int(across * (wide - width + 1)), int(down * (high - height + 1))
            return left, upper, left + width, upper + height
    shape = min(max(wide / high, ratio[0]), ratio[1])
    width, height = min(wide, max(1, round(high * shape))), min(high, max(1, round(wide / shape)))
    left, upper = (wide - width) // 2, (high - height) // 2
    return left, upper, left + width, upper + height


def _jitter(image: Any, strength: tuple[float, float, float, float], draws: Iterator[float]) -> Any:
    from PIL import Image, ImageEnhance

    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind, amount in zip(kinds, strength[:3], strict=True):
        factor = 1 + amount * (2 * next(draws) - 1)
        if amount:
            image = kind(image).enhance(factor)
    shift = round(255 * strength[3] * (2 * next(draws) - 1))
    if shift:
        hue, saturation, value = image.convert("HSV").split()
        rotation = Image.fromarray(np.asarray(hue) + np.uint8(shift % 256))
        image = Image.merge("HSV", (rotation, saturation, value)).convert("RGB")
    return image
