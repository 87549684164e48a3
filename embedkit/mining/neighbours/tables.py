"""One or two tables of texts with their vectors, and the search between them part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit import __version__
from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array
from embedkit.evaluation.core.task import Side
from embedkit.mining.neighbours.settings import NeighbourSettings
from embedkit.mining.pairs import Candidates
from embedkit.mining.parts import Parts, digest, part_size, search_device
from embedkit.mining.settings import refuse_idle
from embedkit.mining.vectors import Encoding, Vectors, open_vectors
from embedkit.retrieval.nearest import nearest_candidates


@dataclass
class Table:
    """Texts, and where their vectors come from.

    Attributes
    ----------
    texts : Candidates
        Different texts.
    source : str, Path, array or None
        Vectors, one for each row that was read; those of the model when None.
    option : str
        The setting that gives them.
    side : "query", "document" or None
        Whose prompt the model uses where none is named.
    prompt : str or None
        Name or text of the prompt.
    vectors : Vectors
        (N, D), once `Tables.fill` has been called.

    Examples
    --------
    >>> Table(Candidates(texts=["a cat"]), None, "vectors").texts.texts
    ['a cat']
    """

    texts: Candidates
    source: Any
    option: str
    side: Side | None = None
    prompt: str | None = None
    vectors: Vectors = field(init=False)


class Tables:
    """The vectors of one or two tables in one space.

    Parameters
    ----------
    tables : list of Table
        One, whose texts are compared with each other, or two.
    model : object
        Anything with ``encode``, a name for `embedkit.load`, or None where all vectors are given.
    settings : NeighbourSettings
        Similarity, size of the vectors and of the blocks.
    device : str or None
        Of the model and the search.
    loading : mapping
        Other arguments of `embedkit.load`.
    progress : callable, optional
        Gets (texts done, all of them).

    Raises
    ------
    UserError
        There is neither a model nor vectors for a table, or a model that is not needed.
    DataError
        The vectors do not fit their texts.

    Examples
    --------
    >>> import numpy as np
    >>> texts = Candidates()
    >>> _ = [texts.add(text) for text in ("a cat", "a dog")]
    >>> tables = Tables([Table(texts, np.eye(2), "vectors")], None, NeighbourSettings(), None, {}, None)
    >>> tables.fill(Parts(None))
    >>> [(row, places.tolist()) for row, places, _ in tables.nearest(0, 0, range(2), np.array([1, 1]))]
    [(0, [0]), (1, [1])]
    """

    def __init__(
        self, tables: list[Table], model: Any, settings: NeighbourSettings, device: str | None,
        loading: Mapping[str, Any], progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self.tables, self.settings, self._model = tables, settings, model
        self._progress, self._loading = progress, {"device": device, **loading}
        self._device = search_device(device)
        self._encoder: Encoding | None = None
        lacking = [table.option for table in tables if table.source is None]
        if model is None and lacking:
            raise UserError("neither a model nor all vectors are given", where=lacking[0],
                            remedy=f"give a model, or {' and '.join(table.option for table in tables)}")  # fmt: skip
        if model is not None and not lacking:
            refuse_idle("all vectors are given", {"model": model})
        if model is None:
            refuse_idle("it is for a model, and vectors are given", {"truncate_dim": settings.truncate_dim})
        for table in tables:
            if table.source is not None and table.prompt is not None:
                raise UserError(f"a prompt is for a model, and {table.option} is given", where=table.option,
                                remedy="leave one of them out")  # fmt: skip
        unit = settings.similarity == "cosine"
        self._sources = [
            None if table.source is None
            else open_vectors(table.source, table.texts.rows, f"rows of {table.texts.name}", unit=unit)
            for table in tables
        ]  # fmt: skip

    def _encoding(self) -> Encoding:
        if self._encoder is None:
            model = self._model
            if isinstance(model, str | Path):
                from embedkit.formats import load

                model = load(model, **self._loading)
            unit = self.settings.similarity == "cosine"
            self._encoder = Encoding(model, unit=unit, dim=self.settings.truncate_dim, progress=self._progress)
        return self._encoder

    def identity(self) -> dict[str, Any] | None:
        """What decides the neighbours, as plain values; None where a model cannot tell what it is."""
        facts: dict[str, Any] = {"version": __version__, "what": self.settings.command, **self.settings.identity()}
        if self._model is not None:
            facts["model"] = self._encoding().identity()
            if facts["model"] is None:
                return None
        facts["texts"] = digest([[table.texts.texts, table.texts.by_id] for table in self.tables])
        facts["vectors"] = [None if source is None else source.digest() for source in self._sources]
        return facts

    def fill(self, parts: Parts) -> None:
        """Encode what has no vectors yet."""
        for number, (table, source) in enumerate(zip(self.tables, self._sources, strict=True)):
            if source is not None:
                table.vectors = source.select(table.texts.records)
            else:
                section = parts.section(f"table{number}")
                table.vectors = self._encoding().vectors(table.texts.texts, table.side, table.prompt, section)
        first, last = self.tables[0].vectors, self.tables[-1].vectors
        if first.dim != last.dim:
            raise UserError(f"{last.dim} numbers a vector, and {first.dim} in {first.name}", where=last.name,
                            remedy="encode both with one model")  # fmt: skip

    def nearest(self, of: int, among: int, rows: range, needs: Array) -> Iterator[tuple[int, Array, Array]]:
        """``(row, places, scores)`` for some rows of table `of`: their best of table `among`; see
        `embedkit.retrieval.nearest`."""
        hits = nearest_candidates(
            self.tables[of].vectors.select(rows), self.tables[among].vectors, needs,
            block_size=self.settings.block_size, device=self._device,
        )  # fmt: skip
        for number, places, scores in hits:
            yield rows[number], places, scores

    def run(
        self, parts: Parts, name: str, of: int, work: Callable[[range], Mapping[str, Array]]
    ) -> Iterator[tuple[range, dict[str, Array]]]:
        """Rows of table `of` part by part, with what `work` makes of them."""
        count = len(self.tables[of].texts.texts)
        size = part_size(max(len(table.texts.texts) for table in self.tables))

        def rows_of(number: int) -> range:
            return range(number * size, min((number + 1) * size, count))

        def tell(number: int, total: int) -> None:
            if self._progress is not None:
                self._progress(min(number * size, count), count)

        results = parts.run(name, -(-count // size), lambda number: work(rows_of(number)), tell)
        for number, arrays in enumerate(results):
            yield rows_of(number), arrays
