"""`embedkit.mine`: hard negatives for pairs, found by a model or by vectors that are at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit import __version__
from embedkit.errors import DataError, UserError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.negatives import Negatives, choose, in_ranks, pack, unpack
from embedkit.mining.output import check_output, training_rows, write_rows
from embedkit.mining.pairs import Candidates, Pairs, of_positives, read_corpus, read_pairs
from embedkit.mining.parts import Parts, digest, open_parts, part_size, search_device
from embedkit.mining.report import MiningReport, histogram
from embedkit.mining.scorer import Scorer, is_folder, load_scorer
from embedkit.mining.settings import MiningSettings, refuse_idle
from embedkit.mining.space import Space
from embedkit.retrieval.nearest import nearest_candidates
from embedkit.system.processes import join

if TYPE_CHECKING:
    from datasets import Dataset

    from embedkit.mining.neighbours.report import NeighbourReport

VectorSource = str | Path | Array
_EXAMPLES = 3
_NONE = np.empty(0)
_SCORED = 256
"""Anchors of a part with a cross-encoder: what a call that is stopped loses."""


@dataclass(frozen=True)
class MiningResult:
    """What `mine` gives back.

    Attributes
    ----------
    rows : list of dict
        The rows of the output, for ``embedkit.train("pairs", data=result.rows)``.
    report : MiningReport or NeighbourReport
        Counts, histograms, examples.
    output : Path or None
        The file that holds the rows.

    Examples
    --------
    >>> result = MiningResult([{"anchor": "a", "positive": "b", "negative_1": "c"}], MiningReport(rows=1))
    >>> result.to_dataset().column_names
    ['anchor', 'positive', 'negative_1']
    """

    rows: list[dict[str, Any]]
    report: MiningReport | NeighbourReport
    output: Path | None = None

    def to_dataset(self) -> Dataset:
        """The rows as a ``datasets.Dataset``."""
        from datasets import Dataset

        return Dataset.from_list(self.rows)


def mine(
    data: Any,
    model: Any = None,
    *,
    corpus: Any = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    where: Mapping[str, Any] | None = None,
    limit: int | None = None,
    id_column: str | None = None,
    corpus_column: str | None = None,
    corpus_id_column: str | None = None,
    anchor_vectors: VectorSource | None = None,
    corpus_vectors: VectorSource | None = None,
    positive_vectors: VectorSource | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    load_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> MiningResult:
    """Rows of pairs with their hard negatives, and a report on them.

    A call with an output that was stopped goes on where it was when it is repeated. Under ``torchrun`` (on GPUs also
    ``accelerate launch``) the work is shared by all processes; the first writes the output.

    Parameters
    ----------
    data : str, Path or object
        The pairs: whatever `embedkit.train` reads. Several rows of one anchor are several positives of it.
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``; not needed where all vectors are given.
    corpus : str, Path or object, optional
        Texts among which negatives are looked for; the positives of all pairs when None.
    output : str or Path, optional
        ``.jsonl`` or ``.parquet``, which ``embedkit train pairs`` reads.
    overwrite : bool
        Replace an existing output.
    columns, split, where, limit
        How the pairs are read: column -> role, split, values that rows must have, rows at most.
    id_column : str, optional
        The column of the pairs with the id, or a list of ids, of the positive.
    corpus_column, corpus_id_column : str, optional
        The columns of the corpus with its texts and ids.
    anchor_vectors, corpus_vectors : str, Path or array, optional
        ``.npy`` or arrays (N, D) in place of the model: one vector for each row of the pairs, and for each row of the
        corpus (without a corpus: for each pair).
    positive_vectors : str, Path or array, optional
        Vectors of the positives, one for each pair, where the corpus does not hold them.
    device : str, optional
        Where models compute and the matrix products of the search run; the best one here when None.
    progress : callable, optional
        Gets (texts or anchors done, all of them).
    load_options : mapping, optional
        Arguments of `embedkit.load`, for a model that is given by name.
    **settings
        See `MiningSettings`; names of sentence-transformers' ``mine_hard_negatives`` are understood.

    Raises
    ------
    UserError
        A setting is unknown, out of range, or has no effect; the output exists.
    DataError
        Pairs, corpus or vectors cannot be used, or no negative is left by the settings.

    Examples
    --------
    >>> import embedkit
    >>> rows = [{"question": "pay?", "answer": "By card."}, {"question": "when?", "answer": "In June."}]
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> result = embedkit.mine(rows, anchor_vectors=vectors, corpus_vectors=vectors, num_negatives=1)
    >>> result.rows[0]
    {'anchor': 'pay?', 'positive': 'By card.', 'negative_1': 'In June.'}
    """
    options = MiningSettings.of(settings)
    target = None if output is None else check_output(output, overwrite, data, corpus)
    vectors = {"anchor_vectors": anchor_vectors, "corpus_vectors": corpus_vectors, "positive_vectors": positive_vectors}
    _check_inputs(model, corpus is not None, vectors, bool(where) or limit is not None, options)
    if corpus is None:
        refuse_idle("there is no corpus", {"corpus_column": corpus_column, "corpus_id_column": corpus_id_column},
                    remedy="give a corpus, or leave it out")  # fmt: skip
    pairs = read_pairs(data, columns=columns, split=split, where=where, limit=limit, id_column=id_column)
    candidates = of_positives(pairs)
    if corpus is not None:
        candidates = read_corpus(corpus, column=corpus_column, id_column=corpus_id_column)
    notes = [*pairs.notes, *candidates.notes, *_check_ids(pairs, candidates, id_column)]
    _check_ranks(options, candidates)
    state = join(cpu=device == "cpu")
    loading = {"device": device, **(load_options or {})}
    space = Space(pairs, candidates, model, corpus is None, vectors, options, progress, loading)
    scorer = None
    if options.cross_encoder is not None:
        scorer = load_scorer(options.cross_encoder, **_of_scorer(options, loading))
    with open_parts(target, lambda: _identity(pairs, candidates, space, options, scorer), state) as parts:
        space.fill(parts)
        choices = _search(pairs, candidates, space, options, parts, scorer, device, progress)
        report = _count(pairs, candidates, choices, options)
        rows = list(_rows(pairs, candidates, choices, space.positive_scores, options))
        report.rows, report.notes = len(rows), notes
        _describe(report, pairs, candidates, [one if _is_written(one, options) else None for one in choices],
                  space.positive_scores)  # fmt: skip
        if target is not None and parts.main:
            write_rows(target, rows)
    return MiningResult(rows, report, target)


def _of_scorer(settings: MiningSettings, loading: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `load_scorer`; a function takes none of those of a model."""
    options: dict[str, Any] = {"label": settings.cross_encoder_label}
    if is_folder(settings.cross_encoder):
        options |= {name: loading[name] for name in ("device", "trust_remote_code", "allow_pickle") if name in loading}
    return options


def _identity(
    pairs: Pairs, candidates: Candidates, space: Space, settings: MiningSettings, scorer: Scorer | None
) -> dict[str, Any] | None:
    """What decides which negatives are found, as plain values; None where a model cannot tell what it is."""
    vectors = space.identity()
    score = None if scorer is None else scorer.identity()
    if vectors is None or (scorer is not None and score is None):
        return None
    rows = [[one.anchor, one.positive, one.ids, one.group] for one in pairs.pairs]
    copies = [[one.anchor, one.ids, one.group] for several in pairs.copies.values() for one in several]
    texts = digest(pairs.anchors, rows, copies, candidates.texts, candidates.by_id, candidates.by_group)
    own = {"version": __version__, "texts": texts, "cross_encoder": None if score is None else digest(score)}
    return {**own, **vectors, **settings.identity()}


def _check_inputs(
    model: Any, has_corpus: bool, vectors: Mapping[str, Any], partial: bool, settings: MiningSettings
) -> None:
    """Refuse what has no effect, and what is missing, before anything is read."""
    if not has_corpus and vectors["positive_vectors"] is not None:
        raise UserError("the candidates are the positives", where="positive_vectors", remedy="give corpus_vectors")
    lacking = [name for name in ("anchor_vectors", "corpus_vectors") if vectors[name] is None]
    if model is None and lacking:
        raise UserError("neither a model nor all vectors are given", where=lacking[0],
                        remedy="give a model, or anchor_vectors and corpus_vectors")  # fmt: skip
    if model is not None and not lacking and (vectors["positive_vectors"] is not None or not has_corpus):
        refuse_idle("all vectors are given", {"model": model})
    if model is None:
        names = ("query_prompt", "corpus_prompt", "truncate_dim")
        refuse_idle("it is for a model, and vectors are given", {name: getattr(settings, name) for name in names})
    if vectors["anchor_vectors"] is not None:
        refuse_idle("it is for a model, and vectors of anchors are given", {"query_prompt": settings.query_prompt})
    if partial and (
        vectors["anchor_vectors"] is not None or (not has_corpus and vectors["corpus_vectors"] is not None)
    ):
        raise UserError("vectors belong to all rows of the pairs, and where and limit leave some out",
                        where="anchor_vectors", remedy="write the rows to a file of their own first")  # fmt: skip


def _check_ids(pairs: Pairs, candidates: Candidates, asked_for: str | None) -> list[str]:
    """How ids are read, in words; ids that match nothing are refused."""
    if pairs.id_column is None:
        return []
    if not candidates.by_id:
        if asked_for is None:
            return []
        raise DataError(f"it has no ids, and the pairs have them in {asked_for!r}", where=candidates.name,
                        remedy="name their column: --corpus-id-column NAME, or leave --id-column out")  # fmt: skip
    ids = list(dict.fromkeys(one for pair in pairs.pairs for one in pair.ids))
    missing = [one for one in ids if one not in candidates.by_id]
    if ids and len(missing) == len(ids):
        example = next(pair for pair in pairs.pairs if pair.ids)
        raise DataError(
            f"none of the {len(ids):,} ids in column {pairs.id_column!r} is in {candidates.name}: {example.ids[0]!r} "
            f"here, {next(iter(candidates.by_id))!r} there", where=example.where,
            remedy="name the columns with --id-column and --corpus-id-column, or rename the column",
        )  # fmt: skip
    note = f"{pairs.name}: {pairs.id_column} holds the ids of the positives (--id-column changes that)"
    lost = (
        f"{len(missing):,} of {len(ids):,} ids are not in {candidates.name}, the first {missing[0]!r}"
        if missing
        else ""
    )
    return [note, lost] if lost else [note]


def _check_ranks(settings: MiningSettings, candidates: Candidates) -> None:
    """Refuse ranks that the candidates do not have."""
    count = len(candidates.texts)
    for name, value in (
        ("num_negatives", settings.num_negatives), ("range_min", settings.range_min + 1),
        ("range_max", settings.range_max or 0),
    ):  # fmt: skip
        if value > count:
            what = f"{name} is {getattr(settings, name):,}, and there are {count:,} different candidates"
            raise DataError(what, where=candidates.name, remedy="lower it, or give a larger corpus")


def _search(
    pairs: Pairs, candidates: Candidates, space: Space, settings: MiningSettings, parts: Parts,
    scorer: Scorer | None, device: str | None, progress: Callable[[int, int], None] | None,
) -> list[Negatives]:  # fmt: skip
    """The negatives of every anchor, in their order; a cross-encoder's scores of positives replace the others."""
    count, filters = len(pairs.anchors), settings.filters
    size = part_size(len(candidates.texts))
    if scorer is not None:
        size = _SCORED
    elif parts.folder is None:
        size = count  # what is not kept need not be cut
    place = search_device(device)
    over = 0

    def work(number: int) -> dict[str, Array]:
        nonlocal over
        rows = range(number * size, min((number + 1) * size, count))
        own = [candidates.exclusions(pairs.anchors[row], pairs.all_of(row)) for row in rows]
        needs = np.array([settings.last_rank + len(one) for one in own])
        hits: list[tuple[Array, Array]] = [(_NONE, _NONE)] * len(rows)
        nearest = nearest_candidates(space.anchors.select(rows), space.candidates, needs,
                                     block_size=settings.block_size, device=place)  # fmt: skip
        for row, places, scores in nearest:
            hits[row] = in_ranks(places, scores, own[row], settings)
            over += 1
            if progress is not None:
                progress(over, count)
        positives = [space.positive_scores[pairs.of_anchor[row]] for row in rows]
        if scorer is not None:
            hits, positives = _rescored(pairs, candidates, rows, hits, scorer)
        choices = [
            choose(pairs.anchors[row], places, scores, float(own_scores.min()), settings)
            for row, (places, scores), own_scores in zip(rows, hits, positives, strict=True)
        ]
        return {**pack(choices, filters), "positives": np.concatenate(positives)}

    choices: list[Negatives] = []
    for arrays in parts.run("negatives", -(-count // size), work):
        rows = range(len(choices), len(choices) + len(arrays["figures"]))
        places = [place for row in rows for place in pairs.of_anchor[row]]
        space.positive_scores[places] = arrays["positives"]
        choices += unpack(arrays, filters)
    return choices


def _rescored(
    pairs: Pairs, candidates: Candidates, rows: range, hits: list[tuple[Array, Array]], scorer: Scorer
) -> tuple[list[tuple[Array, Array]], list[Array]]:
    """Candidates and positives of some anchors with the scores of a cross-encoder."""
    texts: list[tuple[str, str]] = []
    for row, (places, _) in zip(rows, hits, strict=True):
        anchor = pairs.anchors[row]
        texts += [(anchor, candidates.texts[place]) for place in places]
        texts += [(anchor, pairs.pairs[place].positive) for place in pairs.of_anchor[row]]
    scores = scorer([a for a, _ in texts], [b for _, b in texts]).astype(np.float64)
    if scores.ndim == 2:
        raise UserError(f"it has {scores.shape[1]} outputs ({', '.join(scorer.labels) or 'without names'})",
                        where=scorer.name, remedy="name one: --cross-encoder-label NAME")  # fmt: skip
    again, positives, start = [], [], 0
    for row, (places, _) in zip(rows, hits, strict=True):
        middle = start + len(places)
        stop = middle + len(pairs.of_anchor[row])
        again.append((places, scores[start:middle]))
        positives.append(scores[middle:stop])
        start = stop
    return again, positives


def _is_written(one: Negatives, settings: MiningSettings) -> bool:
    """Whether an anchor's rows are in the output."""
    return settings.too_few == "keep" or len(one.places) == settings.num_negatives


def _count(pairs: Pairs, candidates: Candidates, choices: list[Negatives], settings: MiningSettings) -> MiningReport:
    """The counts of the report; finding nothing at all is refused."""
    rejections: Counter[str] = Counter(dict.fromkeys(settings.filters, 0))
    for one in choices:
        rejections.update(one.rejections)
    in_range = sum(one.in_range for one in choices)
    negatives = sum(len(one.places) for one in choices if _is_written(one, settings))
    too_few = sum(len(one.places) < settings.num_negatives for one in choices)
    if not in_range:
        raise DataError(f"no anchor has a candidate at rank {settings.range_min} that is not its own positive",
                        where=candidates.name, remedy="lower range_min, or give a larger corpus")  # fmt: skip
    if not negatives:
        reasons = ", ".join(f"{name}={getattr(settings, name)} left out {n:,}" for name, n in rejections.items())
        some = any(len(one.places) for one in choices)
        raise DataError(
            f"{'no anchor has enough negatives' if some else 'no negatives are left'} of {in_range:,} candidates"
            + (f" ({reasons})" if reasons else ""), where=pairs.name,
            remedy="loosen these settings, raise range_max, or lower num_negatives",
        )  # fmt: skip
    return MiningReport(
        pairs=len(pairs.pairs), repeats=pairs.repeats, anchors=len(choices), candidates=len(candidates.texts),
        negatives=negatives, too_few=too_few, without=sum(not len(one.places) for one in choices),
        dropped=too_few if settings.too_few == "drop" else 0, in_range=in_range, rejections=dict(rejections),
        false_negatives=sum(one.above for one in choices) / sum(one.first for one in choices),
    )  # fmt: skip


def _rows(
    pairs: Pairs, candidates: Candidates, choices: list[Negatives], positives: Array, settings: MiningSettings
) -> Iterator[dict[str, Any]]:
    """The rows of the output, in the order of the pairs."""
    for number, pair in enumerate(pairs.pairs):
        one = choices[pair.anchor]
        if _is_written(one, settings):
            texts = [candidates.texts[place] for place in one.places]
            scores = [float(positives[number]), *one.scores.tolist()]
            yield from training_rows(pairs.anchors[pair.anchor], pair.positive, texts, scores, settings, pair.group)


def _describe(
    report: MiningReport, pairs: Pairs, candidates: Candidates, choices: list[Negatives | None], positives: Array
) -> None:
    """Histograms, and as examples some anchors with negatives, evenly spaced, each with its first positive."""
    with_some = [(number, one) for number, one in enumerate(choices) if one is not None and len(one.places)]
    scores = np.concatenate([one.scores for _, one in with_some])
    report.histogram = histogram(positives=positives, negatives=scores)
    report.means = {"positives": float(positives.mean()), "negatives": float(scores.mean())}
    count = min(_EXAMPLES, len(with_some))
    for anchor, one in (with_some[number * len(with_some) // count] for number in range(count)):
        first = pairs.of_anchor[anchor][0]
        report.examples.append({
            "anchor": pairs.anchors[anchor], "positive": pairs.pairs[first].positive,
            "positive_score": float(positives[first]),
            "negatives": [candidates.texts[place] for place in one.places], "negative_scores": one.scores.tolist(),
        })  # fmt: skip
