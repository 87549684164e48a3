"""Building an index folder from a file of texts or images."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.models.encode.file_encoding import check_rows, encoded_parts
from embedkit.models.encode.file_rows import Item, Reading
from embedkit.models.encode.joining import load_part, write_npy
from embedkit.retrieval.arrays import Array
from embedkit.retrieval.codes import NAMES, write_codes
from embedkit.retrieval.folder import SETTINGS, VECTORS, write_rows, write_settings
from embedkit.retrieval.sparse import write_sparse
from embedkit.retrieval.vectors import Vectors
from embedkit.system.disk import filling, refusals

if TYPE_CHECKING:
    from embedkit.retrieval.index import Index

_log = logging.getLogger(__name__)
CODES = ("uint8", "ubinary")
_BLOCK = 16_384
_DOCUMENTS = ("document", "passage", "corpus")


def build_index(
    source: Any,
    folder: str | Path,
    model: Any,
    *,
    column: str | None = None,
    id_column: str | None = None,
    format: str = "auto",
    split: str | None = None,
    limit: int | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    codes: Sequence[str] | None = None,
    sparse: bool = False,
    dtype: str | None = None,
    batch_tokens: int | None = None,
    block_rows: int = 16_384,
    overwrite: bool = False,
    progress: bool | Callable[[int, int], None] | None = None,
    **load_options: Any,
) -> Index:
    """An index of the texts or images of a file, ready to search.

    The folder is whole or not there. A stopped build resumes when it is called again: encoded blocks stand beside the
    folder, under ``.NAME.parts``.

    Parameters
    ----------
    source : str, Path or object
        Whatever `embedkit.models.encode_file` reads; or a table, a list of dicts or of texts.
    folder : str or Path
        The index.
    model : str, Path or Model
        A folder or hub id for `embedkit.load`, which the index remembers, or a loaded model.
    column, id_column, format, truncate_dim, batch_tokens, block_rows
        As of `embedkit.models.encode_file`.
    split, limit : optional
        Which split is read, where there are several, and how many rows at most.
    prompt : str, optional
        Name or text of a prompt; the model's for documents when None.
    codes : sequence of str
        Smaller forms for quicker searches: uint8 (for ``method="int8"``), ubinary (for ``method="binary"``), pca.
        The first two when None.
    sparse : bool
        Keep the numbers other than zero only, for a model of sparse codes; such an index has no `codes`.
    dtype : str, optional
        What the model computes in; see `Model.encode`.
    overwrite : bool
        Replace an index that is there.
    progress : bool or callable, optional
        True shows a bar; a callable gets (rows done, 0).
    **load_options
        Of `embedkit.load`: ``device``, ``revision``, ``trust_remote_code`` ...

    Raises
    ------
    UserError
        The folder exists, or a setting has no effect.
    DataError
        The source has no rows, or a cell is no text or image.
    DiskError
        The disk is full or the folder cannot be written.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> index = embedkit.build_index(["a red lamp", "two cats"], "lamps", StaticEncoder(tokenizer(), dim=8))
    >>> len(index), index.row(1)["text"]
    (2, 'two cats')
    """
    target = check_target(folder, overwrite)
    codes = _checked_codes(codes, sparse)
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}", where="limit", remedy="give 1 or more, or leave it out")
    from embedkit.models.encode.arguments import EncodeSettings
    from embedkit.retrieval.index import Index, open_model

    with _source(source) as path:
        check_rows(path, column=column, format=format, split=split)
        before = _state(path)
        encoder, known_as = open_model(model, load_options)
        similarity = _similarity(encoder)
        settings = EncodeSettings(
            prompt if prompt is not None else next((one for one in _DOCUMENTS if one in encoder.prompts), None),
            True if similarity == "cosine" else None, truncate_dim, batch_tokens, progress,
        )  # fmt: skip
        folder_of_parts = target.with_name(f".{target.name}.parts")
        items = _ItemFile(folder_of_parts)
        parts = encoded_parts(
            encoder, path, folder_of_parts, settings, Reading(column, format, split, limit), id_column=id_column,
            block_rows=block_rows, note=items.add, dtype=dtype,
        )  # fmt: skip
        with parts as part:
            if not part.main:
                raise UserError("an index is built by one process", remedy="start it once, without torchrun")
            items.close()
            if items.blank:
                _log.warning("%s: empty texts: %s, the first in row %s; searches may find them",
                             source if isinstance(source, str | Path) else "the source", f"{len(items.blank):,}",
                             f"{items.blank[0]:,}")  # fmt: skip
            if _state(path) != before:
                raise DataError("it was changed while it was read", where=str(source), remedy="build the index again")
            with filling(target, "the index") as new:
                blocks = (load_part(block, part.dim) for block in part.blocks)
                largest = _fill(new, blocks, (part.rows, part.dim), items.rows(part.ids), codes, sparse)
                write_settings(new, {
                    "largest": largest, "rows": part.rows, "dim": part.dim, "similarity": similarity, "model": known_as,
                    "revision": load_options.get("revision"), "model_hash": encoder.hash(),
                    "model_kind": encoder.kind, "prompt": prompt, "truncate_dim": truncate_dim, "dtype": dtype,
                    "source": path if isinstance(source, str | Path) else None, "codes": list(codes), "sparse": sparse,
                    **before,
                })  # fmt: skip
    return Index(target, model=encoder)


def _checked_codes(codes: Sequence[str] | None, sparse: bool = False) -> list[str]:
    if codes is None:
        return [] if sparse else list(CODES)
    if sparse and codes:
        raise UserError("a sparse index has no codes", where="codes", remedy="leave them out, or sparse")
    for name in codes:
        if name not in NAMES.values():
            raise UserError(f"an index has no codes {name!r}", where="codes",
                            remedy=f"choose of {', '.join(NAMES.values())}")  # fmt: skip
    return list(codes)


def check_target(folder: str | Path, overwrite: bool) -> Path:
    """The absolute path of a new index.

    Raises
    ------
    UserError
        Something is there that must not be replaced.

    Examples
    --------
    >>> Path("letters").mkdir()
    >>> check_target("letters", overwrite=False).name  # an empty folder is filled
    'letters'
    >>> _ = Path("letters/a.txt").write_text("Dear reader")
    >>> check_target("letters", overwrite=True)
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: .../letters: exists, and is no index; choose another name
    """
    target = Path(folder).expanduser().absolute()
    if target.is_dir() and not any(target.iterdir()):
        return target
    if target.exists() and not (target / SETTINGS).is_file():
        raise UserError("exists, and is no index", where=str(target), remedy="choose another name")
    if target.exists() and not overwrite:
        remedy = "choose another name, or add --overwrite (overwrite=True in Python)"
        raise UserError("exists already", where=str(target), remedy=remedy)
    return target


@contextmanager
def _source(source: Any) -> Iterator[str]:
    """The path of the rows; of a Python object as long as the block runs."""
    if isinstance(source, str | Path):
        yield str(source)
        return
    from embedkit.data.sources.objects import hold, release

    path = hold(source)
    try:
        yield path
    finally:
        release(path)


def _state(path: str) -> dict[str, Any]:
    """Size and time of change of a file, for the settings."""
    place = Path(path).expanduser()
    try:
        status = place.stat() if place.is_file() else None
    except (OSError, ValueError):
        status = None
    return {} if status is None else {"source_size": status.st_size, "source_time": status.st_mtime_ns}


def _similarity(model: Any) -> str:
    name = str(model.similarity_fn_name)
    if name not in ("cosine", "dot"):
        raise UserError(f"the model compares by {name}, and an index by cosine or dot", where="similarity_fn_name",
                        remedy="set it to cosine where that is meant")  # fmt: skip
    return name


_ITEMS = "the rows of the index cannot be written"


class _ItemFile:
    """The texts and paths of the rows, kept in a file while their vectors are computed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "items.jsonl"
        self._file: Any = None
        self.blank: list[int] = []
        """Numbers of the rows without a text, from 1."""

    def add(self, first: int, items: Sequence[Item]) -> None:
        """Take a block of rows."""
        with refusals(self._path, _ITEMS):
            if self._file is None:
                self._file = open(self._path, "w", encoding="utf-8", errors="surrogatepass", newline="\n")  # noqa: SIM115
            for number, item in enumerate(items, first + 1):
                if isinstance(item, str) and not item.strip():
                    self.blank.append(number)
                row = (
                    {"text": item}
                    if isinstance(item, str)
                    else {"image": str(item) if isinstance(item, Path) else None}
                )
                self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """End writing."""
        if self._file is not None:
            with refusals(self._path, _ITEMS):
                self._file.close()

    def rows(self, ids: Path | None) -> Iterator[dict[str, Any]]:
        """The rows with their ids."""
        with open(self._path, encoding="utf-8") as items:
            if ids is None:
                yield from (json.loads(line) for line in items)
                return
            with open(ids, encoding="utf-8") as names:
                for name, line in zip(names, items, strict=True):
                    yield {"id": json.loads(name), **json.loads(line)}


def _fill(
    folder: Path, blocks: Iterator[Array], shape: tuple[int, int], rows: Iterable[dict[str, Any]], codes: Sequence[str],
    sparse: bool = False,
) -> float:  # fmt: skip
    """Write the files of an index but its settings; the largest length of a vector."""
    if sparse:
        write_rows(folder, rows)
        return write_sparse(folder, blocks)
    with open(folder / VECTORS, "wb") as file:
        write_npy(file, blocks, *shape)
    write_rows(folder, rows)
    table = np.load(folder / VECTORS, mmap_mode="r")
    parts = [table[start : start + _BLOCK] for start in range(0, len(table), _BLOCK)]
    for name in codes:
        write_codes(folder, name, parts, *shape)
    return max(float(np.sqrt((part.astype(np.float64) ** 2).sum(axis=1).max())) for part in parts)


def index_vectors(
    vectors: Array, folder: str | Path, rows: Iterable[dict[str, Any]] | None = None, *, similarity: str = "cosine",
    codes: Sequence[str] = CODES, overwrite: bool = False,
) -> Index:  # fmt: skip
    """An index of vectors that are there already; its queries are vectors too, or need a `model` when it is opened.

    Parameters
    ----------
    vectors : array (N, D) of a floating type
        In memory or memory-mapped; scaled to length 1 for cosines.
    folder, codes, overwrite
        As of `build_index`.
    rows : iterable of dict, optional
        ``id``, ``text`` or ``image`` of each; none when None.
    similarity : str
        "cosine" or "dot".

    Examples
    --------
    >>> index = index_vectors(np.array([[2.0, 0.0], [3.0, 4.0]]), "points", [{"id": "a"}, {"id": "b"}])
    >>> [(hit.id, round(hit.score, 3)) for hit in index.search(np.array([1.0, 0.0]))]
    [('a', 1.0), ('b', 0.6)]
    """
    from embedkit.retrieval.index import Index

    target = check_target(folder, overwrite)
    _checked_codes(codes)
    if similarity not in ("cosine", "dot"):
        raise UserError(f"unknown similarity {similarity!r}", where="similarity", remedy="use cosine or dot")
    table = Vectors(vectors, "the array of vectors", unit=similarity == "cosine")
    if not len(table):
        raise DataError("there are no vectors", where="the array of vectors", remedy="give at least one")
    with filling(target, "the index") as new:
        names = [{}] * len(table) if rows is None else list(rows)
        if len(names) != len(table):
            raise DataError(f"{len(names):,} rows for {len(table):,} vectors", where="rows", remedy="give one of each")
        blocks = (table.rows(slice(start, start + _BLOCK)) for start in range(0, len(table), _BLOCK))
        largest = _fill(new, blocks, (len(table), table.dim), names, codes)
        write_settings(new, {"rows": len(table), "dim": table.dim, "similarity": similarity, "largest": largest,
                             "codes": list(codes)})  # fmt: skip
    return Index(target)
