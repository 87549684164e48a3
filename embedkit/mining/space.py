"""One space of vectors for anchors, candidates and positives, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.pairs import Candidates, Pairs
from embedkit.mining.parts import Parts
from embedkit.mining.settings import MiningSettings
from embedkit.mining.vectors import Encoding, Vectors, inner_products, open_vectors


class Space:
    """The vectors of anchors and candidates, and the score of every pair, once `fill` has been called.

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
    >>> space.fill(Parts(None))
    >>> space.positive_scores.tolist()
    [1.0]
    """

    anchors: Vectors
    candidates: Vectors
    positive_scores: Array

    def __init__(
        self, pairs: Pairs, candidates: Candidates, model: Any, own: bool, vectors: Mapping[str, Any],
        settings: MiningSettings, progress: Callable[[int, int], None] | None, load_options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._settings, self._model, self._options = settings, model, load_options
        self._pairs, self._texts, self._progress = pairs, candidates, progress
        self._encoder: Encoding | None = None
        unit = settings.similarity == "cosine"
        # what can be wrong with files is told before a model is loaded
        self._sources = {
            name: open_vectors(vectors[name], rows, of_what, unit=unit)
            for name, rows, of_what in (
                ("anchor_vectors", pairs.records, f"rows of {pairs.name}"),
                ("corpus_vectors", candidates.rows, f"pairs of {pairs.name}" if own else f"rows of {candidates.name}"),
                ("positive_vectors", len(pairs.pairs) + pairs.repeats, f"pairs of {pairs.name}"),
            )
            if vectors.get(name) is not None
        }
        self._places = [candidates.place_of(pair) for pair in pairs.pairs]
        if "positive_vectors" in self._sources:
            self._places = [None] * len(pairs.pairs)
        elif None in self._places and model is None:
            missing = [pair for pair, place in zip(pairs.pairs, self._places, strict=True) if place is None]
            others = f", and of {len(missing) - 1:,} more pairs" if len(missing) > 1 else ""
            raise DataError(
                f"the corpus does not hold the positive of this pair{others}", where=missing[0].where,
                remedy="add it to the corpus and its vectors, or give --positive-vectors or --model",
            )  # fmt: skip

    def identity(self) -> dict[str, Any] | None:
        """What decides the vectors, as plain values; None where a model cannot tell what it is."""
        facts: dict[str, Any] = {name: vectors.digest() for name, vectors in self._sources.items()}
        if self._model is None:
            return facts
        facts["model"] = self._encoding().identity()
        return None if facts["model"] is None else facts

    def fill(self, parts: Parts) -> None:
        """Encode what has no vectors yet, and score the positives."""
        pairs, query, document = self._pairs, self._settings.query_prompt, self._settings.corpus_prompt
        if "anchor_vectors" in self._sources:
            self.anchors = _select(self._sources["anchor_vectors"], pairs.first_records())
        else:
            self.anchors = self._encoding().vectors(pairs.anchors, "query", query, parts)
        if "corpus_vectors" in self._sources:
            self.candidates = _select(self._sources["corpus_vectors"], self._texts.records)
        else:
            self.candidates = self._encoding().vectors(self._texts.texts, "document", document, parts)
        _check_width(self.anchors, self.candidates)
        self.positive_scores = self._scores_of_positives(parts)

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

    def _scores_of_positives(self, parts: Parts) -> Array:
        """The similarity (P,) of each pair's positive to its anchor."""
        pairs, own = self._pairs.pairs, self._sources.get("positive_vectors")
        rows = [pair.number for pair in pairs]  # of the vectors of their own
        missing = [number for number, place in enumerate(self._places) if place is None]
        if missing and own is None:
            row_of: dict[str, int] = {}
            for number in missing:
                rows[number] = row_of.setdefault(pairs[number].positive, len(row_of))
            prompt = self._settings.corpus_prompt
            own = self._encoding().vectors(list(row_of), "document", prompt, parts.section("positives"))
        if own is not None:
            _check_width(self.anchors, own)
        scores = np.empty(len(pairs))
        for number, (pair, place) in enumerate(zip(pairs, self._places, strict=True)):
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
