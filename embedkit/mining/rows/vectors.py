"""Vectors of the rows of a table: given, or encoded by a model when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.inputs import Item
from embedkit.evaluation.core.stats import Array
from embedkit.mining.rows.table import RowTable
from embedkit.mining.settings import refuse_idle
from embedkit.mining.vectors import Encoding, Vectors, open_vectors

VectorSource = str | Path | Array

_IMAGES = 1024  # image files that are in memory at a time


class Encoder:
    """A model for the rows of one call: loaded when it is first used.

    Parameters
    ----------
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``.
    prompt : str, optional
        Name or text of a prompt.
    dim : int, optional
        Keep the first coordinates only.
    progress : callable, optional
        Gets (inputs done, inputs in all).
    load_options : mapping, optional
        Arguments of `embedkit.load`, for a model that is given by name.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> vowels = SimpleNamespace(encode=lambda texts: np.array([[t.count("a"), t.count("i")] for t in texts], float))
    >>> Encoder(vowels)(["banana", "kiwi"], "vectors", unit=False).rows([0, 1]).tolist()
    [[3.0, 0.0], [0.0, 2.0]]
    """

    def __init__(
        self, model: Any = None, *, prompt: str | None = None, dim: int | None = None,
        progress: Callable[[int, int], None] | None = None, load_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name = model
        self.was_used = False
        self._model, self._prompt, self._dim = model, prompt, dim
        self._progress, self._options = progress, dict(load_options or {})
        if model is None:
            refuse_idle("it is for a model, and none is given", {"prompt": prompt, "truncate_dim": dim})

    def __bool__(self) -> bool:
        return self._model is not None

    @property
    def model(self) -> Any:
        """The model itself."""
        self.was_used = True
        if isinstance(self._model, str | Path):
            from embedkit.formats import load

            self._model = load(self._model, **self._options)
        return self._model

    def __call__(self, items: Sequence[Item], name: str, *, unit: bool = True) -> Vectors:
        """The vectors of texts or images, in their order.

        Raises
        ------
        UserError
            There is no model, or it encodes no images.
        """
        if not self:
            raise UserError("neither a model nor vectors are given", where=name,
                            remedy="give a model, or vectors=FILE.npy")  # fmt: skip
        from embedkit.models.base import Model

        model = self.model
        if not isinstance(items[0], str) and isinstance(model, Model) and model.preprocess is None:
            raise UserError("the model encodes no images", where=name, remedy="give a dual encoder, e.g. a CLIP")
        if isinstance(items[0], str):
            encoding = Encoding(model, unit=unit, dim=self._dim, progress=self._progress)
            return encoding.vectors(items, None, self._prompt)
        encoding = Encoding(model, unit=False, dim=self._dim)
        parts = []
        for start in range(0, len(items), _IMAGES):
            part = items[start : start + _IMAGES]
            parts.append(encoding.vectors(part, None, self._prompt).rows(slice(0, len(part))))
            if self._progress is not None:
                self._progress(start + len(part), len(items))
        return Vectors(np.concatenate(parts), "the model's vectors of the images", unit=unit)


class RowVectors:
    """Vectors (N, D) of length 1 of the rows of a table; rows that were left out before the first use are not encoded.

    Parameters
    ----------
    table : RowTable
        The rows.
    items : callable
        Places of rows -> what is encoded of them.
    encoder : Encoder
        For rows without vectors.
    vectors : str, Path or array, optional
        ``.npy`` or an array with a vector for each row of the table.
    name : str
        The setting that gives `vectors`, for messages.
    unit : bool
        Scale to length 1.

    Examples
    --------
    >>> from embedkit.mining.rows.table import read_table
    >>> table = read_table(["a cat", "a dog"])
    >>> rows = RowVectors(table, table.texts, Encoder(), np.eye(2))
    >>> rows.of([1]).rows([0]).tolist()
    [[0.0, 1.0]]
    """

    def __init__(
        self, table: RowTable, items: Callable[[Iterable[int]], Sequence[Item]], encoder: Encoder,
        vectors: VectorSource | None = None, *, name: str = "vectors", unit: bool = True,
    ) -> None:  # fmt: skip
        self._items, self._encoder, self._name, self._unit = items, encoder, name, unit
        self._vectors: Vectors | None = None
        self._place_of: dict[int, int] | None = None
        if vectors is not None:
            self._vectors = open_vectors(vectors, len(table), f"rows of {table.name}", unit=unit)

    def of(self, places: Sequence[int] | Array) -> Vectors:
        """The vectors of the rows at `places`, which must be among those of the first call."""
        rows = [int(place) for place in places]
        if self._vectors is None:
            items = self._items(rows)
            if not len(items):
                raise DataError("no rows are left to encode", where=self._name, remedy="loosen what came before")
            self._vectors = self._encoder(items, self._name, unit=self._unit)
            self._place_of = {place: number for number, place in enumerate(rows)}
        if self._place_of is not None:
            rows = [self._place_of[place] for place in rows]
        return self._vectors.select(rows)


def vectors_of(
    table: RowTable, encoder: Encoder, vectors: VectorSource | None, column: str | None = None,
    image_column: str | None = None,
) -> tuple[RowVectors, str]:  # fmt: skip
    """The vectors of the rows of a table, and the column that they are of: that of the texts, or else of the images.

    Raises
    ------
    UserError
        Both a model and vectors are given.
    DataError
        There is no such column, or it cannot be told which one it is.

    Examples
    --------
    >>> from embedkit.mining.rows.table import read_table
    >>> vectors_of(read_table([{"image": "a.png", "label": 1}]), Encoder(), np.eye(1))[1]
    'image'
    """
    if encoder and vectors is not None:
        refuse_idle("vectors are given", {"model": encoder.name})
    subject = encoded_column(table, column, image_column, vectors is None)
    images = column is None and subject == table.image_column(image_column)

    def items(places: Iterable[int]) -> Sequence[Item]:
        return table.images(subject, places) if images else table.texts(subject, places)

    return RowVectors(table, items, encoder, vectors), subject


def encoded_column(table: RowTable, column: str | None, image_column: str | None, needed: bool = True) -> str:
    """The column that is encoded: that of the texts, that of the images where there are no texts; the first column
    where neither can be told and it is not `needed`.

    Examples
    --------
    >>> from embedkit.mining.rows.table import read_table
    >>> encoded_column(read_table([{"id": 3, "question": "pay?", "img": "a.png"}]), None, None)
    'question'
    """
    images = table.image_column(image_column)
    if image_column is not None and column is None:
        return image_column
    if column is None and (images is not None or not needed):
        try:
            return table.text_column()
        except DataError:  # it cannot be told: images, or nothing that must be read
            return images or table.columns[0]
    return table.text_column(column)


def check_vectors_of_all(
    limit: int | None, where: Mapping[str, Any] | None, vectors: Mapping[str, Any]
) -> None:  # fmt: skip
    """Refuse vectors, which belong to all rows, where `limit` or `where` leaves some out.

    Examples
    --------
    >>> check_vectors_of_all(10, None, {"vectors": "v.npy"})
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: vectors: they belong to all rows, and limit leaves some out; write the rows to a file ...
    """
    name = next((name for name, value in vectors.items() if value is not None), None)
    if name is not None and (where or limit is not None):
        cause = "where" if where else "limit"
        raise UserError(f"they belong to all rows, and {cause} leaves some out", where=name,
                        remedy="write the rows to a file of their own first")  # fmt: skip
