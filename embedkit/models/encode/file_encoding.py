"""Encoding a file of any length: constant memory, resumable, spread over processes.

The rows are cut into blocks. Process k of n encodes the blocks k, k + n, ... and writes each as a file of its own,
named by its number and the hash of its texts. When all are there, the first process joins them in order. A block that
is there already is not computed again, so an interrupted run resumes where it was; and because blocks do not
depend on the number of processes, neither do the vectors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.models.encode.engine import run_jobs
from embedkit.models.encode.file_rows import Ids, Item, Reading, blocks, digest_of
from embedkit.models.encode.joining import check_output, check_precision, load_part, write_block
from embedkit.models.encode.joining import join as join_blocks
from embedkit.models.encode.quantization import VectorRanges, bounds_of
from embedkit.system.disk import FolderLock, tell_kept, write_durably, writing
from embedkit.system.processes import join

if TYPE_CHECKING:
    from embedkit.models.base import Model, Progress
    from embedkit.models.encode.arguments import EncodeSettings

BLOCK_ROWS = 16_384


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
        model, input, target.with_name(f".{target.name}.parts"), settings, Reading(column, format),
        id_column=id_column, block_rows=block_rows,
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
    model: Model, input: str | Path, parts: Path, settings: EncodeSettings, reading: Reading, *,
    id_column: str | None = None, block_rows: int = BLOCK_ROWS,
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
    >>> model = StaticEncoder(tokenizer(), dim=8)
    >>> with encoded_parts(model, "texts.txt", Path("parts"), EncodeSettings(), Reading()) as parts:
    ...     parts.rows, parts.dim, len(parts.blocks)
    (2, 8, 1)
    """
    from embedkit.models.encode.encoding import reporter

    rank, world, wait = _processes(model)
    marks = {
        "model": model.hash(), "prompt": settings.prompt, "normalize": settings.normalize,
        "truncate_dim": settings.truncate_dim, **reading.marks(), "id_column": id_column, "block_rows": block_rows,
        **({} if dtype is None else {"dtype": dtype}),
    }  # fmt: skip
    if settings.prompt is not None:
        _check_prompt(model, settings.prompt)  # before the folder of the parts is made
    encoder = model if dtype is None else model.at_dtype(dtype)
    total, reused = 0, 0
    names: list[str] = []
    with _opened(parts, marks) if rank == 0 else nullcontext(), _kept(parts, rank == 0):
        wait()
        with reporter(settings.progress, None, "rows") as tell, Ids(parts, id_column, rank == 0) as ids:

            def missing() -> Iterator[tuple[tuple[str, int], Any, tuple[Any, ...]]]:
                nonlocal total, reused
                for number, items in enumerate(blocks(str(input), reading, block_rows, ids)):
                    name = f"{number:08d}-{digest_of(items)}.npy"
                    names.append(name)
                    first, total = total, total + len(items)
                    if note is not None and rank == 0:
                        note(first, items)
                    if number % world != rank:
                        continue
                    if (parts / name).is_file():
                        reused += len(items)
                        tell(len(items))
                    else:
                        yield (name, len(items)), _vectors, (items, replace(settings, progress=None), first)

            for (name, count), vectors in run_jobs(encoder, missing()):
                write_block(parts / name, vectors)
                tell(count)
        wait()
        dim = load_part(parts / names[0]).shape[1]
        wait()  # until all have read it: the first process takes the folder away
        yield EncodedParts([parts / name for name in names], total, dim, reused, ids.file, ids.column, rank == 0)
        if rank == 0:
            shutil.rmtree(parts)
    wait()


@contextmanager
def _kept(parts: Path, main: bool) -> Iterator[None]:
    """What stops the block tells what the folder of the parts is for; one without a block of vectors is taken away."""
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        is_empty = not any(parts.glob("*.npy"))
        if is_empty and main:
            shutil.rmtree(parts)
        elif not is_empty and main and type(error) is not UserError:  # as one that tells of a damaged block is
            tell_kept(error, "the rows encoded", parts)
        raise


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


def check_rows(
    input: str | Path, *, column: str | None = None, format: str = "auto", split: str | None = None
) -> None:  # fmt: skip
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
    if next(blocks(str(input), Reading(column, format, split), 1), None) is None:
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


def _of_vectors(model: Model, items: list[Item], settings: EncodeSettings) -> np.ndarray:
    """Vectors of one block of vectors."""
    if model.input_width is None:
        what = f"rows are vectors, and a {model.kind} model reads texts"
        raise UserError(what, remedy="name the column of the texts: --column NAME")
    return model.encode_items(model.items_of(items)[0], settings)


def _vectors(model: Model, items: list[Item], settings: EncodeSettings, first: int) -> np.ndarray:
    """Vectors of one block; messages count the rows from `first`."""
    from embedkit.models.combined.multi import MultiEncoder, named_tower

    if isinstance(model, MultiEncoder):
        model = named_tower(model, model.tower_of(items))
    if model.input_width is not None or any(isinstance(item, np.ndarray) for item in items):
        return _of_vectors(model, items, settings)
    if all(isinstance(item, str) for item in items):
        return model.encode_texts([item for item in items if isinstance(item, str)], settings, first)
    if model.preprocess is None:
        raise UserError(f"a {model.kind} model encodes no images", remedy="name the column of the texts: --column NAME")
    try:
        return model.encode_items(items, settings)
    except DataError as error:
        raise DataError(error.what, where=f"rows from {first + 1}: {error.where}", remedy=error.remedy) from error
