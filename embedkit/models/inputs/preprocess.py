"""From an image to the pixels that a model was made for: the numbers of open_clip or of transformers, by settings.

Only Pillow and numpy are used. Normalisation is not done here but on the device, in the model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedkit.data.images.pictures import eight_bits, load_picture
from embedkit.data.schema.rows import BadRow
from embedkit.errors import DataError, ModelError, nearest

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's own numbers
Three = tuple[float, float, float]
_OPTIONAL = ("patch", "max_patches")  # settings that older folders do not have


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes pixels; stored with a model.

    Attributes
    ----------
    size : (int, int)
        Height and width of the result.
    resize : str
        "shortest": the shorter side becomes `edge`, the rest beyond `size` is cut off. "longest": the whole image fits
        into `size`, the rest is filled. "squash": both sides are set, whatever the shape. "none": no resizing.
    edge : int, optional
        Length of the shorter side before the cut; what `size` needs when None.
    interpolation : str
        A key of `FILTERS`.
    mean, std : three floats
        Normalisation of values between 0 and 1, by channel.
    fill : int
        Value of the pixels outside of the image, 0 to 255.
    crop : str
        An odd margin is split by rounding half to even ("round", torchvision) or down ("truncate", transformers).
    convert : str
        The image becomes RGB "after" resizing (open_clip) or "before" (transformers); they differ for palettes.
    alpha : str
        Transparent pixels are put on "white", or the channel is left out ("drop", both libraries).
    patch : int, optional
        Each image has a shape of its own, near its proportions, of as many patches of this side as `size` has at most
        (NaFlex, see `own_shape`). None for one shape, `size`, for all.
    max_patches : int, optional
        With `patch`, the most patches of an image where they are not those of `size`.

    Examples
    --------
    >>> pixels = Preprocess(size=(32, 32))(np.zeros((40, 60, 3), dtype=np.uint8))
    >>> pixels.shape, pixels.dtype
    ((3, 32, 32), dtype('uint8'))
    """

    size: tuple[int, int] = (224, 224)
    resize: Literal["shortest", "longest", "squash", "none"] = "shortest"
    edge: int | None = None
    interpolation: str = "bicubic"
    mean: Three = CLIP_MEAN
    std: Three = CLIP_STD
    fill: int = 0
    crop: Literal["round", "truncate"] = "round"
    convert: Literal["after", "before"] = "after"
    alpha: Literal["white", "drop"] = "white"
    patch: int | None = None
    max_patches: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "resize": ("shortest", "longest", "squash", "none"), "interpolation": tuple(FILTERS),
            "crop": ("round", "truncate"), "convert": ("after", "before"), "alpha": ("white", "drop"),
        }  # fmt: skip
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise ModelError(
                    f"unknown {name} {getattr(self, name)!r}", where="preprocess", remedy=nearest(str(name), values)
                )
        if self.patch is not None and not (isinstance(self.patch, int) and 1 <= self.patch <= min(self.size)):
            raise ModelError(f"patch is {self.patch!r}", where="preprocess", remedy=f"give 1 to {min(self.size)}")
        if self.max_patches is not None and (self.patch is None or self.max_patches < 1):
            what = "max_patches without patch" if self.patch is None else f"max_patches is {self.max_patches}"
            raise ModelError(what, where="preprocess", remedy="leave it out, or give both, above 0")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Preprocess:
        """The preprocessing of plain JSON values.

        Raises
        ------
        ModelError
            For an unknown key or value.
        """
        names = {field.name for field in fields(cls)}
        for key in settings:
            if key not in names:
                raise ModelError(f"unknown setting {key!r}", where="preprocess", remedy=nearest(key, names))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: values[key] for key in values if key not in _OPTIONAL or values[key] is not None}

    def fitted(self, sides: tuple[int, int]) -> Preprocess:
        """The preprocessing of a picture of these sides (width, height): that of its own shape with `patch`, else this.

        Examples
        --------
        >>> Preprocess(size=(64, 64), resize="squash", patch=16).fitted((300, 100)).size
        (32, 96)
        """
        if self.patch is None:
            return self
        most = self.max_patches or self.size[0] * self.size[1] // self.patch**2
        own = own_shape(sides[1], sides[0], self.patch, most)
        return replace(self, size=own, edge=None, patch=None, max_patches=None)

    def __call__(self, image: Any) -> np.ndarray:
        """Pixels uint8 (3, H, W) of an image, as `open_image` takes it."""
        picture = open_image(image)
        if self.convert == "before" or self.alpha == "white":
            picture = rgb(picture, self.alpha)
        picture = self._cut(self._resized(picture))
        pixels = np.asarray(rgb(picture, "drop"), dtype=np.uint8)  # (H, W, 3)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def frame(self, sides: tuple[int, int]) -> tuple[float, float, float, float]:
        """What is seen of a picture of these sides (width, height), in its pixels: left, top, right, bottom.

        Beyond the picture where it is filled up; odd margins are taken as if they were halved.

        Examples
        --------
        >>> Preprocess(size=(32, 32)).frame((80, 40)), Preprocess(size=(32, 32), resize="longest").frame((80, 40))
        ((20.0, 0.0, 60.0, 40.0), (0.0, -20.0, 80.0, 60.0))
        """
        wide, high = sides
        height, width = self.size
        target = self._target(wide, high)
        across, down = wide * width / target[0] / 2, high * height / target[1] / 2
        return wide / 2 - across, high / 2 - down, wide / 2 + across, high / 2 + down

    def _resized(self, picture: Any) -> Any:
        if self.resize == "none":
            return picture
        return picture.resize(self._target(*picture.size), FILTERS[self.interpolation])

    def _target(self, wide: int, high: int) -> tuple[int, int]:
        """Width and height that a picture is brought to before the rest is cut off or filled."""
        height, width = self.size
        if self.resize == "none":
            target = (wide, high)
        elif self.resize == "squash":
            target = (width, height)
        elif self.resize == "longest":
            ratio = max(high / height, wide / width)
            target = (round(wide / ratio), round(high / ratio))
        elif height == width or self.edge is not None:
            edge = self.edge or height
            short, long = sorted((wide, high))
            other = int(edge * long / short)
            target = (edge, other) if wide <= high else (other, edge)
        else:
            ratio = min(high / height, wide / width)
            target = (round(wide / ratio), round(high / ratio))
        return max(1, target[0]), max(1, target[1])

    def _cut(self, picture: Any) -> Any:
        """The middle of the picture; what lies outside of it is filled."""
        from PIL import Image

        height, width = self.size
        if picture.size == (width, height):
            return picture
        wide, high = picture.size
        if wide < width or high < height:
            ground = Image.new("RGB", (max(wide, width), max(high, height)), (self.fill,) * 3)
            ground.paste(rgb(picture, "drop"), (max(0, width - wide) // 2, max(0, height - high) // 2))
            picture = ground
            wide, high = picture.size
        split = math.floor if self.crop == "truncate" else round
        left, top = split((wide - width) / 2), split((high - height) / 2)
        return picture.crop((left, top, left + width, top + height))


def own_shape(high: int, wide: int, patch: int, most: int) -> tuple[int, int]:
    """Height and width, in whole patches, of the largest picture of these proportions that has `most` patches or fewer.

    Sides are rounded up to whole patches (Tschannen et al. 2025, SigLIP 2, section 2.4.2); the factor is found by
    halving an interval to 1e-5, as transformers does, whose shape it is.

    Examples
    --------
    >>> own_shape(100, 100, patch=16, most=9), own_shape(40, 400, patch=16, most=9)
    ((48, 48), (16, 144))
    """

    def patches(factor: float) -> tuple[int, int]:
        return max(1, math.ceil(high * factor / patch)), max(1, math.ceil(wide * factor / patch))

    low, top = 1e-6, 100.0
    while top - low >= 1e-5:
        middle = (low + top) / 2
        rows, columns = patches(middle)
        low, top = (middle, top) if rows * columns <= most else (low, middle)
    rows, columns = patches(low)
    return rows * patch, columns * patch


def open_image(image: Any) -> Any:
    """The PIL image of a PIL image, the bytes or the path of a file, or pixels uint8 (H, W, 3).

    Raises
    ------
    DataError
        When it is none of these, or cannot be decoded.

    Examples
    --------
    >>> open_image(np.zeros((40, 60, 3), dtype=np.uint8)).size
    (60, 40)
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return upright(eight_bits(image), image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
            raise DataError(f"pixels are {image.dtype} {image.shape}, not uint8 (H, W, 3)")
        return Image.fromarray(image)
    if isinstance(image, dict) and {"bytes", "path"} & image.keys():  # a cell of a datasets image column
        image = image.get("bytes") or Path(str(image.get("path")))
    source: bytes | str
    if isinstance(image, bytes):
        name, source = "image", image
    elif isinstance(image, str | Path):
        name = str(image)
        source = str(Path(image).expanduser())
    else:
        raise DataError(
            f"an image is {type(image).__name__}", remedy="give a PIL image, bytes, a path, or uint8 (H, W, 3)"
        )
    try:
        return load_picture(source).image
    except BadRow as bad:
        raise DataError(f"is no image that can be read ({bad.what})", where=name, remedy="fix the file") from bad


def upright(picture: Any, source: Any) -> Any:
    """`picture` turned as the EXIF data of `source` say, as files are: one photograph, one vector.

    Examples
    --------
    >>> from PIL import Image
    >>> picture = Image.new("RGB", (60, 40))
    >>> picture.getexif()[0x0112] = 6  # turn it by a quarter
    >>> upright(picture, picture).size
    (40, 60)
    """
    from PIL import ImageOps

    if source.getexif().get(0x0112, 1) == 1:
        return picture
    picture = picture.copy()
    picture.info.setdefault("exif", source.getexif().tobytes())
    return ImageOps.exif_transpose(picture)


def rgb(picture: Any, alpha: str) -> Any:
    """The picture in RGB; its transparent pixels on white, or without the alpha channel.

    Examples
    --------
    >>> from PIL import Image
    >>> clear = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    >>> rgb(clear, "white").getpixel((0, 0)), rgb(clear, "drop").getpixel((0, 0))
    ((255, 255, 255), (0, 0, 0))
    """
    if alpha == "drop":
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    from embedkit.data.images.pictures import to_rgb

    return to_rgb(picture)
