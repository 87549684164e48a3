"""`embedkit.score`: scores of pairs, and of the negatives beside them, for training on degrees of similarity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.data_source import Account
from embedkit.errors import DataError, UserError
from embedkit.mining.output import check_output
from embedkit.mining.pairs import data_path, open_pairs, our_words, text_key
from embedkit.mining.report import histogram, short
from embedkit.mining.rows.journal import Journal, key_of
from embedkit.mining.rows.result import RowsResult, finish, spread
from embedkit.mining.scorer import load_scorer
from embedkit.mining.scores.guide import GuideScorer
from embedkit.mining.settings import refuse_idle

WINDOW = 8192
"""Pairs that are scored, and kept on the disk, together: what a stopped run loses at most."""
_EXAMPLES = 3
_TRIES = 50


@dataclass
class ScoreReport:
    """The account of a call of `embedkit.score`.

    Attributes
    ----------
    rows : int
        Rows of the output, random ones among them.
    pairs, reused : int
        Different pairs of texts that have a score, and those of them that a stopped run had scored.
    zeros, unlike : int
        Random pairs with the score 0, and random pairs that were not taken since they score `zeros_below` or more.
    lowest, mean, highest : float
        Of the scores, random pairs left out.
    histogram : dict
        ``edges`` (n + 1) and ``counts`` (n) of these scores.
    examples : list of dict
        ``score``, ``anchor``, ``text``: from the lowest to the highest score.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> next(ScoreReport(rows=3, pairs=2, zeros=1, lowest=0.1, mean=0.5, highest=0.9).lines())
    '3 rows: 2 different pairs scored from 0.100 to 0.900, 0.500 on average; 1 random pairs with the score 0'
    """

    rows: int = 0
    pairs: int = 0
    reused: int = 0
    zeros: int = 0
    unlike: int = 0
    lowest: float = 0.0
    mean: float = 0.0
    highest: float = 0.0
    histogram: dict[str, list[Any]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        yield (
            f"{self.rows:,} rows: {self.pairs:,} different pairs scored from {self.lowest:.3f} to {self.highest:.3f}, "
            f"{self.mean:.3f} on average" + (f"; {self.zeros:,} random pairs with the score 0" if self.zeros else "")
        )
        if self.reused:
            yield f"{self.reused:,} pairs had been scored before the call was stopped"
        if self.unlike:
            yield f"{self.unlike:,} random pairs are too similar for a 0 and were left out"
        most = max([1, *self.histogram.get("counts", [])])
        for place, count in enumerate(self.histogram.get("counts", [])):
            low, high = self.histogram["edges"][place : place + 2]
            yield f"{low:6.3f} - {high:6.3f}  {count:9,} {'#' * -(-count * 30 // most)}".rstrip()
        for one in self.examples:
            yield f"  {one['score']:6.3f}  {short(one['anchor'], 60)}  |  {short(one['text'], 60)}"


def score(
    data: Any, scorer: Any = None, *, model: Any = None, output: str | Path | None = None, overwrite: bool = False,
    columns: Mapping[str, str] | None = None, split: str | None = None, where: Mapping[str, Any] | None = None,
    limit: int | None = None, random_zeros: int = 0, zeros_below: float | None = None, smoothing: float = 0.0,
    seed: int = 0, label: str | int | None = None, activation: str | None = None, batch_size: int = 32,
    max_length: int | None = None, similarity: str = "cosine", query_prompt: str | None = None,
    corpus_prompt: str | None = None, truncate_dim: int | None = None,
    progress: Callable[[int, int], None] | None = None, load_options: Mapping[str, Any] | None = None,
) -> RowsResult[ScoreReport]:  # fmt: skip
    """Rows with the scores of their pairs, and a report on these.

    Pairs get a column ``score``, which the recipe `scored-pairs` reads; where rows have negatives, a column ``scores``
    with that of the positive and of each negative, which the objectives margin-mse and distill-kl read.

    Parameters
    ----------
    data : str, Path or object
        Pairs, also with negatives: whatever `embedkit.train` reads for the recipe `pairs`.
    scorer : str, Path or object, optional
        A cross-encoder or sequence classifier, or a function ``(texts_a, texts_b) -> scores``, also as
        ``my.py:function``; see `embedkit.mining.scorer.load_scorer`.
    model : str, Path or Model, optional
        An encoder in place of a scorer: the similarity of both vectors is the score.
    output, overwrite
        ``.jsonl`` or ``.parquet``; whether an existing one is replaced.
    columns, split, where, limit
        How the pairs are read: column -> role, split, values that rows must have, rows at most.
    random_zeros : int
        For each anchor as many pairs with the positives of other anchors, drawn at random, and the score 0.
    zeros_below : float, optional
        Such pairs are scored too, and only those below this score are taken.
    smoothing : float
        Scores become ``score * (1 - smoothing) + smoothing / 2``; random zeros stay 0. CLAIF has 0.2.
    seed : int
        Of the random pairs.
    label, activation, batch_size, max_length
        See `embedkit.mining.scorer.load_scorer`.
    similarity, query_prompt, corpus_prompt, truncate_dim
        Of the encoder: ``cosine`` or ``dot``, prompts of anchors and of the other texts, and first coordinates.
    progress : callable, optional
        Gets (pairs done, pairs in all).
    load_options : mapping, optional
        Arguments of `embedkit.load`, for an encoder or scorer that is given by name.

    Raises
    ------
    UserError
        A setting is wrong, has no effect or is missing.
    DataError
        The pairs cannot be read.
    NonFiniteError
        A score is NaN or infinite.

    Examples
    --------
    >>> import embedkit
    >>> words = lambda a, b: [len(set(x.split()) & set(y.split())) / 3 for x, y in zip(a, b)]
    >>> rows = [{"anchor": "a red car", "positive": "the red car"}, {"anchor": "it rains", "positive": "snow"}]
    >>> [round(row["score"], 2) for row in embedkit.score(rows, words).rows]
    [0.67, 0.0]
    """
    _check_settings(random_zeros, zeros_below, smoothing, seed, similarity)
    target = None if output is None else check_output(output, overwrite, data)
    guide = {"query_prompt": query_prompt, "corpus_prompt": corpus_prompt, "truncate_dim": truncate_dim}
    cross: dict[str, Any] = {"label": label, "activation": activation, "max_length": max_length}
    _check_source(scorer, model, {**guide, "similarity": similarity}, {**cross, "batch_size": batch_size})
    rows, notes = _read(data, columns=columns, split=split, where=where, limit=limit)
    lists = any(row["negatives"] for row in rows)
    if lists and random_zeros:
        raise UserError("rows have negatives, and their scores are lists", where="random_zeros",
                        remedy="leave it out, or give pairs alone")  # fmt: skip
    options = dict(load_options or {})
    if scorer is not None:
        call: Any = load_scorer(scorer, batch_size=batch_size, **cross, **options)
    else:
        call = GuideScorer(_loaded(model, options), similarity=similarity, query_prompt=query_prompt,
                           corpus_prompt=corpus_prompt, dim=truncate_dim)  # fmt: skip
    report = ScoreReport(notes=notes)
    zeros = _random_pairs(rows, random_zeros, seed)
    target_count = random_zeros * len({text_key(row["anchor"]) for row in rows})
    if len(zeros) < target_count:
        notes.append(f"{len(zeros):,} of {target_count:,} random pairs were found: too few texts of other anchors")
    pairs = [(row["anchor"], text) for row in rows for text in (row["positive"], *row["negatives"])]
    ask = [*pairs, *zeros] if zeros_below is not None else pairs
    identity = _identity(scorer if scorer is not None else model, {**guide, **cross, "similarity": similarity})
    place = None if target is None or identity is None else target.with_name(f".{target.name}.scores.jsonl")
    with Journal(place) as journal, journal.kept("the scores"):
        score_of = _scores(ask, call, journal, identity or "", report, progress)
        rows_out = _rows(rows, score_of, lists, smoothing)
        rows_out += _zero_rows(zeros, score_of, zeros_below, report)
        _describe(report, pairs, score_of, len(rows_out))
        result = finish(rows_out, report, target)
    if place is not None:
        place.unlink(missing_ok=True)
    return result


def _check_settings(random_zeros: int, zeros_below: float | None, smoothing: float, seed: int, similarity: str) -> None:
    for name, value in (("random_zeros", random_zeros), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UserError(f"{value!r} is no whole number from 0 on", where=name, remedy="give another number")
    if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
        raise UserError(f"{smoothing!r} is not from 0 to below 1", where="smoothing", remedy="give 0.2, for example")
    if similarity not in ("cosine", "dot"):
        raise UserError(f"{similarity!r} is no choice", where="similarity", remedy="known: cosine, dot")
    if not random_zeros:
        refuse_idle("there are no random pairs", {"zeros_below": zeros_below, "seed": seed}, score,
                    remedy="set random_zeros, or leave it out")  # fmt: skip


def _check_source(scorer: Any, model: Any, guide: Mapping[str, Any], cross: Mapping[str, Any]) -> None:
    """Exactly one of scorer and model, and no settings of the other."""
    if (scorer is None) == (model is None):
        what = "nothing says who scores" if scorer is None else "a scorer and a model are given"
        raise UserError(what, where="score", remedy="give a scorer (cross-encoder, function) or a model (encoder)")
    kind, other = ("scorer", "model") if scorer is None else ("model", "scorer")
    refuse_idle(f"it is for a {kind}, and a {other} is given", cross if scorer is None else guide, score)


def _loaded(model: Any, options: dict[str, Any]) -> Any:
    if not isinstance(model, str | Path):
        return model
    from embedkit.formats import load

    return load(model, **options)


def _read(data: Any, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with anchor, positive, negatives and group, and how columns were read."""
    rows: list[dict[str, Any]] = []
    with data_path(data) as path, our_words():
        source, notes = open_pairs(path, also=frozenset({"negatives"}), **options)
        for place, outcome in source.outcomes(Account()):
            if isinstance(outcome, BadRow):
                raise outcome.refused(source.where(place))
            for row in outcome:
                rows.append({"negatives": [], **row})
    if not rows:
        raise DataError("no pairs are left", where=path, remedy="check the file, and the values of where")
    return rows, notes


def _identity(source: Any, settings: Mapping[str, Any]) -> str | None:
    """What decides the scores, of something that has a name; None for an object in memory, which has none."""
    if not isinstance(source, str | Path):
        return None
    state = hashlib.blake2b(digest_size=16)
    file = Path(str(source).rpartition(":")[0] if ".py:" in str(source) else source).expanduser()
    for path in sorted(file.rglob("*")) if file.is_dir() else [file]:
        if path.is_file():
            status = path.stat()
            state.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return key_of(str(source), state.hexdigest(), {name: str(value) for name, value in settings.items()})


Pair = tuple[str, str]


def _scores(
    pairs: Sequence[Pair], call: Any, journal: Journal, identity: str, report: ScoreReport,
    progress: Callable[[int, int], None] | None,
) -> dict[Pair, float]:  # fmt: skip
    """The score of each different pair, from the journal or the scorer."""
    different = list(dict.fromkeys(pairs))
    keys = {pair: key_of(identity, *pair) for pair in different}
    missing = [pair for pair in different if keys[pair] not in journal]
    report.reused = len(different) - len(missing)
    for start in range(0, len(missing), WINDOW):
        window = missing[start : start + WINDOW]
        scores = np.asarray(call([first for first, _ in window], [second for _, second in window]))
        if scores.ndim != 1:
            raise UserError(f"it gives {scores.shape[1]} scores a pair", where=call.name,
                            remedy=f"choose one with label: {', '.join(call.labels) or '0, 1 ...'}")  # fmt: skip
        journal.put({keys[pair]: float(value) for pair, value in zip(window, scores, strict=True)})
        if progress is not None:
            progress(start + len(window), len(missing))
    return {pair: journal[keys[pair]] for pair in different}


def _rows(
    rows: Sequence[Mapping[str, Any]], score_of: Mapping[Pair, float], lists: bool, smoothing: float
) -> list[dict[str, Any]]:
    """The rows of the output, in the order of the file."""
    result = []
    for row in rows:
        texts = [row["positive"], *row["negatives"]]
        values = [round(score_of[row["anchor"], text] * (1 - smoothing) + smoothing / 2, 6) for text in texts]
        one: dict[str, Any] = {"anchor": row["anchor"], "positive": row["positive"]}
        one |= {"negatives": list(row["negatives"]), "scores": values} if lists else {"score": values[0]}
        result.append({**one, **({"group": row["group"]} if "group" in row else {})})
    return result


def _random_pairs(rows: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Pair]:
    """Pairs of each anchor with positives of other rows, which share neither text nor group with it.

    The draw for an anchor depends on the seed and its text.
    """
    if not count:
        return []
    partners: dict[str, set[str]] = {}
    groups: dict[str, set[str]] = {}
    anchors: dict[str, str] = {}
    for row in rows:
        key = text_key(row["anchor"])
        anchors.setdefault(key, row["anchor"])
        partners.setdefault(key, {key}).update([text_key(row["positive"])])
        if row.get("group") is not None:
            groups.setdefault(key, set()).add(str(row["group"]))
    pairs: list[Pair] = []
    for key, anchor in anchors.items():
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        generator = np.random.PCG64(np.random.SeedSequence((seed, int.from_bytes(digest, "little"))))
        own, left = set(partners[key]), count
        for _ in range(_TRIES * count):
            row = rows[int(generator.random_raw()) % len(rows)]
            text = text_key(row["positive"])
            if text in own or str(row.get("group")) in groups.get(key, ()) or text_key(row["anchor"]) == key:
                continue
            own.add(text)
            pairs.append((anchor, row["positive"]))
            left -= 1
            if not left:
                break
    return pairs


def _zero_rows(
    zeros: Sequence[Pair], values: Mapping[Pair, float], below: float | None, report: ScoreReport
) -> list[dict[str, Any]]:
    """The random pairs as rows, those that are too similar left out."""
    stay = [pair for pair in zeros if below is None or values[pair] < below]
    report.zeros, report.unlike = len(stay), len(zeros) - len(stay)
    return [{"anchor": first, "positive": second, "score": 0.0} for first, second in stay]


def _describe(report: ScoreReport, pairs: Sequence[Pair], score_of: Mapping[Pair, float], rows: int) -> None:
    """The figures and examples of the report."""
    different = list(dict.fromkeys(pairs))
    values = np.array([score_of[pair] for pair in different])
    report.rows, report.pairs = rows, len(different)
    report.lowest, report.mean, report.highest = float(values.min()), float(values.mean()), float(values.max())
    report.histogram = histogram(counts=values)
    order = np.argsort(values, kind="stable")
    picks = dict.fromkeys([*spread(order[:-1].tolist(), _EXAMPLES), int(order[-1])])
    report.examples = [
        {"score": float(values[one]), "anchor": short(different[one][0]), "text": short(different[one][1])}
        for one in picks
    ]
