"""One space of vectors for anchors, candidates and positives, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.pairs import Candidates, Pairs
from embedkit.mining.settings import MiningSettings
from embedkit.mining.vectors import Encoding, Vectors, inner_products, open_vectors


class Space:
    """The vectors of anchors and candidates, and the score of every pair.

    Parameters
    ----------
    pairs, candidates : Pairs, Candidates
        What the vectors belong to.
    model : object
        Anything with ``encode``, a name for `embedkit.load`, or None where all vectors are there.
    own : bool
        The candidates are the positives of the pairs.
    vectors : mapping
        ``anchor_vectors``, ``corpus_vectors`` and ``positive_vectors`` of `embedkit.mine`.
    settings : MiningSettings
        Similarity, prompts, size of the vectors.
    progress : callable, optional
        Gets (texts done, texts in all).
    load_options : dict
        Arguments of `embedkit.load`.

    Attributes
    ----------
    anchors, candidates : Vectors
        (A, D) and (C, D).
    positive_scores : float64 array (P,)
        The similarity of each pair's positive to its anchor.

    Raises
    ------
    DataError
        Vectors have another number or width than what they belong to, or a positive has none.

    Examples
    --------
    >>> from embedkit.mining.pairs import of_positives, read_pairs
    >>> pairs = read_pairs([{"anchor": "a", "positive": "b"}])
    >>> vectors = {"anchor_vectors": np.array([[2.0, 0.0]]), "corpus_vectors": np.array([[1.0, 0.0]])}
    >>> space = Space(pairs, of_positives(pairs), None, True, vectors, MiningSettings(), None, {})
    >>> space.positive_scores.tolist()
    [1.0]
    """

    def __init__(
        self, pairs: Pairs, candidates: Candidates, model: Any, own: bool, vectors: Mapping[str, Any],
        settings: MiningSettings, progress: Callable[[int, int], None] | None, load_options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._settings, self._model, self._options = settings, model, load_options
        self._progress = progress
        self._encoder: Encoding | None = None
        unit = settings.similarity == "cosine"
        # what can be wrong with files is told before a model is loaded
        sources = {
            name: open_vectors(vectors[name], rows, of_what, unit=unit)
            for name, rows, of_what in (
                ("anchor_vectors", pairs.records, f"rows of {pairs.name}"),
                ("corpus_vectors", candidates.rows, f"pairs of {pairs.name}" if own else f"rows of {candidates.name}"),
                ("positive_vectors", len(pairs.pairs) + pairs.repeats, f"pairs of {pairs.name}"),
            )
            if vectors.get(name) is not None
        }
        query, document = settings.query_prompt, settings.corpus_prompt
        if "anchor_vectors" in sources:
            self.anchors = _select(sources["anchor_vectors"], pairs.first_records())
        else:
            self.anchors = self._encoding().vectors(pairs.anchors, "query", query)
        if "corpus_vectors" in sources:
            self.candidates = _select(sources["corpus_vectors"], candidates.records)
        else:
            self.candidates = self._encoding().vectors(candidates.texts, "document", document)
        _check_width(self.anchors, self.candidates)
        self.positive_scores = self._scores_of_positives(pairs, candidates, sources.get("positive_vectors"))

    def _encoding(self) -> Encoding:
        """The model, loaded when it is first needed."""
        if self._encoder is None:
            model = self._model
            if isinstance(model, str | Path):
                from embedkit.formats import load

                model = load(model, **self._options)
            dim, unit = self._settings.truncate_dim, self._settings.similarity == "cosine"
            self._encoder = Encoding(model, unit=unit, dim=dim, progress=self._progress)
        return self._encoder

    def _scores_of_positives(self, pairs: Pairs, candidates: Candidates, own: Vectors | None) -> Array:
        """The similarity (P,) of each pair's positive to its anchor."""
        places = [candidates.place_of(pair) if own is None else None for pair in pairs.pairs]
        rows = [pair.number for pair in pairs.pairs]  # of the vectors of their own
        missing = [number for number, place in enumerate(places) if place is None]
        if missing and own is None:
            if self._model is None:
                others = f", and of {len(missing) - 1:,} more pairs" if len(missing) > 1 else ""
                raise DataError(
                    f"the corpus does not hold the positive of this pair{others}",
                    where=pairs.pairs[missing[0]].where,
                    remedy="add it to the corpus and its vectors, or give --positive-vectors or --model",
                )
            row_of: dict[str, int] = {}
            for number in missing:
                rows[number] = row_of.setdefault(pairs.pairs[number].positive, len(row_of))
            own = self._encoding().vectors(list(row_of), "document", self._settings.corpus_prompt)
        if own is not None:
            _check_width(self.anchors, own)
        scores = np.empty(len(pairs.pairs))
        for number, (pair, place) in enumerate(zip(pairs.pairs, places, strict=True)):
            vector = self.candidates.rows([place]) if place is not None else own.rows([rows[number]])  # type: ignore[union-attr]
            scores[number] = inner_products(self.anchors.rows([pair.anchor])[0], vector)[0]
        return scores


def _select(vectors: Vectors, places: list[int]) -> Vectors:
    """The vectors at these places, in this order."""
    return vectors if places == list(range(len(vectors))) else vectors.select(places)


def _check_width(first: Vectors, second: Vectors) -> None:
    if first.dim != second.dim:
        raise DataError(f"{second.dim} numbers a vector, and {first.dim} in {first.name}", where=second.name,
                        remedy="encode both with one model")  # fmt: skip
