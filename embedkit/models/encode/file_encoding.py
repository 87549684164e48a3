"""Encoding a file of any length: constant memory, resumable, spread over processes.

The rows are cut into blocks. Process k of n encodes the blocks k, k + n, ... and writes each as a file of its own,
named by its number and the hash of its texts. When all are there, the first process joins them in order. A block that
is there already is not computed again, so an interrupted run resumes where it was; and because blocks do not
depend on the number of processes, neither do the vectors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.data.schema.roles import IMAGE_NAMES
from embedkit.errors import DataError, UserError
from embedkit.models.encode.joining import check_output, check_precision, load_part, write_block
from embedkit.models.encode.joining import join as join_blocks
from embedkit.models.encode.quantization import VectorRanges, bounds_of
from embedkit.system.disk import FolderLock, write_durably, writing
from embedkit.system.processes import join

if TYPE_CHECKING:
    from embedkit.models.base import Model, Progress
    from embedkit.models.encode.arguments import EncodeSettings

BLOCK_ROWS = 16_384
_TEXT_COLUMNS = ("text", "sentence", "anchor")
_ID_COLUMNS = ("id", "_id", "docid", "doc_id", "query_id", "qid", "pid", "uid", "uuid", "key", "__key__", *IMAGE_NAMES)
"""Columns that say which row is which, the first that a row has counts; of images their path does."""


@dataclass(frozen=True)
class EncodedFile:
    """The output of `encode_file`.

    Attributes
    ----------
    output : Path
        The file.
    rows, dim : int
        Its shape.
    reused : int
        Rows that an earlier, stopped run had encoded already.
    ids : Path or None
        Where the ids of the rows stand: a file beside a ``.npy``, the output itself for ``.parquet``.
    id_column : str or None
        The column that they come from.
    ranges : Path or None
        Of int8 and uint8 vectors the file with the range of each coordinate, beside the output.
    range_rows : int
        Rows of the input that the ranges were learnt from; 0 where they were given.

    Examples
    --------
    >>> result = EncodedFile(Path("v.npy"), rows=1000, dim=384, reused=0)
    >>> (result.rows, result.dim), result.ids is None
    ((1000, 384), True)
    """

    output: Path
    rows: int
    dim: int
    reused: int
    ids: Path | None = None
    id_column: str | None = None
    ranges: Path | None = None
    range_rows: int = 0


@dataclass(frozen=True)
class EncodedParts:
    """The blocks of an encoded file, before they are joined.

    Attributes
    ----------
    blocks : list of Path
        ``.npy`` files of float32 vectors (n, D), in order.
    rows, dim, reused, id_column
        As of `EncodedFile`.
    ids : Path or None
        The ids of the rows, JSON, one per line.
    main : bool
        Whether this is the process that joins.

    Examples
    --------
    >>> EncodedParts([Path("a.npy")], rows=3, dim=8, reused=0, ids=None, id_column=None, main=True).rows
    3
    """

    blocks: list[Path]
    rows: int
    dim: int
    reused: int
    ids: Path | None
    id_column: str | None
    main: bool


def encode_file(
    model: Model,
    input: str | Path,
    output: str | Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    format: str = "auto",
    prompt: str | None = None,
    normalize: bool | None = None,
    truncate_dim: int | None = None,
    batch_tokens: int | None = None,
    precision: str = "float32",
    ranges: Any = None,
    block_rows: int = BLOCK_ROWS,
    overwrite: bool = False,
    progress: Progress = None,
) -> EncodedFile:
    """Place and shape of the vectors of a file's texts or images: row i of the output belongs to row i of the input.

    An image is a cell of bytes (also ``{"bytes": ..}``), or a path in a column whose name says so (``image``,
    ``file_name`` ...), relative to the file. Where a row has cells of both kinds and no `column` is named, the one that
    is not empty counts: texts and images may be mixed.

    Run under ``torchrun`` (on GPUs also ``accelerate launch``) the work is shared by all processes.

    Parameters
    ----------
    model : Model
        The encoder.
    input : str or Path
        Whatever `embedkit.data.read_rows` reads: csv, tsv, jsonl, parquet, txt, also gzipped, tar shards, a folder of
        these, or a folder of images (in the order of their sorted paths).
    output : str or Path
        ``.npy``: float32 (N, D), and beside it ``.ids.jsonl``, an id a line, where rows have ids. ``.npz``: a matrix of
        `scipy.sparse`, and ids likewise. ``.parquet``: columns ``row`` (int64), ``id`` where rows have ids, and
        ``embedding`` (D float32 values).
    column : str, optional
        The column of the texts or images; the only one, or text, sentence, anchor or image, when None.
    id_column : str, optional
        The column of the ids; ``id``, ``_id``, ``docid`` and the like, or the path of an image, when None.
    format : str
        Format of the input where its name does not tell.
    prompt, normalize, truncate_dim, batch_tokens
        See `Model.encode`.
    precision : str
        float32, int8, uint8, binary or ubinary; see `quantize`.
    ranges : VectorRanges, array (2, D) or path, optional
        Of int8 and uint8; learnt from all rows of the input when None. They are written to ``OUTPUT.ranges.json``.
    block_rows : int
        Rows of a block: what is held in memory and what a stopped run loses at most.
    overwrite : bool
        Replace an existing output.
    progress : bool or callable, optional
        True shows a bar; a callable gets (rows done by this process, 0).

    Raises
    ------
    UserError
        When the output exists, has another suffix, is being written by another run, or the parts of a stopped run
        belong to other settings.
    DiskError
        When the disk is full or the folder cannot be written.
    DataError
        When a cell is missing or no text; the row is named.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> _ = Path("texts.txt").write_text("a dog\\ntwo cats\\n")
    >>> encode_file(StaticEncoder(tokenizer(), dim=8), "texts.txt", "vectors.npy").rows
    2
    >>> np.load("vectors.npy").shape
    (2, 8)
    """
    from embedkit.models.encode.arguments import EncodeSettings

    target = check_encoding(input, output, column=column, format=format, overwrite=overwrite)
    bounds = bounds_of(precision, ranges)
    check_precision(target, precision)
    settings = EncodeSettings(prompt, normalize, truncate_dim, batch_tokens, progress)
    parts = encoded_parts(
        model, input, target.with_name(f".{target.name}.parts"), settings, column=column, id_column=id_column,
        format=format, block_rows=block_rows,
    )  # fmt: skip
    fresh, place = 0, None
    with parts as part:
        if precision in ("int8", "uint8"):
            place = ranges_path(target)
            if bounds is None:
                bounds = VectorRanges.learn(load_part(block, part.dim) for block in part.blocks)
                fresh = part.rows
        if part.main:
            join_blocks(target, part.blocks, part.rows, part.dim, part.ids, precision, bounds)
            if place is not None and bounds is not None:
                bounds.save(place)
            if target.suffix != ".parquet" and part.ids is not None:
                _copy_ids(part.ids, ids_path(target))
    ids = None if part.id_column is None else ids_path(target) if target.suffix != ".parquet" else target
    return EncodedFile(target, part.rows, part.dim, part.reused, ids, part.id_column, place, fresh)


@contextmanager
def encoded_parts(
    model: Model, input: str | Path, parts: Path, settings: EncodeSettings, *, column: str | None = None,
    id_column: str | None = None, format: str = "auto", block_rows: int = BLOCK_ROWS,
    note: Callable[[int, list[Item]], None] | None = None, dtype: str | None = None,
) -> Iterator[EncodedParts]:  # fmt: skip
    """The encoded blocks of a file, in the folder `parts`, which is removed when the block ends without an error.

    A stopped run finds its blocks there again. `note` gets the number of the first row and the items of each block, on
    the main process; `dtype` is what the model is to compute in.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.encode.arguments import EncodeSettings
    >>> _ = Path("texts.txt").write_text("a dog\\ntwo cats\\n")
    >>> with encoded_parts(StaticEncoder(tokenizer(), dim=8), "texts.txt", Path("parts"), EncodeSettings()) as parts:
    ...     parts.rows, parts.dim, len(parts.blocks)
    (2, 8, 1)
    """
    from embedkit.models.encode.encoding import reporter

    rank, world, wait = _processes(model)
    marks = {
        "model": model.hash(), "prompt": settings.prompt, "normalize": settings.normalize,
        "truncate_dim": settings.truncate_dim, "column": column, "id_column": id_column, "block_rows": block_rows,
        **({} if dtype is None else {"dtype": dtype}),
    }  # fmt: skip
    if settings.prompt is not None:
        _check_prompt(model, settings.prompt)  # before the folder of the parts is made
    encoder = model if dtype is None else model.at_dtype(dtype)
    total, reused, names = 0, 0, []
    with _opened(parts, marks) if rank == 0 else nullcontext():
        wait()
        with reporter(settings.progress, None, "rows") as tell, _Ids(parts, id_column, rank == 0) as ids:
            for number, items in enumerate(_blocks(str(input), format, column, block_rows, ids)):
                name = f"{number:08d}-{_digest(items)}.npy"
                names.append(name)
                first, total = total, total + len(items)
                if note is not None and rank == 0:
                    note(first, items)
                if number % world != rank:
                    continue
                if (parts / name).is_file():
                    reused += len(items)
                else:
                    write_block(parts / name, _vectors(encoder, items, replace(settings, progress=None), first))
                tell(len(items))
        wait()
        dim = load_part(parts / names[0]).shape[1]
        yield EncodedParts([parts / name for name in names], total, dim, reused, ids.file, ids.column, rank == 0)
        if rank == 0:
            shutil.rmtree(parts)
    wait()


def ranges_path(output: Path) -> Path:
    """The file with the ranges of int8 and uint8 vectors.

    Examples
    --------
    >>> ranges_path(Path("v.npy")).name
    'v.ranges.json'
    """
    return output.with_suffix(".ranges.json")


def ids_path(output: Path) -> Path:
    """The file with the ids of the rows of a ``.npy``: JSON, one per line.

    Examples
    --------
    >>> ids_path(Path("v.npy")).name
    'v.ids.jsonl'
    """
    return output.with_suffix(".ids.jsonl")


def _check_prompt(model: Model, prompt: str) -> None:
    """Refuse a prompt that the model does not have; see `Model.encode`."""
    model.encode(["a"], prompt=prompt)


def _copy_ids(source: Path, target: Path) -> None:
    with open(source, "rb") as lines, writing(target, "the ids of the rows") as file:
        shutil.copyfileobj(lines, file)


class _Ids:
    """Writes the id of each row to a file of the parts as the rows go by; only the main process writes."""

    def __init__(self, parts: Path, column: str | None, write: bool) -> None:
        self.column, self._path, self._write = column, parts / "ids.jsonl", write
        self._lines: Any = None
        self._rows = 0

    @property
    def file(self) -> Path | None:
        """The ids, JSON, one per line; None where rows have none."""
        return None if self.column is None else self._path

    def __enter__(self) -> _Ids:
        if self._write:
            self._lines = open(self._path, "w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def add(self, row: dict[str, Any], where: str) -> None:
        """Note the id of a row; the first row decides which column has it."""
        if self._rows == 0 and self.column is None:
            self.column = next((name for name in _ID_COLUMNS if isinstance(row.get(name), str | int)), None)
        self._rows += 1
        if self.column is None:
            return
        if self.column not in row:
            raise DataError(f"no column {self.column!r}", where=where, remedy=f"it has {', '.join(row)}")
        if self._lines is not None:
            self._lines.write(json.dumps(row[self.column], ensure_ascii=False, default=str) + "\n")


def check_encoding(
    input: str | Path, output: str | Path, *, column: str | None = None, format: str = "auto", overwrite: bool = False
) -> Path:
    """The absolute path of the output, when the first row of the input and the place of the output are in order: the
    check before a model is loaded.

    Raises
    ------
    UserError
        As `encode_file`, as far as that can be seen without a model.

    Examples
    --------
    >>> _ = Path("texts.txt").write_text("a dog")
    >>> check_encoding("texts.txt", "vectors.npy").name
    'vectors.npy'
    """
    target = check_output(Path(output).expanduser().absolute(), overwrite)
    check_rows(input, column=column, format=format)
    return target


def check_rows(input: str | Path, *, column: str | None = None, format: str = "auto") -> None:
    """Read the first row of an input.

    Raises
    ------
    DataError
        There is none, or it holds no text or image.

    Examples
    --------
    >>> _ = Path("texts.txt").write_text("a dog")
    >>> check_rows("texts.txt", column="name")
    Traceback (most recent call last):
    ...
    embedkit.errors.DataError: texts.txt:1: no column 'name'; it has text
    """
    if next(_blocks(str(input), format, column, 1), None) is None:
        raise DataError("no rows", where=str(input), remedy="give a file with at least one text")


def _processes(model: Model) -> tuple[int, int, Callable[[], None]]:
    """This process's number, their count, and a function that waits for all."""
    state = join(cpu=model.device.type == "cpu")
    return state.process_index, state.num_processes, state.wait_for_everyone


@contextmanager
def _opened(parts: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Make the folder of the blocks, or check that the one there is of the same run; only one run may use it."""
    with FolderLock(parts, "wait for it, or give another output"):
        marker = parts / "settings.json"
        if not marker.is_file():
            write_durably(marker, json.dumps(settings).encode(), "the settings of the run")
        try:
            earlier = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            earlier = None
        if earlier != settings:
            raise UserError(
                "holds the parts of a stopped run with another model or other settings", where=str(parts),
                remedy="delete this folder, or repeat that run to finish it",
            )  # fmt: skip
        yield


Item = str | bytes | Path
"""A text, the content of an image file, or its path."""


def _vectors(model: Model, items: list[Item], settings: EncodeSettings, first: int) -> np.ndarray:
    """Vectors of one block; messages count the rows from `first`."""
    if all(isinstance(item, str) for item in items):
        from embedkit.models.encode.encoding import encode

        return encode(model, [item for item in items if isinstance(item, str)], settings, first)
    if model.preprocess is None:
        raise UserError(f"a {model.kind} model encodes no images", remedy="name the column of the texts: --column NAME")
    try:
        return model.encode_items(items, settings)
    except DataError as error:
        raise DataError(error.what, where=f"rows from {first + 1}: {error.where}", remedy=error.remedy) from error


def _blocks(
    source: str, format: str, column: str | None, size: int, ids: _Ids | None = None
) -> Iterator[list[Item]]:  # fmt: skip
    from embedkit.data.schema.rows import BadRow
    from embedkit.data.sources.sources import find_parts

    block: list[Item] = []
    for part in find_parts(source, format):
        for number, row in part.records():
            if isinstance(row, BadRow):
                raise row
            block.append(_item(row, column, part.folder, f"{part.name}:{number}"))
            if ids is not None:
                ids.add(row, f"{part.name}:{number}")
            if len(block) == size:
                yield block
                block = []
    if block:
        yield block


def _item(row: dict[str, Any], column: str | None, folder: Path | None, where: str) -> Item:
    """The text or image of a row."""
    column = column or _column_of(row, where)
    if column not in row:
        raise DataError(f"no column {column!r}", where=where, remedy=f"it has {', '.join(row)}")
    cell = row[column]
    if isinstance(cell, dict):  # an image as the hub has it
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        kind = "empty" if cell is None else type(cell).__name__
        raise DataError(f"cell is {kind}, not text", where=f"{where}, column {column}", remedy="fix or remove the row")
    if column not in IMAGE_NAMES and not isinstance(row[column], dict):
        return cell
    from embedkit.data.images.paths import image_path
    from embedkit.data.schema.rows import BadRow

    try:
        return Path(image_path(cell, folder))
    except BadRow as bad:
        raise bad.at(f"{where}, column {column}") from bad.__cause__


def _column_of(row: dict[str, Any], where: str) -> str:
    texts = [name for name in _TEXT_COLUMNS if name in row]
    images = [name for name in IMAGE_NAMES if name in row]
    if texts and images:  # a mixed list
        filled = [name for name in (texts[0], images[0]) if row[name] not in (None, "", b"")]
        if len(filled) == 1:
            return filled[0]
    elif texts or images:
        return (texts or images)[0]
    elif len(row) == 1:
        return next(iter(row))
    raise DataError(
        f"columns {', '.join(row)}: which one holds the texts or images?", where=where, remedy="name it: --column NAME"
    )


def _digest(items: list[Item]) -> str:
    """A hash of a block; of an image file its path, size and time of change."""
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        if isinstance(item, Path):
            status = item.stat()
            data = f"\0{item}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogatepass")
        else:
            data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
