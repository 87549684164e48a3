"""The result of a suite: scores, and everything needed to repeat and to compare them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.evaluation.core.gallery import read_examples
from embedkit.evaluation.core.stats import STATISTICS, Samples
from embedkit.evaluation.core.task import TaskResult
from embedkit.evaluation.core.worst import read_rows
from embedkit.evaluation.report.rendering import render
from embedkit.system.disk import write_durably

FORMAT = 1


def plain(value: Any) -> Any:
    """The value with numpy types made Python's and NaN or infinity made None, ready for strict JSON.

    Examples
    --------
    >>> plain({"score": np.float32(0.5), "spread": float("nan"), "counts": np.arange(2), "path": Path("faq.csv")})
    {'score': 0.5, 'spread': None, 'counts': [0, 1], 'path': 'faq.csv'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _short(values: np.ndarray[Any, Any]) -> list[Any]:
    """Numbers for the file: integers as they are, others to seven digits."""
    if values.dtype.kind in "iub":
        return values.tolist()
    return [float(f"{value:.7g}") for value in values.tolist()]


@dataclass(repr=False)
class Report:
    """Scores of one model on one suite.

    Attributes
    ----------
    suite : str
    tasks : dict of str to TaskResult
        In the suite's order.
    scores : dict of str to float
        Main score of each task, and "avg" where the suite has an average.
    main_name : str
        The key of `scores` that stands for the suite.
    model, settings, timing : dict
        Description of the model; split, prompt, data, versions, seed ...; seconds and counts.
    interval : tuple of float or None
        95 % bootstrap interval of the average.

    Examples
    --------
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> report.main, report
    (61.2, <Report own-retrieval: faq 61.20, 1 tasks>)
    >>> Report.load(report.save("scores.json")).scores
    {'faq': 61.2}
    """

    suite: str
    tasks: dict[str, TaskResult]
    scores: dict[str, float]
    main_name: str
    model: dict[str, Any]
    settings: dict[str, Any]
    timing: dict[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None

    @property
    def main(self) -> float:
        """The suite's main score."""
        return self.scores[self.main_name]

    def score_facts(self, name: str) -> tuple[str, tuple[float, float] | None]:
        """Metric and 95 % interval of one of `scores`; the metric of an average is "mean"."""
        result = self.tasks.get(name)
        return ("mean", self.interval) if result is None else (result.metric, result.interval)

    @property
    def notes(self) -> list[str]:
        """Departures from the protocol, of all tasks."""
        return [note for result in self.tasks.values() for note in result.notes]

    @property
    def definitions(self) -> list[str]:
        """What metrics mean whose names have several meanings, ``metric: meaning``."""
        parts = [result.details.get("definitions") for result in self.tasks.values()]
        lines = [f"{key}: {words}" for part in parts if isinstance(part, Mapping) for key, words in part.items()]
        return list(dict.fromkeys(lines))

    def __str__(self) -> str:
        """Suite, model, scores and notes, as a table for people."""
        title = f"{self.suite}, split {self.settings.get('split')}: {self.model.get('name') or 'model'}"
        return "\n".join([title, self.table(), *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        """One line: suite, model and main score."""
        return f"<Report {self.suite}: {self.main_name} {self.main:.2f}, {len(self.tasks)} tasks>"

    def _repr_html_(self) -> str:
        """The table of the scores, for notebooks."""
        rows = []
        for name, score in self.scores.items():
            metric, bounds = self.score_facts(name)
            interval = f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds is not None else ""
            rows.append([name, metric, f"{score:.2f}", interval])
        scores = {"header": ["task", "metric", "score", "95 % interval"], "rows": rows}
        title = f"{self.suite}: {self.model.get('name') or 'model'}"
        return render("summary", title=title, scores=scores, notes=self.notes)

    def to_json(self, samples: bool = False) -> dict[str, Any]:
        """The report as plain JSON types; with `samples` also what paired comparison needs (`save` writes them)."""
        tasks = {}
        for name, r in self.tasks.items():
            tasks[name] = {
                "metric": r.metric, "score": r.score, "interval": r.interval, "metrics": r.metrics,
                "details": r.details, "notes": r.notes,
            }  # fmt: skip
        parts = {
            "suite": self.suite, "scores": self.scores, "main": self.main_name, "interval": self.interval,
            "notes": self.notes, "tasks": tasks, "model": self.model, "settings": self.settings,
            "timing": self.timing, "format": FORMAT,
        }  # fmt: skip
        content: dict[str, Any] = plain(parts)
        if samples:
            for name, r in self.tasks.items():
                content["tasks"][name] |= {"worst": r.worst} if r.worst else {}
                content["tasks"][name] |= {"examples": [e.to_json() for e in r.examples]} if r.examples else {}
            content["samples"] = {
                name: {
                    "statistic": r.samples.statistic,
                    "unit": r.unit,
                    "values": {key: _short(np.asarray(values)) for key, values in r.samples.values.items()},
                }
                for name, r in self.tasks.items()
                if r.samples is not None
            }
        return content

    def save(self, path: str | Path) -> Path:
        """The path of the result file, samples included, replaced in one step."""
        return save_reports(path, [self])

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "result") -> Report:
        """The report that `to_json` gave.

        Raises
        ------
        DataError
            A part is missing or of another kind, or the file was written by a newer format.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise DataError("not a result file of embedkit eval", where=where)
        try:
            samples = content.get("samples", {})
            tasks = {name: _task(name, part, samples.get(name)) for name, part in content["tasks"].items()}
            _ = content["scores"][content["main"]]
            return cls(
                suite=content["suite"],
                tasks=tasks,
                scores={n: math.nan if value is None else float(value) for n, value in content["scores"].items()},
                main_name=content["main"],
                model=dict(content["model"]),
                settings=dict(content["settings"]),
                timing=dict(content["timing"]),
                interval=_pair(content["interval"]),
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                f"damaged result file: {error!r}", where=where, remedy="run the evaluation again"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """The report of a result file of one model and one suite; `load_reports` reads any."""
        reports = load_reports(path)
        if len(reports) > 1:
            raise DataError(f"holds {len(reports)} results, not one", where=str(path), remedy="use load_reports")
        return reports[0]

    def table(self) -> str:
        """The scores as lines of text: task, score to two decimals, interval."""
        width = max(len(name) for name in self.scores)
        lines = []
        for name, score in self.scores.items():
            bounds = self.score_facts(name)[1]
            brackets = f"  [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds is not None else ""
            lines.append(f"{name:<{width}}  {score:8.2f}{brackets}")
        return "\n".join(lines)


def _with_samples(report: Report) -> str:
    """The report as JSON text, indented but for the samples, which stand on a line each."""
    content = report.to_json(samples=True)
    samples = content.pop("samples")
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    rows = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in samples.items())
    return f'{text[:-2]},\n  "samples": {{\n{rows}\n  }}\n}}'


def reports_text(reports: Sequence[Report]) -> str:
    """The content of a result file: the report, or an object with a list of them where there are several.

    Examples
    --------
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> json.loads(reports_text([report]))["scores"]
    {'faq': 61.2}
    """
    texts = [_with_samples(report) for report in reports]
    if len(texts) == 1:
        return texts[0] + "\n"
    body = ",\n".join(texts)
    return f'{{\n"format": {FORMAT},\n"reports": [\n{body}\n]\n}}\n'


def save_reports(path: str | Path, reports: Sequence[Report]) -> Path:
    """The path of a result file of one or more reports, samples included, replaced in one step.

    Raises
    ------
    DiskError
        The file cannot be written.

    Examples
    --------
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> save_reports("scores.json", [report, report]).name, len(load_reports("scores.json"))
    ('scores.json', 2)
    """
    return write_text(Path(path), reports_text(reports), "the result file")


def load_reports(path: str | Path) -> list[Report]:
    """The reports of a result file, one or more.

    Raises
    ------
    DataError
        The file cannot be read, is damaged, or is no result file.

    Examples
    --------
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> load_reports(report.save("scores.json"))
    [<Report own-retrieval: faq 61.20, 1 tasks>]
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot be read as a result file: {reason}", where=str(path), remedy="check the path"
        ) from error
    parts = content.get("reports") if isinstance(content, Mapping) else None
    if not isinstance(parts, list) or not parts:
        parts = [content]
    return [Report.from_json(part, str(path)) for part in parts]


def write_text(path: Path, text: str, what: str) -> Path:
    """The path of a text file, replaced in one step; `what` names it in the error.

    Raises
    ------
    DiskError
        It cannot be written.

    Examples
    --------
    >>> write_text(Path("scores.csv"), "task,score", "the table").read_text()
    'task,score'
    """
    return write_durably(path, text.encode("utf-8"), what)


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _details(content: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a task, those that pages show being what they show."""
    details = dict(content)

    def of(key: str) -> Mapping[str, Any]:  # details of mteb's tasks are its own
        return part if isinstance(part := details.get(key), Mapping) else {}

    numbers = [part["spearman"] for part in of("subsets").values()]
    numbers += [part["anisotropy"] for part in of("groups").values()]
    numbers += list(of("by_class").values())
    numbers += [n for counts in of("cosine_counts").values() for n in counts] + [*details.get("spectrum", ())]
    for number in numbers:
        float(number)
        if isinstance(number, str):
            raise ValueError(f"{number[:40]!r} is no number")
    return details


def _task(name: str, part: Mapping[str, Any], record: Mapping[str, Any] | None) -> TaskResult:
    samples = None
    if record is not None:
        arrays = {key: np.array(values) for key, values in record["values"].items()}
        sizes = {array.shape for array in arrays.values()}
        if len(sizes) != 1 or len(sizes.pop()) != 1 or any(array.dtype.kind not in "biuf" for array in arrays.values()):
            raise ValueError("samples are not lists of numbers of one length")
        needed = {"value"} if record["statistic"] == "mean" else {"gold", "prediction"}
        if record["statistic"] not in STATISTICS or not needed <= arrays.keys():
            raise ValueError(f"samples of {record['statistic']!r}")
        samples = Samples(record["statistic"], arrays)
    return TaskResult(
        name=name,
        metric=part["metric"],
        score=float(part["score"]),
        metrics=dict(part["metrics"]),
        samples=samples,
        unit=float(record["unit"]) if record is not None else 100.0,
        interval=_pair(part["interval"]),
        details=_details(part["details"]),
        notes=list(part["notes"]),
        worst=read_rows(part.get("worst", [])),
        examples=read_examples(part.get("examples", [])),
    )
