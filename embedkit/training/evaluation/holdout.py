"""The rows that are held out of training, scored before and after: whether training helped, on your own data.

Pairs and captions are scored by recall@1: for how many anchors the nearest of all held-out positives is one of their
own (of images and captions in both directions, averaged). Rows with scores are scored by Spearman's correlation of
these and the cosines. Both are times 100.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.data import TrainingRows
from embedkit.data.datasets.holdout import FEWEST
from embedkit.data.schema.kinds import is_modality
from embedkit.errors import DataError, EmbedkitError
from embedkit.methods.base import Method
from embedkit.system.disk import write_durably
from embedkit.training.monitor.callbacks import Callbacks
from embedkit.training.monitor.log import Progress, RunLog

FILE = "holdout.json"


@dataclass
class HeldOutScores:
    """What ``holdout.json`` says.

    Attributes
    ----------
    metric : str
        ``recall@1`` or ``spearman``.
    kind : str
        What is scored: ``pairs``, ``image-caption pairs``, ``scored pairs`` or ``rows of several modalities``.
    rows : int
        How many rows are held out.
    before, after : float or None
        Scores of the model before the first step and of the saved one, times 100.
    """

    metric: str
    kind: str
    rows: int
    before: float | None = None
    after: float | None = None

    def verdict(self) -> str:
        """One line for people.

        >>> HeldOutScores("recall@1", "pairs", 6, 61.2, 74.5).verdict()
        'recall@1 on your 6 held-out pairs 61.2 -> 74.5'
        """
        first, last = ("none" if value is None else f"{value:.1f}" for value in (self.before, self.after))
        return f"{self.metric} on your {self.rows:,} held-out {self.kind} {first} -> {last}"


class HeldOut:
    """Held-out rows of a run and their scores; made by `HeldOut.of`.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.methods import methods
    >>> from embedkit.training.parallel.distributed import World
    >>> model = build(load_recipe("quickstart", smoke=True).model, 0)
    >>> rows = [{"anchor": "a cat", "positive": "a cat"}, {"anchor": "the dog", "positive": "the dog"}]
    >>> log = RunLog(Path("log.jsonl"), World(), Progress(), waited=lambda: 0.0)
    >>> held_out = HeldOut("pairs", rows, methods["pairs"](), Path("."), log, Progress(), Callbacks())
    >>> held_out.before(model, step=0)
    >>> held_out.scores.verdict()
    'recall@1 on your 2 held-out pairs 100.0 -> none'
    """

    def __init__(
        self, kind: str, rows: Sequence[dict[str, Any]], method: Method, folder: Path, log: RunLog, progress: Progress,
        callbacks: Callbacks,
    ) -> None:  # fmt: skip
        self._rows, self._method, self._file = rows, method, folder / FILE
        self._log, self._progress, self._callbacks = log, progress, callbacks
        self._score = _SCORES[kind]
        self.scores = HeldOutScores("spearman" if kind == "scored pairs" else "recall@1", kind, len(rows))

    @staticmethod
    def of(
        rows: TrainingRows, share: float, method: Method, folder: Path, log: RunLog, progress: Progress,
        callbacks: Callbacks,
    ) -> HeldOut | None:  # fmt: skip
        """The held-out rows of a run, `share` of all; None, with a note, where there are none that can be scored."""
        if not share:
            return None
        held_out = rows.held_out()
        kind = kind_of(held_out)
        if kind is not None:
            return HeldOut(kind, held_out, method, folder, log, progress, callbacks)
        progress.say(why_unscored(rows, share) or "")
        return None

    def before(self, model: Any, step: int) -> None:
        """Score the model before its first step; a resumed run reads what was found then."""
        if step == 0:
            self.scores.before = self._scored(model, 0)
            self._write()
        elif self._file.is_file():
            self.scores.before = json.loads(self._file.read_text(encoding="utf-8"))["before"]

    def after(self, model: Any, step: int) -> None:
        """Score the model that is saved, and say what training has brought."""
        self.scores.after = self._scored(model, step)
        self._write()
        self._progress.say(self.scores.verdict())

    def _scored(self, model: Any, step: int) -> float | None:
        was_training = model.training
        model.eval()
        try:
            score = self._score(model, self._rows, self._method)
        except EmbedkitError as error:  # an extra: it does not end a run, but is not hidden either
            self._progress.say(f"held-out rows are not scored: {error}")
            return None
        finally:
            model.train(was_training)
        name = f"holdout/{self.scores.metric}"
        self._log.evaluated(step, {name: score})
        self._callbacks.evaluate(step, {name: score})
        return score

    def _write(self) -> None:
        write_durably(self._file, (json.dumps(asdict(self.scores), indent=1) + "\n").encode())


def kind_of(rows: Sequence[dict[str, Any]]) -> str | None:
    """What rows with these roles are scored as; None where they are not pairs of anything.

    >>> kind_of([{"anchor": "a", "positive": "b"}]), kind_of([{"anchor": np.ones(2), "positive": np.ones(2)}])
    ('pairs', 'pairs')
    """
    if any(is_modality(role) for row in rows[:1] for role in row):
        return "rows of several modalities"
    roles = {
        role for row in rows[:1] for role, value in row.items()
        if value is not None and not (isinstance(value, list) and not value)
    }  # fmt: skip
    if {"image", "texts"} <= roles:
        return "image-caption pairs"
    if not {"anchor", "positive"} <= roles:
        return None
    return "scored pairs" if "score" in roles else "pairs"


def why_unscored(rows: TrainingRows, share: float) -> str | None:
    """A line on why no held-out rows are scored, `share` of all being asked for; None where some are, or none asked.

    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.training import setup
    >>> recipe = load_recipe("quickstart", ["evaluation=null", "data.train.0.limit=20"])
    >>> why_unscored(setup.open_rows(recipe, setup.check(recipe)), 0.1)
    'nothing is held out: 10% of 20 rows are fewer than 4; train.holdout=0.2 holds out so many'
    """
    held_out = rows.held_out() if share else []
    if not share or kind_of(held_out) is not None:
        return None
    if held_out:
        return "the rows that are held out are not scored: they are neither pairs nor images with captions"
    if rows.num_rows is None:
        return "nothing is held out of a stream: give an evaluation to see whether training helps"
    if round(share * rows.num_rows) < FEWEST:
        enough = math.ceil(100 * FEWEST / rows.num_rows) / 100
        more = f"; train.holdout={enough:g} holds out so many" if enough < 0.5 else ""
        return f"nothing is held out: {share:.0%} of {rows.num_rows:,} rows are fewer than {FEWEST}{more}"
    return "nothing is held out: too few rows share no text, image or group with the others"


def recall_at_1(similarity: np.ndarray, own: np.ndarray) -> float:
    """Share x 100 of rows of `similarity` (N, M) whose largest value is one of `own` (N, M, bool); ties are misses.

    >>> recall_at_1(np.array([[0.9, 0.1], [0.8, 0.2]]), np.eye(2, dtype=bool))
    50.0
    """
    best_own = np.where(own, similarity, -np.inf).max(axis=1)
    best_other = np.where(own, -np.inf, similarity).max(axis=1)
    return float(100.0 * np.mean(best_own > best_other))


def _distinct(values: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The different texts or vectors, and the number of each value among them."""
    keys = [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    of_value = [number[key] for key in keys]
    first: dict[int, Any] = {}
    for place, value in zip(of_value, values, strict=True):
        first.setdefault(place, value)
    return list(first.values()), of_value


def _pairs(model: Any, rows: Sequence[dict[str, Any]], method: Method) -> float:
    anchors, of_anchor = _distinct([row["anchor"] for row in rows])
    positives, of_positive = _distinct([row["positive"] for row in rows])
    own = np.zeros((len(anchors), len(positives)), dtype=bool)
    own[of_anchor, of_positive] = True
    first = model.encode(anchors, prompt=method.prompt_of(model, "anchor"))
    second = model.encode(positives, prompt=method.prompt_of(model, "positive"))
    return recall_at_1(model.similarity(first, second), own)


def _scored_pairs(model: Any, rows: Sequence[dict[str, Any]], method: Method) -> float:
    from scipy.stats import spearmanr

    first, second = (
        model.encode([row[role] for row in rows], prompt=method.prompt_of(model, role))
        for role in ("anchor", "positive")
    )
    cosines = np.diagonal(model.similarity(first, second))
    return float(100.0 * spearmanr(cosines, [row["score"] for row in rows]).statistic)


def _captions(model: Any, rows: Sequence[dict[str, Any]], method: Method) -> float:
    images = list(dict.fromkeys(row["image"] for row in rows))
    texts = list(dict.fromkeys(text for row in rows for text in row["texts"]))
    own = np.zeros((len(images), len(texts)), dtype=bool)
    for row in rows:
        for text in row["texts"]:
            own[images.index(row["image"]), texts.index(text)] = True
    pictures = model.encode([Path(image) if isinstance(image, str) else image for image in images])
    similarity = model.similarity(pictures, model.encode(texts))
    return (recall_at_1(similarity, own) + recall_at_1(similarity.T, own.T)) / 2


def _modalities(model: Any, rows: Sequence[dict[str, Any]], method: Method) -> float:
    """The mean over pairs of modalities and both directions, each over the rows that have both."""
    role_of: Mapping[str, str] = method.roles_of_towers  # type: ignore[attr-defined]
    scores = []
    for first, second in itertools.combinations(role_of, 2):
        both = [row for row in rows if row[role_of[first]] is not None and row[role_of[second]] is not None]
        if len(both) < FEWEST:
            continue
        one, of_one = _distinct([row[role_of[first]] for row in both])
        two, of_two = _distinct([row[role_of[second]] for row in both])
        own = np.zeros((len(one), len(two)), dtype=bool)
        own[of_one, of_two] = True
        vectors = [model.encode(_readable(x), tower=name) for x, name in ((one, first), (two, second))]
        similarity = model.similarity(*vectors)
        scores += [recall_at_1(similarity, own), recall_at_1(similarity.T, own.T)]
    if not scores:
        raise DataError("no two modalities stand together in enough of them", where="train.holdout")
    return float(np.mean(scores))


def _readable(values: list[Any]) -> list[Any]:
    """Images as `encode` takes them."""
    from embedkit.data.images.pictures import is_image

    return [Path(value) if isinstance(value, str) and is_image(value) else value for value in values]


_SCORES: dict[str, Callable[[Any, Sequence[dict[str, Any]], Method], float]] = {
    "pairs": _pairs, "scored pairs": _scored_pairs, "image-caption pairs": _captions,
    "rows of several modalities": _modalities,
}  # fmt: skip
