"""One HTML file with everything about some results: scores, differences, distributions, geometry, training.

The file needs no network, no script and no other file, and is readable in light and dark and on paper. Here its content
is put together; how it looks stands in ``templates/page.html.j2``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from embedkit.errors import DataError
from embedkit.evaluation.core.task import TaskResult
from embedkit.evaluation.report.charts import COLOURS, PARTS, Bar, bars, colour, histogram, lines
from embedkit.evaluation.report.comparison import Comparison, compare_reports
from embedkit.evaluation.report.rendering import render, shortened, without_empty, without_folders
from embedkit.evaluation.report.report import Report, write_text
from embedkit.system.log_file import RATES, read_log

_HALVES = ("gold score in the lower half", "gold score in the upper half")
Content = dict[str, Any]


def _names(reports: Sequence[Report]) -> list[str]:
    """How the models are called: paths by their last folders, with as many as tell them apart."""
    full = [str(r.model.get("name") or r.model.get("path") or f"model {n + 1}") for n, r in enumerate(reports)]
    for parts in (2, 3, 4):
        names = [shortened(name, parts) for name in full]
        if len(set(names)) == len(set(full)):
            return names
    return full


def _legend(names: Sequence[str], colours: Sequence[str] = COLOURS) -> list[Content]:
    return [{"name": name, "colour": colour(place, colours)} for place, name in enumerate(names)]


def _cell(text: str, small: str = "", kind: str = "") -> Content:
    """A cell of a table with a class, and with something in small letters."""
    return {"text": text, "small": small, "kind": kind}


def _figure(caption: str, svg: str, legend: Sequence[Content] = ()) -> Content:
    return {"caption": caption, "svg": svg, "legend": legend}


def _tasks(reports: Sequence[Report]) -> list[str]:
    return list(dict.fromkeys(task for report in reports for task in report.tasks))


class _Suite:
    """The results of one suite, the first compared with the others."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports, self.names = reports, _names(reports)
        self._comparisons: dict[tuple[int, int], Comparison] = {}

    def compared(self, first: int, second: int) -> Comparison:
        """The comparison of two of the reports, made once."""
        if (first, second) not in self._comparisons:
            self._comparisons[first, second] = compare_reports(self.reports[first], self.reports[second])
        return self._comparisons[first, second]

    def _better(self, place: int, key: str) -> bool:
        """Whether a model's score is above that of every other one, by intervals that leave out 0."""
        others = [n for n, report in enumerate(self.reports) if n != place and key in report.scores]
        rows = [row for n in others for row in self._between(place, n).rows if row.name == key]
        return bool(others) and len(rows) == len(others) and all(row.significant for row in rows)

    def _between(self, one: int, other: int) -> Comparison:
        return self.compared(min(one, other), max(one, other))

    def content(self) -> Content:
        """What the page shows of the suite."""
        distributions, halves = self._distributions()
        metrics = self._metrics()
        return {
            "name": self.reports[0].suite, "notes": list(dict.fromkeys(n for r in self.reports for n in r.notes)),
            "legend": _legend(self.names) if len(self.names) > 1 else [], **self._scores(),
            "differences": [self._difference(place) for place in range(1, len(self.reports))],
            "metrics": metrics, "few_metrics": sum(1 + len(one["table"]["rows"]) for one in metrics) <= 16,
            "definitions": list(dict.fromkeys(line for r in self.reports for line in r.definitions)),
            "parts": self._parts(), "geometry": self._geometry(), "distributions": distributions,
            "halves": _legend(_HALVES, PARTS) if halves else [],
            "worst": self._worst(), "galleries": self._galleries(),
            "width": {2: " two", 3: " three"}.get(len(self.reports), ""), "data": self._data(),
        }  # fmt: skip

    def _scores(self) -> Content:
        """Bars and table of the scores; the best is marked where it is better than every other by its intervals."""
        groups, rows = [], []
        for key in dict.fromkeys(key for report in self.reports for key in report.scores):
            values = [report.scores.get(key) for report in self.reports]
            bounds = [report.score_facts(key)[1] for report in self.reports]
            groups.append((key, [None if v is None else Bar(v, b) for v, b in zip(values, bounds, strict=True)]))
            best = max(value for value in values if value is not None)
            cells: list[Any] = [key]
            for place, (value, bound) in enumerate(zip(values, bounds, strict=True)):
                if value is None:
                    cells.append("-")
                    continue
                small = f"[{bound[0]:.2f}, {bound[1]:.2f}]" if bound else ""
                kind = "best" if value == best and self._better(place, key) else ""
                cells.append(_cell(f"{value:.2f}", small, kind))
            rows.append(cells)
        chart = bars(f"Scores of suite {self.reports[0].suite}", groups, self.names)
        metrics = sorted({result.metric for report in self.reports for result in report.tasks.values()})
        bounded = any(report.score_facts(key)[1] for report in self.reports for key in report.scores)
        caption = f"Metric: {', '.join(metrics)}." + (" Brackets: 95 % bootstrap interval." if bounded else "")
        if len(self.reports) > 1 and any(
            row.interval for place in range(1, len(self.reports)) for row in self.compared(0, place).rows
        ):
            caption += " Bold: better than every other model, by paired intervals that leave out 0."
        return {"chart": chart, "scores": {"header": ["task", *self.names], "rows": rows}, "told": caption}

    def _difference(self, place: int) -> Content:
        """Table and bars of the differences from the first model; `place` is the second one's among the models."""
        comparison = self.compared(0, place)
        rows: list[list[Any]] = []
        for row in comparison.rows:
            if row.difference is None:
                rows.append([row.name, "-", row.unlike or "", ""])
                continue
            kind = ("up" if row.difference > 0 else "down") if row.significant else ""
            bounds = f"[{row.interval[0]:+.2f}, {row.interval[1]:+.2f}]" if row.interval else "-"
            p = f"{row.p:.3g}" if row.p is not None else "-"
            rows.append([row.name, _cell(f"{row.difference:+.2f}", kind=kind), _cell("", bounds), p])
        groups = [(r.name, [Bar(r.difference, r.interval)]) for r in comparison.rows if r.difference is not None]
        names = self.names[place], self.names[0]
        chart = bars("Differences", groups, names[:1], first=place, size=520) if groups else ""
        title = f"{names[0]} against {names[1]}"
        if names[0] == names[1]:
            title = f"{shortened(comparison.second)} against {shortened(comparison.first)}"
        return {
            "title": title, "notes": comparison.notes, "bounded": any(row.interval for row in comparison.rows),
            "table": {"header": ["task", "difference", "95 % interval", "p"], "rows": rows}, "chart": chart,
        }  # fmt: skip

    def _metrics(self) -> list[Content]:
        """Every metric of every task, a table a task."""
        tables = []
        for task in _tasks(self.reports):
            columns = [report.tasks[task].metrics if task in report.tasks else {} for report in self.reports]
            keys = list(dict.fromkeys(key for metrics in columns for key in metrics))
            rows = [[key, *(f"{m[key]:.4f}" if key in m else "-" for m in columns)] for key in keys]
            tables.append({"name": task, "table": {"header": ["metric", *self.names], "rows": rows}})
        return tables

    def _parts(self) -> Content:
        """The parts of tasks that have some: subsets of STS, groups of rows, classes."""
        rows = []
        for task in _tasks(self.reports):
            columns = [_parts_of(report.tasks[task]) if task in report.tasks else {} for report in self.reports]
            keys = list(dict.fromkeys(key for parts in columns for key in parts))
            rows += [[f"{task}: {key}", *(parts.get(key, "-") for parts in columns)] for key in keys if len(keys) > 1]
        return {"header": ["part", *self.names], "rows": rows}

    def _worst(self) -> list[Content]:
        """What each model does worst on, a table a task and model."""
        tables = []
        for task in _tasks(self.reports):
            for report, name in zip(self.reports, self.names, strict=True):
                rows = report.tasks[task].worst if task in report.tasks else []
                if rows:
                    header = list(rows[0])
                    table = {"header": header, "rows": [[row.get(key, "") for key in header] for row in rows]}
                    tables.append({"name": f"{task}: {name}", "table": table})
        return tables

    def _galleries(self) -> list[Content]:
        """Searches to look at, a list a task and model."""
        galleries = []
        for task in _tasks(self.reports):
            for report, name in zip(self.reports, self.names, strict=True):
                examples = report.tasks[task].examples if task in report.tasks else []
                if examples:
                    galleries.append({"name": f"{task}: {name}", "examples": examples})
        return galleries

    def _data(self) -> Content:
        """How much was scored, of what: one row a task and data set."""
        rows: dict[tuple[str, ...], None] = {}
        for report in self.reports:
            for task, part in report.settings.get("data", {}).items():
                sizes = {key: value for key, value in part.items() if isinstance(value, int)}
                size = ", ".join(f"{value:,} {key}" for key, value in sizes.items())
                source = shortened(str(part.get("source", "")))
                digest = str(part.get("sha256") or part.get("revision") or "")[:12]
                rows[task, str(report.settings.get("split", "")), size, source, digest] = None
        return {"header": ["task", "split", "size", "source", "hash"], "rows": [list(row) for row in rows]}

    def _geometry(self) -> list[Content]:
        """Plots of geometry tasks: cosines of positives and strangers, and the spectrum."""
        figures, spectra = [], []
        spreads = [
            result.details.get("cosine_counts", {}) for report in self.reports for result in report.tasks.values()
        ]
        top = max((max(row) / max(sum(row), 1) for counts in spreads for row in counts.values()), default=None)
        for report, name in zip(self.reports, self.names, strict=True):
            for task, result in report.tasks.items():
                counts = result.details.get("cosine_counts")
                if counts:
                    parts = list(reversed(counts.items()))  # what belongs together in the colour of the upper half
                    chart = histogram(f"{name}, {task}: cosines", parts, -1, 1, "cosine", top=top)
                    figures.append(_figure(f"{name}: {task}", chart, _legend([part for part, _ in parts], PARTS)))
                if result.details.get("spectrum"):
                    shares = enumerate(result.details["spectrum"], 1)
                    spectra.append((f"{name} {task}", [(float(n), math.log10(max(v, 1e-9))) for n, v in shares]))
        if spectra:
            chart = lines("Singular values", spectra, "place of the singular value")
            legend = _legend([name for name, _ in spectra])
            figures.append(_figure("Spectrum: log10 of each share", chart, legend))
        return figures

    def _distributions(self, bins: int = 30) -> tuple[list[Content], bool]:
        """How each task's samples are spread, the models side by side on one axis; whether by halves of the gold."""
        figures, halves = [], False
        for task in _tasks(self.reports):
            spread = [_split_samples(r.tasks[task]) if task in r.tasks else ({}, "") for r in self.reports]
            filled = [part for parts, _ in spread for part in parts.values() if len(part)]
            ends = [end for part in filled for end in (part.min(), part.max())]
            if not ends or not max(ends) > min(ends):
                continue
            low, high = float(min(ends)), float(max(ends))
            rows = [
                [(key, np.histogram(part, bins, (low, high))[0].tolist()) for key, part in parts.items()]
                for parts, _ in spread
            ]
            top = max(max(row) / max(sum(row), 1) for counts in rows for _, row in counts)
            for (parts, axis), counts, name in zip(spread, rows, self.names, strict=True):
                if parts:
                    halves = halves or len(parts) == 2
                    chart = histogram(f"{task}: distribution", counts, low, high, axis, top=top)
                    figures.append(_figure(f"{task}: {name}" if len(self.reports) > 1 else task, chart))
        return figures, halves


def _split_samples(result: TaskResult) -> tuple[dict[str, np.ndarray[Any, Any]], str]:
    """What a task's samples are, by part: predictions by gold half, or values; and the name of the axis."""
    values = result.samples.values if result.samples is not None else {}
    if "prediction" in values:
        prediction, gold = np.asarray(values["prediction"], float), np.asarray(values["gold"], float)
        middle = (gold.min() + gold.max()) / 2
        return dict(zip(_HALVES, (prediction[gold <= middle], prediction[gold > middle]), strict=True)), "similarity"
    return ({"samples": np.asarray(values["value"], float)} if "value" in values else {}), result.metric


def _parts_of(result: TaskResult) -> dict[str, str]:
    details = result.details
    parts = {name: f"{part['spearman']:.2f}" for name, part in details.get("subsets", {}).items()}
    parts |= {name: f"anisotropy {part['anisotropy']:.3f}" for name, part in details.get("groups", {}).items()}
    return parts | {name: f"{value:.2f}" for name, value in details.get("by_class", {}).items()}


def training_curves(run: Path) -> Content:
    """Loss, learning rate and scores by step of a run folder, from its ``log.jsonl``, as figures.

    Raises
    ------
    DataError
        There is no log, or a line of it cannot be read.

    Examples
    --------
    >>> _ = Path("log.jsonl").write_text('{"step": 1, "loss": 2.5}\\n{"step": 2, "loss": 1.5}\\n')
    >>> [figure["caption"] for figure in training_curves(Path("."))["figures"]]
    ['loss']
    """
    path = run / "log.jsonl"
    if not path.is_file():
        raise DataError("no log.jsonl, so it is no run folder", where=str(run), remedy="give the folder of a run")
    rows, figures = read_log(path), []
    for key in ("loss", "lr", "gradient_norm", *RATES):
        points = [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
        if points:
            figures.append(_figure(key.replace("_", " "), lines(key, [(key, points)], "step")))
    scored = [(float(row["step"]), row["scores"]) for row in rows if isinstance(row.get("scores"), dict)]
    names = list(dict.fromkeys(name for _, scores in scored for name in scores))
    if names:
        pairs_by_name = {name: [(step, scores.get(name)) for step, scores in scored] for name in names}
        series = [
            (name, [(step, float(s)) for step, s in pairs if s is not None]) for name, pairs in pairs_by_name.items()
        ]
        figures.append(_figure("scores while training", lines("scores", series, "step"), _legend(names)))
    recipe = run / "recipe.yaml"
    text = dump_shared(recipe) if recipe.is_file() else ""
    return {"name": shortened(str(run)), "figures": figures, "recipe": text}


def dump_shared(path: Path) -> str:
    """A recipe as text, with absolute paths shortened and nothing that only repeats a default of None.

    Raises
    ------
    DataError
        It is not YAML.

    Examples
    --------
    >>> _ = Path("recipe.yaml").write_text("{name: faq, data: {train: [{path: /home/me/work/faq/a.csv, name: null}]}}")
    >>> print(dump_shared(Path("recipe.yaml")))
    name: faq
    data:
      train:
      - path: '.../faq/a.csv'
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError("is not YAML", where=str(path), remedy="give the folder of a run as it was written") from error
    return yaml.safe_dump(without_empty(without_folders(content)), sort_keys=False, allow_unicode=True).rstrip()


def _models(reports: Sequence[Report]) -> Content:
    """What was scored: one row a report."""
    rows = []
    for name, report in zip(_names(reports), reports, strict=True):
        model, settings, timing = report.model, report.settings, report.timing
        seconds = f"{timing['encode_seconds']:.1f}" if "encode_seconds" in timing else ""
        prompt = settings.get("prompt")
        rows.append([
            name, report.suite, settings.get("split", ""), str(model.get("hash") or "")[:12],
            settings.get("dim") or model.get("dim") or "", settings.get("pooler") or "",
            settings.get("max_length") or "", "" if prompt is None else prompt, settings.get("precision") or "",
            seconds,
        ])  # fmt: skip
    header = ["model", "suite", "split", "hash", "dim", "pooler", "length", "prompt", "precision", "encoding, s"]
    return {"header": header, "rows": rows}


def _cards(reports: Sequence[Report]) -> list[Content]:
    cards = []
    for name, report in zip(_names(reports), reports, strict=True):
        bounds, result = report.score_facts(report.main_name)[1], report.tasks.get(report.main_name)
        count = len(report.tasks)
        metric = f" {result.metric}" if result is not None else f" of {count} task{'s' * (count != 1)}"
        interval = f"95 %: {bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else "no interval"
        what = f"{report.suite} {report.main_name}{metric}"
        cards.append({"model": name, "what": what, "score": f"{report.main:.2f}", "interval": interval})
    return cards


def _provenance(reports: Sequence[Report]) -> list[Content]:
    parts = []
    for name, report in zip(_names(reports), reports, strict=True):
        content = report.to_json()
        facts = without_folders({key: content[key] for key in ("model", "settings", "timing")})
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        parts.append({"title": f"{name}, {report.suite}", "text": text})
    return parts


def html_report(
    reports: Sequence[Report], *, title: str = "embedkit evaluation", runs: Sequence[str | Path] = ()
) -> str:
    """The report as one HTML text.

    Parameters
    ----------
    reports : sequence of Report
        Any number of models and suites; results of one suite stand side by side, the first is compared with the rest.
    title : str
    runs : sequence of path
        Run folders whose training curves are drawn.

    Examples
    --------
    >>> from embedkit.evaluation.core.task import TaskResult
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> html_report([report]).startswith("<!doctype html>")
    True
    """
    if not reports:
        raise DataError("no result to report", remedy="give a result of evaluate")
    suites: dict[str, list[Report]] = {}
    for report in reports:
        suites.setdefault(report.suite, []).append(report)
    ordered = [report for members in suites.values() for report in members]
    return render(
        "page", title=title, version=str(reports[0].settings.get("versions", {}).get("embedkit", "")),
        date=max(str(report.settings.get("date", "")) for report in reports), cards=_cards(ordered),
        suites=[_Suite(members).content() for members in suites.values()],
        runs=[training_curves(Path(run)) for run in runs], models=_models(reports), provenance=_provenance(ordered),
    ).lstrip()  # fmt: skip


def write_html(path: str | Path, reports: Sequence[Report], **options: Any) -> Path:
    """The path of the file that `html_report` is written to, replaced in one step.

    Examples
    --------
    >>> from embedkit.evaluation.core.task import TaskResult
    >>> result = TaskResult("faq", "ndcg@10", 61.2, {"ndcg@10": 61.2})
    >>> report = Report("own-retrieval", {"faq": result}, {"faq": 61.2}, "faq", {"name": "mine"}, {"split": "test"})
    >>> "61.20" in write_html("report.html", [report]).read_text()
    True
    """
    return write_text(Path(path), html_report(reports, **options), "the report")
