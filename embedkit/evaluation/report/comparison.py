"""Is one model better than another? Differences of two result files, with a paired bootstrap.

Both models' samples are drawn together, so that what makes a sample hard for both cancels out (Efron and Tibshirani
1993, chapter 16; for retrieval Smucker et al. 2007). Scores of unlike tasks are never subtracted in silence: a task
whose data or settings differ is listed with the reason and without a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import UserError
from embedkit.evaluation.core.stats import Array, Samples, draw_weights, generator, interval
from embedkit.evaluation.core.task import kind_in
from embedkit.evaluation.report.report import Report, load_reports, plain

# What is allowed to differ between the models, and is then reported.
_MODEL_SETTINGS = ("prompt", "dim", "pooler", "max_length", "precision")


@dataclass(frozen=True)
class Difference:
    """One line of a comparison.

    Attributes
    ----------
    name : str
        Task, or "avg".
    first, second : float
        Scores.
    difference : float or None
        ``second - first``; None where the two are unlike.
    interval : tuple of float or None
        95 % interval of the difference.
    p : float or None
        Two-sided bootstrap p-value of no difference.
    unlike : str or None
        Why the two cannot be compared.

    Examples
    --------
    >>> Difference("stsb", 80.1, 82.4, 2.3, interval=(0.9, 3.8), p=0.002).significant
    True
    """

    name: str
    first: float
    second: float
    difference: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    unlike: str | None = None

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval of the difference leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass
class Comparison:
    """A model against another on one suite.

    Attributes
    ----------
    suite, first, second : str
        The suite and how the models are called.
    rows : list of Difference
    notes : list of str
        Settings in which the two differ.

    Examples
    --------
    >>> row = Difference("stsb", 80.1, 82.4, 2.3, interval=(0.9, 3.8), p=0.002)
    >>> print(Comparison("sts", "before", "after", [row]).table())
    sts: before -> after
    stsb     80.10     82.40     +2.30  [+0.90, +3.80]  p = 0.002 *
    """

    suite: str
    first: str
    second: str
    rows: list[Difference]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain JSON types."""
        rows = [asdict(row) | {"significant": row.significant} for row in self.rows]
        parts = {"suite": self.suite, "first": self.first, "second": self.second, "rows": rows, "notes": self.notes}
        content: dict[str, Any] = plain(parts)
        return content

    def table(self) -> str:
        """Lines of text: task, both scores, difference with interval and p; ``*`` marks significance at 5 %."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"{self.suite}: {self.first} -> {self.second}"]
        for row in self.rows:
            line = f"{row.name:<{width}}  {row.first:8.2f}  {row.second:8.2f}"
            if row.difference is None:
                line += f"  not compared: {row.unlike}"
            else:
                line += f"  {row.difference:+8.2f}"
                if row.interval is not None:
                    mark = " *" if row.significant else ""
                    line += f"  [{row.interval[0]:+.2f}, {row.interval[1]:+.2f}]  p = {row.p:.3g}{mark}"
            lines.append(line)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _names(first: Report, second: Report) -> tuple[str, str]:
    """How the models are called; two of one name are told apart by their hashes."""
    hashes = [str(report.model.get("hash") or f"model {place + 1}")[:8] for place, report in enumerate((first, second))]
    names = [str(r.model.get("name") or digest) for r, digest in zip((first, second), hashes, strict=True)]
    if names[0] == names[1]:
        names = [f"{name} ({digest})" for name, digest in zip(names, hashes, strict=True)]
    return names[0], names[1]


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings; what a file of an older version does not name had its default."""
    task = kind_in(settings.get("kind"))
    fields = task.settings_type.model_fields if task is not None else {}
    defaults = {
        key: plain(field.default) for key, field in fields.items() if not field.is_required() and key != "columns"
    }
    return {**{key: value for key, value in defaults.items() if isinstance(value, str | int | float)}, **settings}


def _unlike(first: Report, second: Report, task: str) -> str | None:
    """Why a task's two scores must not be subtracted; None when nothing speaks against it."""
    data = [report.settings.get("data", {}).get(task, {}) for report in (first, second)]
    hashes = [part.get("sha256") or part.get("revision") for part in data]
    if hashes[0] != hashes[1]:
        return "the data differ"
    if first.settings.get("split") != second.settings.get("split"):
        return f"the splits differ ({first.settings.get('split')}, {second.settings.get('split')})"
    settings = [_with_defaults(report.settings.get("tasks", {}).get(task, {})) for report in (first, second)]
    keys = [key for key in {**settings[0], **settings[1]} if settings[0].get(key) != settings[1].get(key)]
    if keys:
        return "settings differ: " + ", ".join(f"{k} {settings[0].get(k)} / {settings[1].get(k)}" for k in sorted(keys))
    if first.tasks[task].metric != second.tasks[task].metric:
        return f"the metrics differ ({first.tasks[task].metric}, {second.tasks[task].metric})"
    return None


def _paired(first: Samples | None, second: Samples | None) -> bool:
    """Whether the samples of two results stand for the same rows."""
    if first is None or second is None or first.statistic != second.statistic or len(first) != len(second):
        return False
    same = [key for key in first.values if key not in ("prediction", "value")]
    return all(np.array_equal(first.values[key], second.values.get(key, np.empty(0))) for key in same)


def _draws(first: Samples, second: Samples, unit: float, resamples: int, rng: np.random.Generator) -> Array:
    """Bootstrap values of the difference, (resamples,)."""
    one, other = first.build(), second.build()
    values = []
    for _ in range(resamples):
        weights = draw_weights(first, rng)
        values.append(unit * (other(weights) - one(weights)))
    return np.array(values)


def _p_value(draws: Array) -> float:
    below, above = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(draws) + 1)))


def compare_reports(first: Report, second: Report, *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Differences ``second - first`` of every task that both have, and of the average.

    Raises
    ------
    UserError
        The reports are of different suites, or share no task.

    Examples
    --------
    >>> from embedkit.evaluation.core.task import TaskResult
    >>> def report(name, hits):
    ...     score, samples = 100 * float(np.mean(hits)), Samples("mean", {"value": np.array(hits)})
    ...     result = TaskResult("faq", "accuracy", score, {"accuracy": score}, samples)
    ...     return Report("own", {"faq": result}, {"faq": score}, "faq", {"name": name}, {"split": "test"})
    >>> print(compare_reports(report("before", [0, 0, 1, 1] * 9), report("after", [0, 1, 1, 1] * 9)).table())
    own: before -> after
    faq     50.00     75.00    +25.00  [+11.11, +38.89]  p = 0.001 *
    """
    if first.suite != second.suite:
        raise UserError(
            f"the results are of different suites, {first.suite!r} and {second.suite!r}",
            remedy="compare results of one suite",
        )
    shared = [name for name in first.tasks if name in second.tasks]
    if not shared:
        raise UserError("the results share no task", where=f"suite {first.suite}")
    rows, draws = [], {}
    for name in shared:
        one, other = first.tasks[name], second.tasks[name]
        reason = _unlike(first, second, name)
        if reason is not None:
            rows.append(Difference(name, one.score, other.score, None, unlike=reason))
            continue
        difference = Difference(name, one.score, other.score, other.score - one.score)
        if one.samples is not None and other.samples is not None and _paired(one.samples, other.samples):
            draws[name] = _draws(one.samples, other.samples, one.unit, resamples, generator(seed, name))
            difference = Difference(
                name, one.score, other.score, other.score - one.score, interval(draws[name]), _p_value(draws[name])
            )
        rows.append(difference)
    if "avg" in first.scores and "avg" in second.scores:
        rows.append(_average(first, second, rows, draws))
    return Comparison(first.suite, *_names(first, second), rows, _notes(first, second))


def _average(first: Report, second: Report, rows: Sequence[Difference], draws: Mapping[str, Array]) -> Difference:
    one, other = first.scores["avg"], second.scores["avg"]
    if set(first.tasks) != set(second.tasks):
        return Difference("avg", one, other, None, unlike="they are averages of different tasks")
    if any(row.difference is None for row in rows):
        return Difference("avg", one, other, None, unlike="some tasks are unlike")
    if first.settings.get("average") != second.settings.get("average"):
        return Difference("avg", one, other, None, unlike="they are averaged by different rules")
    if len(draws) < len(rows):
        return Difference("avg", one, other, other - one)
    values = np.mean(list(draws.values()), axis=0)
    return Difference("avg", one, other, other - one, interval(values), _p_value(values))


def _notes(first: Report, second: Report) -> list[str]:
    notes = []
    for key in _MODEL_SETTINGS:
        values = [report.settings.get(key) for report in (first, second)]
        if values[0] != values[1]:
            notes.append(f"{key} differs: {values[0]} / {values[1]}")
    versions = [report.settings.get("versions", {}) for report in (first, second)]
    for key in sorted(set(versions[0]) | set(versions[1])):
        if versions[0].get(key) != versions[1].get(key):
            notes.append(f"version of {key} differs: {versions[0].get(key)} / {versions[1].get(key)}")
    if first.model.get("hash") and first.model.get("hash") == second.model.get("hash"):
        notes.append("both results are of the same model")
    missing = sorted(set(first.tasks) ^ set(second.tasks))
    if missing:
        notes.append(f"only one result has: {', '.join(missing)}")
    return notes


def compare(paths: Sequence[str | Path], *, resamples: int = 2000, seed: int = 0) -> list[Comparison]:
    """Comparisons within every suite of some result files: its first result with each of the others.

    Raises
    ------
    UserError
        Fewer than two results, an unreadable file, or no suite with two results.

    Examples
    --------
    >>> from embedkit.evaluation.core.task import TaskResult
    >>> for name, score in (("before", 80.1), ("after", 82.4)):
    ...     result = TaskResult("stsb", "spearman", score, {"spearman": score})
    ...     report = Report("sts", {"stsb": result}, {"stsb": score}, "stsb", {"name": name}, {"split": "test"})
    ...     _ = report.save(f"{name}.json")
    >>> print(compare(["before.json", "after.json"])[0].table())
    sts: before -> after
    stsb     80.10     82.40     +2.30
    """
    suites: dict[str, list[Report]] = {}
    for path in paths:
        for report in load_reports(path):
            suites.setdefault(report.suite, []).append(report)
    if sum(map(len, suites.values())) < 2:
        raise UserError("one result has nothing to be compared with", remedy="give two or more result files")
    comparisons = []
    for reports in suites.values():
        comparisons += [compare_reports(reports[0], other, resamples=resamples, seed=seed) for other in reports[1:]]
    if not comparisons:
        raise UserError(
            f"the results are of different suites: {', '.join(map(repr, suites))}",
            remedy="compare results of one suite",
        )
    comparisons[0].notes += [f"suite {name!r} has one result only" for name, rows in suites.items() if len(rows) == 1]
    return comparisons
