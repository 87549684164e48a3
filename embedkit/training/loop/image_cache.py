"""Vectors of all training images by a locked image tower, computed once before the first step.

Rows are taken in blocks of a fixed size in the order of their ids, and the processes share the blocks, so the vectors
do not depend on the number of processes. They are kept in the folder of the run with what they were made of, and a
resumed run reads the same numbers again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedkit.data.images.decoding import Decoding, checked, decode_batches, without_bad
from embedkit.data.schema.rows import BadRow, Row
from embedkit.errors import CheckpointError
from embedkit.system.disk import disk_error, write_durably
from embedkit.training.state.checkpoint import seal, verify
from embedkit.views.image import ImageInput, prepare_images

if TYPE_CHECKING:
    from embedkit.data.datasets.base import RowBatch
    from embedkit.data.datasets.in_memory import HeldRows
    from embedkit.training.parallel.distributed import World

BLOCK = 256
_KEY = 16  # bytes
NAME = "image-cache"


class ImageCache:
    """Vectors (rows, W) float32, keys (rows, 16) uint8 and bad rows; made by `build`.

    Attributes
    ----------
    vectors, keys : array
        Row i belongs to the row with id i.
    bad : dict of int to (str, str)
        Id -> reason and fault of the rows whose image cannot be decoded.

    Examples
    --------
    >>> from embedkit.data import RowBatch
    >>> cache = ImageCache(np.ones((2, 3), np.float32), np.zeros((2, 16), np.uint8), {1: ("bad image", "cut short")})
    >>> rows = [{"image": "dog.jpg", "texts": ["a dog"]}, {"image": "cat.jpg", "texts": ["a cat"]}]
    >>> batches = iter([(0, RowBatch(rows, ids=[0, 1], size=2, offset=0, step=0))])
    >>> [(_, batch)] = cache.attach(batches, skip=True, where=lambda row_id: f"captions.csv:{row_id + 2}")
    >>> batch.rows[0]["features"], batch.bad_rows[0].where
    (array([1., 1., 1.], dtype=float32), 'captions.csv:3')
    """

    def __init__(self, vectors: np.ndarray, keys: np.ndarray, bad: dict[int, tuple[str, str]]) -> None:
        self.vectors, self.keys, self.bad = vectors, keys, bad

    def attach(
        self, batches: Iterator[tuple[int, RowBatch]], skip: bool, where: Callable[[int], str]
    ) -> Iterator[tuple[int, RowBatch]]:
        """The batches with ``features`` (W,) and the key of the image in place of the image; bad rows are dropped."""
        for epoch, batch in batches:
            rows = [self._row(row, row_id) for row, row_id in zip(batch.rows, batch.ids, strict=True)]
            yield epoch, checked(without_bad(batch, rows, skip, where))

    def _row(self, row: Row, row_id: int) -> Row | BadRow:
        if row_id in self.bad:
            return BadRow(*self.bad[row_id], remedy="fix the file, or set data.on_bad_row: skip")
        return {**row, "image": self.keys[row_id].tobytes(), "features": self.vectors[row_id]}


def build(
    model: Any, rows: HeldRows, folder: Path, world: World, decoding: Decoding, say: Callable[[str], None]
) -> ImageCache:
    r"""The cache of a run: read from `folder` where it is there for this tower and data, else computed.

    Raises
    ------
    BadRow
        An image cannot be decoded, and bad rows are not skipped.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build as build_model
    >>> from embedkit.training import batching, setup
    >>> from embedkit.training.parallel.distributed import World
    >>> for number in range(16):
    ...     Image.new("RGB", (32, 32), (16 * number, 0, 0)).save(f"{number}.png")
    >>> _ = Path("captions.csv").write_text("image,caption\n" + "".join(f"{n}.png,number {n}\n" for n in range(16)))
    >>> recipe = load_recipe("clip-small", ["method=lit", "data.train=captions.csv"], smoke=True)
    >>> method, model = setup.build_method(recipe), build_model(recipe.model, 0)
    >>> rows, decoding = setup.open_rows(recipe, method), batching.decoding(recipe, method, model)
    >>> cache = build(model, rows, Path("run"), World(), decoding, print)
    computing the vectors of 16 images by the locked tower
    >>> cache.vectors.shape, cache.bad
    ((16, 16), {})
    """
    place = folder / NAME
    identity = {"data": rows.fingerprint, "tower": _tower_hash(model), "need": decoding.need}
    if not _complete(place, identity):
        say(f"computing the vectors of {rows.num_rows:,} images by the locked tower")
        world.barrier()
        _fill(place, model, rows, world, decoding)
        world.barrier()
        if world.is_main:
            write_durably(place / "identity.json", json.dumps(identity).encode(), "the image cache")
            seal(place)
    world.barrier()
    bad: dict[int, tuple[str, str]] = {}
    for file in sorted(place.glob("bad-*.json")):
        bad |= {int(key): (reason, what) for key, (reason, what) in json.loads(file.read_text("utf-8")).items()}
    vectors, keys = (_opened(place / f"{name}.npy", rows.num_rows) for name in ("vectors", "keys"))
    return ImageCache(vectors, keys, bad)


def _opened(path: Path, rows: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
        if array.ndim != 2 or len(array) != rows:
            raise ValueError(f"shape {array.shape} for {rows} rows")
    except Exception as error:  # numpy reads the head as Python text, and raises anything on damaged ones
        raise CheckpointError(
            f"the vectors of images cannot be read ({error})", where=str(path), remedy="delete the folder of this file"
        ) from error
    return array


def _tower_hash(model: Any) -> str:
    """A name for the image tower and its preprocessing: 16 hexadecimal digits over settings and weights."""
    settings = {"image": model.image.spec(), "preprocess": model.preprocess.to_json()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.image.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _complete(place: Path, identity: dict[str, Any]) -> bool:
    if verify(place) is not None:  # not there, stopped half-way, or changed since
        return False
    return bool(json.loads((place / "identity.json").read_text("utf-8")) == identity)


def _fill(place: Path, model: Any, rows: HeldRows, world: World, decoding: Decoding) -> None:
    shapes = {"vectors": (np.float32, model.image.dim), "keys": (np.uint8, _KEY)}
    if world.is_main:
        try:
            place.mkdir(parents=True, exist_ok=True)
            for file in place.glob("*"):
                file.unlink()
            for name, (kind, width) in shapes.items():
                _make_array(place / f"{name}.npy", np.dtype(kind), (rows.num_rows, width))
        except OSError as error:
            raise disk_error(error, place, "the image cache cannot be written", "give another train.output") from error
    world.barrier()
    vectors, keys = (np.load(place / f"{name}.npy", mmap_mode="r+") for name in shapes)
    blocks = range(world.rank * BLOCK, rows.num_rows, world.size * BLOCK)
    source = ((0, rows.block(range(start, min(start + BLOCK, rows.num_rows)))) for start in blocks)
    bad: dict[int, tuple[str, str]] = {}
    for _, batch in decode_batches(source, decoding, rows.where, empty=True):
        bad |= {bad_row.id: (bad_row.reason, bad_row.what) for bad_row in batch.bad_rows}
        if batch.rows:
            vectors[batch.ids] = _vectors(model, batch, world.device)
            keys[batch.ids] = [np.frombuffer(row["image"].key, np.uint8) for row in batch.rows]
    vectors.flush()
    keys.flush()
    write_durably(place / f"bad-{world.rank}.json", json.dumps(bad).encode(), "the image cache")


def _make_array(path: Path, kind: np.dtype[Any], shape: tuple[int, int]) -> None:
    """A file of zeros with its room on the disk: a mapped page that finds none later would kill the process."""
    with open(path, "wb") as file:
        form = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, form)
        left = kind.itemsize * shape[0] * shape[1]
        while left:
            left -= file.write(bytes(min(left, 1 << 20)))
        file.flush()
        os.fsync(file.fileno())


def _vectors(model: Any, batch: RowBatch, device: torch.device) -> np.ndarray:
    from embedkit.methods.lit import tower_vectors

    inputs = prepare_images(model, [ImageInput(row["image"]) for row in batch.rows])
    return tower_vectors(model, inputs.to(device)).float().cpu().numpy()  # type: ignore[no-any-return]
