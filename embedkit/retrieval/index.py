"""Searching an index folder: by texts, by images, by vectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import DataError, ModelError, NonFiniteError, UserError, nearest
from embedkit.retrieval.arrays import Array
from embedkit.retrieval.codes import NAMES, Codes, open_codes
from embedkit.retrieval.folder import AGAIN, IndexFiles, IndexSettings
from embedkit.retrieval.nearest import nearest_candidates
from embedkit.retrieval.vectors import Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.models.base import Model

METHODS = ("exact", "int8", "binary", "pca", "faiss")
RESCORE = {"int8": 2, "binary": 10, "pca": 4}
"""Candidates of a search through codes whose scores are computed anew, for each result."""
_SPARE = 8
_BYTES = 2**26
"""Vectors that are gathered at a time."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes
    ----------
    id : object
        Its id in the source; its place, from 0, where rows have none.
    score : float
        Cosine or inner product with the query, from the float32 vectors.
    place : int
        Its place in the index, from 0.
    text, image : str or None
        The text, or the path of the image; None for an image that a cell of the source held.

    Examples
    --------
    >>> Hit(id="d7", score=0.81, place=6, text="two cats").text
    'two cats'
    """

    id: Any
    score: float
    place: int
    text: str | None = None
    image: str | None = None


class Index:
    """An index folder, open for searching; its files are memory-mapped.

    Parameters
    ----------
    folder : str or Path
        What `build_index` made.
    model : str, Path or Model, optional
        What encodes queries; the model that the index names when None, read when it is first needed.
    dtype : str, optional
        What it computes in; see `Model.encode`.
    **load_options
        Of `embedkit.load`.

    Attributes
    ----------
    settings : IndexSettings
        What the index was made from and how.
    vectors : float32 array (N, D)
        Memory-mapped; unit vectors for cosines. Of a sparse index a `SparseTable`.
    notes : list of str
        What a user should know, as a line each: a source that has changed since.

    Raises
    ------
    DataError
        It is no index, or was damaged.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> model = StaticEncoder(tokenizer(), dim=8)
    >>> _ = embedkit.build_index(["a red lamp", "two cats", "a lamp"], "lamps", model)
    >>> index = embedkit.Index("lamps", model=model)
    >>> [hit.text for hit in index.search("a red lamp", k=1)]
    ['a red lamp']
    """

    def __init__(self, folder: str | Path, *, model: Any = None, dtype: str | None = None, **load_options: Any) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._files = IndexFiles(self.folder)
        self.settings: IndexSettings = self._files.settings
        self.vectors = self._files.vectors
        self._model, self._dtype, self._load_options = model, dtype, load_options
        self._encoder: Model | None = None
        self._codes: dict[str, Codes] = {}
        self._documents: Vectors | None = None
        self._table: Tensor | None = None
        self._graphs: dict[str, Any] = {}
        self.notes = list(self._changes())

    def __len__(self) -> int:
        return self.settings.rows

    def __repr__(self) -> str:
        s = self.settings
        return (
            f"Index({str(self.folder)!r}: {s.rows:,} rows of {s.dim}, {s.similarity}, {', '.join(s.codes) or 'exact'})"
        )

    def _changes(self) -> list[str]:
        s = self.settings
        if s.source is None or s.source_size is None:
            return []
        try:
            now = Path(s.source).expanduser().stat()
        except OSError:
            return []  # the index holds its rows itself
        if (now.st_size, now.st_mtime_ns) == (s.source_size, s.source_time):
            return []
        return [f"{s.source} has changed since the index was built; {AGAIN} and --overwrite"]

    def check(self) -> None:
        """Compare every file with its hash: a second for each gigabyte or so.

        Raises
        ------
        DataError
            One was changed.
        """
        self._files.check()

    def row(self, place: int) -> dict[str, Any]:
        """The row at a place: ``id`` where rows have one, and ``text`` or ``image``."""
        return self._files.row(place)

    @property
    def model(self) -> Model:
        """The model of the queries.

        Raises
        ------
        UserError
            There is none, or it cannot be read.
        ModelError
            It is not the one that the index was built with.
        """
        if self._encoder is None:
            source, options = self._model, dict(self._load_options)
            if source is None:
                source = self.settings.model
                options = {"local_files_only": True, "revision": self.settings.revision, **options}
            if source is None:
                raise UserError("the index names no model", where=str(self.folder),
                                remedy="give the model that it was built with: --model MODEL")  # fmt: skip
            encoder, name = open_model(source, options)
            if self.settings.model_hash is not None and encoder.hash() != self.settings.model_hash:
                raise ModelError(
                    f"built with {self.settings.model or 'another model'} (hash {self.settings.model_hash}), and "
                    f"{name or 'this model'} has the hash {encoder.hash()}", where=str(self.folder),
                    remedy=f"give the model that it was built with, or {AGAIN}",
                )  # fmt: skip
            self._encoder = encoder
        return self._encoder

    def encode(self, queries: Sequence[Any], *, prompt: str | None = None) -> Array:
        """Vectors (Q, D) of texts (str) and images (anything else), as the index holds those of its rows.

        Raises
        ------
        UserError
            A query is empty.
        DataError
            An image cannot be read, or the model takes none.
        """
        items = list(queries)
        for place, query in enumerate(items):
            if isinstance(query, str) and not query.strip():
                raise UserError("the query is empty", where=f"query {place + 1}", remedy="give a text")
        s, model = self.settings, self.model
        if model.preprocess is None and any(not isinstance(query, str) for query in items):
            raise DataError(f"a {model.kind} model encodes no images", where="queries", remedy="give texts")
        options: dict[str, Any] = {"truncate_dim": s.truncate_dim, "dtype": self._dtype}
        if s.similarity == "cosine":
            options["normalize"] = True
        vectors = model.encode_query(items, prompt=prompt, **options)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        method: str = "exact",
        rescore: int | None = None,
        factory: str = "HNSW32",
        prompt: str | None = None,
    ) -> Any:
        """The `k` best rows for each query, the best first.

        Parameters
        ----------
        queries : str, path, image, array (Q, D), or a list
            A text is a str, an image a `pathlib.Path`, a PIL image or pixels; an array of floats (Q, D) holds vectors.
        k : int
            Rows for each query; all there are where the index has fewer.
        method : str
            ``exact``: all float32 vectors. ``int8``, ``binary``, ``pca``: through codes, then `rescore` times `k`
            candidates anew with their float32 vectors. ``faiss``: an index of FAISS, made at the first search.
        rescore : int, optional
            Candidates for each result, from 1 on: 2 for int8, 4 for pca, 10 for binary when None.
        factory : str
            What FAISS makes, for example "HNSW32", "IVF256,Flat".
        prompt : str, optional
            Name or text of the queries' prompt; the model's for queries when None.

        Returns
        -------
        list of Hit
            For one query; a list of such lists for several.

        Raises
        ------
        UserError
            A query is empty, or a setting is unknown or has no effect.
        DataError
            Vectors have another width, or the index has no codes for `method`.
        ModelError
            The model is not that of the index.
        """
        vectors, single = self._query_vectors(queries, prompt)
        scores, places = self.nearest(vectors, k, method=method, rescore=rescore, factory=factory)
        hits = [[self._hit(int(p), float(v)) for v, p in zip(*row, strict=True) if p >= 0]
                for row in zip(scores, places, strict=True)]  # fmt: skip
        return hits[0] if single else hits

    def _query_vectors(self, queries: Any, prompt: str | None) -> tuple[Array, bool]:
        from embedkit.models.encode.arguments import items_of

        if isinstance(queries, np.ndarray) and queries.ndim in (1, 2) and queries.dtype.kind == "f":
            if prompt is not None:
                raise UserError("a prompt is for texts, and vectors are given", where="prompt", remedy="leave it out")
            vectors: Array = np.atleast_2d(queries).astype(np.float32)
            if vectors.shape[1] != self.settings.dim:
                raise DataError(f"{vectors.shape[1]} numbers a vector, and {self.settings.dim} in the index",
                                where="queries", remedy="encode them with its model and truncate_dim")  # fmt: skip
            bad = ~np.isfinite(vectors).all(axis=1)
            if bad.any():
                raise NonFiniteError("a query vector has NaN or infinity", where=f"query {int(np.argmax(bad)) + 1}")
            if self.settings.similarity == "cosine":
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.where(norms > 0, norms, 1)
            return vectors, queries.ndim == 1
        items, single = items_of(queries)
        if not items:
            raise UserError("there is no query", where="queries", remedy="give a text")
        return self.encode(items, prompt=prompt), single

    def _hit(self, place: int, score: float) -> Hit:
        row = self.row(place)
        return Hit(row.get("id", place), score, place, row.get("text"), row.get("image"))

    def nearest(
        self, queries: Array, k: int, *, method: str = "exact", rescore: int | None = None, factory: str = "HNSW32"
    ) -> tuple[Array, Array]:
        """Scores (Q, k) and places (Q, k) for query vectors (Q, D), float32, as `encode` makes them; see `search`.

        k is at most the number of rows. A place is -1 where FAISS found nothing.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise UserError(f"k is {k!r}", where="k", remedy="give a whole number from 1 on")
        if method not in METHODS:
            raise UserError(f"unknown method {method!r}", where="method", remedy=nearest(str(method), METHODS))
        if rescore is not None and (method not in NAMES or rescore < 1):
            what = f"{method} search computes no scores anew" if method not in NAMES else f"rescore is {rescore}"
            raise UserError(what, where="rescore", remedy="leave it out, or give a whole number from 1 on")
        k = min(int(k), len(self))
        if self.settings.sparse and method != "exact":
            raise UserError(f"a sparse index has no {method} search", where="method", remedy="leave it out: exact")
        if method == "faiss":
            return self._faiss(queries, k, factory)
        if method == "exact":
            return self._exact(queries, k)
        count = min(len(self), k * (RESCORE[method] if rescore is None else rescore))
        return self._rescored(queries, self._open_codes(NAMES[method]).nearest(queries, count), k)

    def _open_codes(self, name: str) -> Codes:
        if name not in self._codes:
            self._codes[name] = open_codes(self._files, name)
        return self._codes[name]

    def _exact(self, queries: Array, k: int) -> tuple[Array, Array]:
        if self.settings.sparse:
            return self.vectors.nearest(queries, k)  # type: ignore[no-any-return]
        if self._documents is None:
            self._documents = Vectors(self.vectors, str(self.folder), unit=False, largest=self.settings.largest)
        scores = np.empty((len(queries), k))
        places = np.empty((len(queries), k), dtype=np.int64)
        anchors = Vectors(queries, "queries", unit=False)
        needs = np.full(len(queries), k)
        for row, best, values in nearest_candidates(anchors, self._documents, needs, block_size=16_384):
            scores[row], places[row] = values, best
        return scores, places

    def _rescored(self, queries: Array, candidates: Array, k: int) -> tuple[Array, Array]:
        """The `k` best of the candidates (Q, C) by their float32 vectors."""
        import torch

        scores = np.empty((len(queries), k))
        places = np.empty((len(queries), k), dtype=np.int64)
        count = min(candidates.shape[1], k + _SPARE)
        step = max(1, _BYTES // (4 * candidates.shape[1] * self.settings.dim))
        candidates = np.sort(candidates, axis=1)
        for start in range(0, len(queries), step):
            near, part = candidates[start : start + step], queries[start : start + step]
            values = torch.bmm(self._rows(near), torch.from_numpy(part)[:, :, None])[..., 0]  # (q, C), float32
            best = np.sort(values.topk(count, dim=1).indices.numpy(), axis=1)
            near = np.take_along_axis(near, best, axis=1)
            # the last bits of a matrix product depend on its shape, those of a sum of one pair do not
            exact = (self._rows(near).double() * torch.from_numpy(part).double()[:, None, :]).sum(dim=2).numpy()
            order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
            scores[start : start + step] = np.take_along_axis(exact, order, axis=1)
            places[start : start + step] = np.take_along_axis(near, order, axis=1)
        return scores, places

    def _rows(self, places: Array) -> Tensor:
        """The vectors (..., D) at some places, gathered by several threads."""
        import torch

        if self._table is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the map cannot be written, and is only read
                self._table = torch.from_numpy(self.vectors)
        flat = self._table.index_select(0, torch.from_numpy(places.reshape(-1)))
        return flat.view(*places.shape, -1)

    def _faiss(self, queries: Array, k: int, factory: str) -> tuple[Array, Array]:
        from embedkit.retrieval.approximate import FaissIndex

        if factory not in self._graphs:
            self._graphs[factory] = FaissIndex(self.vectors, factory)
        return self._graphs[factory].search(queries, k)  # type: ignore[no-any-return]


def open_model(model: Any, load_options: dict[str, Any]) -> tuple[Model, str | None]:
    """A loaded model and the name that it can be loaded by again, None for a model that came loaded.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> open_model(StaticEncoder(tokenizer(), dim=8), {})[1] is None
    True
    """
    from embedkit.models.base import Model

    if isinstance(model, Model):
        if load_options:
            raise UserError("it is for a model that is read, and one that is loaded was given",
                            where=next(iter(load_options)), remedy="leave it out")  # fmt: skip
        return model, None
    if not isinstance(model, str | Path):
        raise UserError(f"the model is {type(model).__name__}", where="model",
                        remedy="give a folder, a hub id, or what embedkit.load returned")  # fmt: skip
    from embedkit.formats import load

    place = Path(model).expanduser()
    return load(model, **load_options), str(place.absolute()) if place.is_dir() else str(model)


def search(index: str | Path | Index, queries: Any, k: int = 10, **settings: Any) -> Any:
    """The `k` best rows of an index for each query; see `Index.search`.

    Parameters
    ----------
    index : str, Path or Index
        A folder of `build_index`; keep an `Index` to search more than once.
    queries, k, **settings
        As of `Index.search`; also `model` and `dtype` of `Index` where a folder is given.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> _ = embedkit.build_index(["a red lamp", "two cats"], "cats", "model")
    >>> embedkit.search("cats", "two cats", k=1)[0].text
    'two cats'
    """
    if not isinstance(index, Index):
        options = {name: settings.pop(name) for name in ("model", "dtype") if name in settings}
        index = Index(index, **options)
    return index.search(queries, k, **settings)
