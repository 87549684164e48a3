"""The folder of an index: vectors, their codes, and the rows that they belong to, all read where they lie.

``index.json``
    What it was made from and how: see `IndexSettings`; sizes and hashes of the other files.
``vectors.npy``
    float32 (N, D), unit vectors for cosines. In a sparse index ``sparse.data.npy``, ``sparse.places.npy`` and
    ``sparse.starts.npy`` in its place: numbers, their coordinates, and where each row begins.
``uint8.npy``, ``ubinary.npy``, ``pca.npy``
    Codes (N, D), packed bits (N, D / 8 rounded up), and codes (N, D / 2) along ``pca.axes.npy``, where they were asked
    for; beside each ``NAME.levels.npy``, float32 (2, D): the value of code 0 of a coordinate, and the step from one to
    the next.
``rows.jsonl``, ``offsets.npy``
    A JSON object a row (``id``, ``text`` or ``image``), and where each begins, int64 (N + 1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from embedkit.errors import DataError
from embedkit.retrieval.arrays import Array

FORMAT = 1
SETTINGS, VECTORS, ROWS, OFFSETS = "index.json", "vectors.npy", "rows.jsonl", "offsets.npy"
AGAIN = "build it again with `embedkit index`"


@dataclass(frozen=True)
class IndexSettings:
    """What an index was made from and how.

    Attributes
    ----------
    rows, dim : int
        Shape of the vectors.
    similarity : str
        "cosine" or "dot".
    largest : float
        The largest length of a vector.
    model, revision, model_hash, model_kind : str or None
        The model's folder or hub id, where it was given by name; its `Model.hash`; both None for given vectors.
    prompt, truncate_dim, dtype
        As they were given to `build_index`.
    source : str or None
        The file of the rows; None for Python objects.
    source_size, source_time : int or None
        Its size and time of change (ns), where it is one file.
    codes : list of str
        Of ``uint8`` and ``ubinary`` those that are there.
    sparse : bool
        Whether only the numbers other than zero are kept.
    files : dict
        Name -> [bytes, xxh3 of 128 bits].

    Examples
    --------
    >>> settings = IndexSettings(rows=3, dim=8, similarity="cosine", largest=1.0)
    >>> IndexSettings.read(settings.to_json(), "index") == settings
    True
    """

    rows: int
    dim: int
    similarity: str
    largest: float
    model: str | None = None
    revision: str | None = None
    model_hash: str | None = None
    model_kind: str | None = None
    prompt: str | None = None
    truncate_dim: int | None = None
    dtype: str | None = None
    source: str | None = None
    source_size: int | None = None
    source_time: int | None = None
    codes: list[str] = field(default_factory=list)
    sparse: bool = False
    files: dict[str, list[Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The content of ``index.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, text: str, where: str) -> IndexSettings:
        """The settings in ``index.json``.

        Raises
        ------
        DataError
            It holds something else, or a later format.
        """
        try:
            document = json.loads(text)
            version = document.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"its {SETTINGS} cannot be read", where=where, remedy=AGAIN) from error
        if version != FORMAT:
            raise DataError(f"an index of format {version!r}, and this embedkit reads {FORMAT}", where=where,
                            remedy=AGAIN)  # fmt: skip
        names = {one.name for one in fields(cls)}
        wrong = [name for name, kind in (("rows", int), ("dim", int), ("similarity", str), ("largest", float),
                                    ("files", dict))
                 if not isinstance(document.get(name), kind)]  # fmt: skip
        if wrong or set(document) - names:
            raise DataError(f"its {SETTINGS} cannot be read: {', '.join(wrong or set(document) - names)}", where=where,
                            remedy=AGAIN)  # fmt: skip
        return cls(**document)


class IndexFiles:
    """An index folder, opened: nothing is read before it is asked for.

    Parameters
    ----------
    folder : Path
        The folder.

    Raises
    ------
    DataError
        It is no index, or a file of it is missing or has another size.

    Examples
    --------
    >>> IndexFiles(Path("nothing"))
    Traceback (most recent call last):
    ...
    embedkit.errors.DataError: nothing: no such index; make one with `embedkit index FILE nothing --model MODEL`
    """

    def __init__(self, folder: Path) -> None:
        self.folder, name = folder, str(folder)
        try:
            text = (folder / SETTINGS).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            what = f"is no index: it has no {SETTINGS}" if folder.exists() else "no such index"
            raise DataError(what, where=name,
                            remedy=f"make one with `embedkit index FILE {name} --model MODEL`") from error  # fmt: skip
        self.settings = IndexSettings.read(text, name)
        for file, mark in self.settings.files.items():
            size = (folder / file).stat().st_size if (folder / file).is_file() else None
            if size != mark[0]:
                what = "is missing" if size is None else f"has {size:,} bytes and not {mark[0]:,}: it was changed"
                raise DataError(f"{file} {what}", where=name, remedy=AGAIN)
        self.vectors: Any = self._vectors()
        self._offsets = self.array(OFFSETS, (self.settings.rows + 1,))
        self._rows = np.memmap(folder / ROWS, np.uint8, "r")

    def _vectors(self) -> Any:
        if not self.settings.sparse:
            return self.array(VECTORS, (self.settings.rows, self.settings.dim))
        from embedkit.retrieval.sparse import open_sparse

        return open_sparse(self)

    def array(self, file: str, shape: tuple[int, ...]) -> Array:
        """A file of numbers, memory-mapped."""
        try:
            array: Array = np.load(self.folder / file, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy reads the head as Python text, and raises anything on damaged ones
            raise DataError(f"{file} cannot be read", where=str(self.folder), remedy=AGAIN) from error
        if array.shape != shape:
            raise DataError(f"{file} has the shape {array.shape}, not {shape}", where=str(self.folder), remedy=AGAIN)
        return array

    def row(self, place: int) -> dict[str, Any]:
        """The row at `place`."""
        start, stop = (int(one) for one in self._offsets[place : place + 2])
        try:
            row = json.loads(bytes(self._rows[start:stop]))
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"row {place + 1} of {ROWS} cannot be read", where=str(self.folder), remedy=AGAIN)
        return row

    def check(self) -> None:
        """Read every file, and compare it with the hash that it had.

        Raises
        ------
        DataError
            One was changed.
        """
        for file, mark in self.settings.files.items():
            if file_hash(self.folder / file) != mark[1]:
                raise DataError(f"{file} was changed", where=str(self.folder), remedy=AGAIN)


def file_hash(path: Path) -> str:
    """xxh3 of 128 bits of a file, as hexadecimal digits.

    Examples
    --------
    >>> _ = Path("a.txt").write_text("a")
    >>> file_hash(Path("a.txt"))[:8]
    'a96faf70'
    """
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    return digest.hexdigest()


def write_rows(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``rows.jsonl`` and ``offsets.npy``.

    Examples
    --------
    >>> write_rows(Path(), [{"id": 7, "text": "a"}, {"text": "b"}])
    >>> np.load("offsets.npy").tolist()
    [0, 23, 37]
    """

    def starts() -> Iterator[int]:
        place = 0
        with open(folder / ROWS, "wb") as file:
            for row in rows:
                yield place
                place += file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        yield place

    np.save(folder / OFFSETS, np.fromiter(starts(), np.int64))


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write ``index.json`` last, with size and hash of every file in the folder.

    Examples
    --------
    >>> Path("new").mkdir()
    >>> write_rows(Path("new"), [{"text": "a"}])
    >>> write_settings(Path("new"), {"rows": 1, "dim": 8, "similarity": "dot", "largest": 1.0})
    >>> sorted(json.loads(Path("new/index.json").read_text())["files"])
    ['offsets.npy', 'rows.jsonl']
    """
    files = {path.name: [path.stat().st_size, file_hash(path)] for path in sorted(folder.iterdir())}
    (folder / SETTINGS).write_text(IndexSettings(**settings, files=files).to_json(), encoding="utf-8")
