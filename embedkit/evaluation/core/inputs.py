"""What is encoded: texts, and images, vectors and sequences kept as bytes; for a named tower where there are some."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedkit.data.images.pictures import load_picture, to_rgb
from embedkit.data.schema.rows import BadRow
from embedkit.errors import DataError


@dataclass(frozen=True)
class EncodedImage:
    """An image as the bytes of its file; it is decoded when it is encoded, so that a corpus of images stays small.

    Examples
    --------
    >>> from PIL import Image
    >>> Image.new("L", (4, 3)).save("grey.png")
    >>> with open("grey.png", "rb") as file:
    ...     image = EncodedImage(file.read(), "grey.png")
    >>> image.decode().size, image.decode().mode
    ((4, 3), 'RGB')
    """

    content: bytes
    name: str = "image"

    def decode(self) -> Any:
        """The PIL image, in RGB (transparent pixels on white).

        Raises
        ------
        DataError
            The bytes are not an image that Pillow can read.
        """
        try:
            return to_rgb(load_picture(self.content).image)
        except BadRow as bad:
            raise DataError(f"not a readable image: {bad.what}", where=self.name, remedy="fix the file") from bad


@dataclass(frozen=True)
class EncodedVector:
    """A vector, or a sequence of them, as the bytes of its float32 numbers.

    Examples
    --------
    >>> EncodedVector(np.array([0.5, 1.0], np.float32).tobytes(), "a.npy:1").decode().tolist()
    [0.5, 1.0]
    >>> EncodedVector(np.zeros((3, 2), np.float32).tobytes(), "a.npy:1", width=2).decode().shape
    (3, 2)
    """

    content: bytes
    name: str = "vector"
    width: int | None = None
    """Numbers of a step, of a sequence."""

    def decode(self) -> np.ndarray:
        """The vector, float32 (W,), or the sequence, float32 (T, W)."""
        numbers = np.frombuffer(self.content, np.float32)
        return numbers if self.width is None else numbers.reshape(-1, self.width)


@dataclass(frozen=True)
class TowerItem:
    """An input with the name of the tower that reads it, for models with several.

    Examples
    --------
    >>> TowerItem("a dog", "caption").decode()
    Named(tower='caption', value='a dog')
    """

    item: Item
    tower: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return repr(self.item[:60]) if isinstance(self.item, str) else self.item.name

    def decode(self) -> Any:
        """What `MultiEncoder.encode` takes."""
        from embedkit.models.inputs.towers import Named

        return Named(self.tower, self.item if isinstance(self.item, str) else self.item.decode())


Item = str | EncodedImage | EncodedVector | TowerItem


def item_key(item: Item) -> bytes:
    """128-bit key of an input's content; texts and images never share one.

    Examples
    --------
    >>> len(item_key("a cat")), item_key("a cat") == item_key(EncodedImage(b"a cat"))
    (16, False)
    """
    if isinstance(item, str):
        return hashlib.blake2b(item.encode("utf-8", "surrogatepass"), digest_size=16, person=b"text").digest()
    if isinstance(item, TowerItem):
        return hashlib.blake2b(item_key(item.item) + item.tower.encode(), digest_size=16, person=b"tower").digest()
    person = b"image" if isinstance(item, EncodedImage) else b"vector" if item.width is None else b"sequence"
    return hashlib.blake2b(item.content, digest_size=16, person=person).digest()


def image_item(image: Any) -> EncodedImage:
    """A PIL image as an item: in RGB, as a PNG that loses nothing.

    Examples
    --------
    >>> from PIL import Image
    >>> image_item(Image.new("L", (4, 3))).decode().mode
    'RGB'
    """
    handle = io.BytesIO()
    to_rgb(image).save(handle, format="PNG", compress_level=1)
    return EncodedImage(handle.getvalue())
