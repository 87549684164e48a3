"""A sample of several files of one name, in a shard or a folder, to one row of columns."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.data.images.pictures import TEXT_ENDINGS, is_image
from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.formats.json_objects import json_object
from embedkit.data.vectors.arrays import npy_of, npz_of
from embedkit.errors import DataError

CAPTIONS = ("text", "caption", "captions", "texts", "text_1")
"""Fields of a JSON file that say what a text file beside it says too; the text file counts, as in open_clip."""


ARRAY_ENDINGS = ("npy", "npz")
"""Endings of files that hold arrays."""


def hidden(name: str) -> bool:
    """Whether a file is no data by its name: ``.x`` and ``__x__``; cameras write ``_DSC0001.jpg``, which is data.

    Examples
    --------
    >>> hidden(".DS_Store"), hidden("__index__.json"), hidden("_DSC0001.jpg")
    (True, True, False)
    """
    return name.startswith((".", "__"))


def visible_files(folder: Path) -> list[str]:
    """Relative names (with ``/``) of all files below a folder that are not hidden, sorted.

    Examples
    --------
    >>> Path("photos/cats").mkdir(parents=True)
    >>> for name in ("b.jpg", ".DS_Store", "cats/a.jpg"):
    ...     Path("photos", name).touch()
    >>> visible_files(Path("photos"))
    ['b.jpg', 'cats/a.jpg']
    """
    names: list[list[str]] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not hidden(name)]
        above = [] if place == str(folder) else os.path.relpath(place, folder).split(os.sep)
        names += [[*above, name] for name in files if not hidden(name)]
    return ["/".join(parts) for parts in sorted(names)]


def sample_cells(files: Iterable[tuple[str, str, Callable[[], bytes]]]) -> dict[str, Any]:
    """The columns of a sample.

    An image becomes ``image``, ``txt`` becomes ``text``, ``cls`` becomes ``label``; the fields of a ``json`` object
    become columns where the name is free. A compound ending stays a column of its own: ``input.jpg`` with bytes,
    ``output.txt`` with text. An array becomes a column of that name: ``npy`` becomes ``vector``, ``frames.npy`` becomes
    ``frames``, those of ``npz`` keep their names. Other files keep their ending as column, with bytes.

    Parameters
    ----------
    files : iterable of (str, str, callable)
        Ending without its first dot, name for messages, and what gives the content.

    Raises
    ------
    BadRow
        Two files for one column, text that is not UTF-8, JSON that is no object.

    Examples
    --------
    >>> sample_cells([("jpg", "1.jpg", lambda: b"..."), ("txt", "1.txt", lambda: b"a cat")])
    {'image': b'...', 'text': 'a cat'}
    """
    cells: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for extension, name, content in files:
        last = extension.rpartition(".")[2]
        if is_image(f".{extension}"):
            _put(cells, "image" if last == extension else extension, content())
        elif last in TEXT_ENDINGS:
            _put(cells, TEXT_ENDINGS[last] if last == extension else extension, _text(content(), name))
        elif extension == "cls":
            _put(cells, "label", _text(content(), name).strip())
        elif last in ARRAY_ENDINGS:
            for column, array in _arrays(content(), name, last).items():
                stem = "vector" if last == extension else extension.rpartition(".")[0]
                _put(cells, stem if last == "npy" else column, array)
        elif extension == "json":
            fields |= _object(content(), name)
        else:
            _put(cells, extension, content())
    if "text" in cells or "caption" in cells:
        beside = [name for name in CAPTIONS if name in fields and name not in cells]
        fields |= {f"json_{name}": fields.pop(name) for name in beside}
    return fields | cells


def _put(cells: dict[str, Any], name: str, value: Any) -> None:
    if name in cells:
        raise BadRow("duplicate file", f"the sample has two files for {name!r}", remedy="keep one of them")
    cells[name] = value


def _arrays(content: bytes, name: str, ending: str) -> dict[str, np.ndarray]:
    try:
        if ending == "npy":
            return {"": npy_of(io.BytesIO(content), name)}
        return npz_of(io.BytesIO(content), name)
    except DataError as error:
        raise BadRow("bad vector", f"{name!r}: {error.what}", remedy=error.remedy) from error


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"{name!r} is not UTF-8", remedy="save it as UTF-8") from error


def _object(content: bytes, name: str) -> dict[str, Any]:
    try:
        return json_object(_text(content, name))
    except BadRow as bad:
        raise BadRow(bad.reason, f"{name!r}: {bad.what}", remedy="write one JSON object in it") from bad
