"""One HTML file that tells everything about some results: scores, differences, distributions, geometry, training.

The file needs no network, no script and no other file, and is readable in light and dark and on paper.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.evaluation.charts import Bar, bars, histogram, legend, lines
from embedkit.evaluation.comparison import Comparison, compare_reports
from embedkit.evaluation.report import Report
from embedkit.evaluation.tables import read_jsonl
from embedkit.evaluation.task import TaskResult

_HALVES = ("gold score in the lower half", "gold score in the upper half")

_STYLE = """
:root{--fg:#1a1a1a;--bg:#fff;--soft:#f4f5f7;--edge:#d8dbe0;--dim:#5c6370;--good:#00704f;--bad:#b03a00}
@media(prefers-color-scheme:dark){:root{--fg:#e6e6e6;--bg:#16181d;--soft:#20242b;--edge:#3a404a;--dim:#a0a7b4;
--good:#4fc79b;--bad:#ff9a62}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:24px;color:var(--fg);background:var(--bg);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:26px;margin:0 0 4px}h2{font-size:20px;margin:36px 0 8px;border-bottom:1px solid var(--edge)}
h3{font-size:15px;margin:18px 0 4px}p{margin:6px 0}.dim{color:var(--dim)}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.card{background:var(--soft);border:1px solid var(--edge);border-radius:8px;padding:12px 16px;min-width:170px}
.card b{display:block;font-size:26px;line-height:1.2}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{color:var(--dim);font-weight:600}td small{color:var(--dim)}
td.best{font-weight:700}.up{color:var(--good)}.down{color:var(--bad)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:16px}
svg{width:100%;max-width:760px;height:auto;font:11px system-ui,sans-serif}svg text{fill:var(--fg)}
.grid line,line.grid{stroke:var(--edge)}line.axis{stroke:var(--dim)}line.whisker{stroke:var(--fg);stroke-width:1.2}
figure{margin:0}figcaption{font-weight:600}.legend span{margin-right:18px;white-space:nowrap}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.note{background:var(--soft);border-left:4px solid var(--bad);padding:8px 12px;margin:6px 0}
details{margin:8px 0}summary{cursor:pointer;font-weight:600}pre{background:var(--soft);padding:12px;overflow-x:auto;
font-size:12px;border-radius:6px}@media print{details{display:none}}
"""


def _name(report: Report, place: int) -> str:
    return str(report.model.get("name") or report.model.get("path") or f"model {place + 1}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a cell may begin with a class in brackets, e.g. ``[best]``."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = []
    for row in rows:
        cells = []
        for cell in row:
            kind, _, text = cell[1:].partition("]") if cell.startswith("[") else ("", "", cell)
            cells.append(f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _interval_of(report: Report, name: str) -> tuple[float, float] | None:
    return report.tasks[name].interval if name in report.tasks else report.interval


def _scores(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Bars and table of the scores of one suite."""
    keys = list(dict.fromkeys(key for report in reports for key in report.scores))
    groups, rows = [], []
    for key in keys:
        found = [report.scores.get(key) for report in reports]
        groups.append(
            (key, [None if v is None else Bar(v, _interval_of(r, key)) for r, v in zip(reports, found, strict=True)])
        )
        best = max(value for value in found if value is not None)
        cells = [escape(key)]
        for report, value in zip(reports, found, strict=True):
            if value is None:
                cells.append("-")
                continue
            bounds = _interval_of(report, key)
            said = f" <small>[{bounds[0]:.2f}, {bounds[1]:.2f}]</small>" if bounds else ""
            cells.append(f"{'[best]' if len(reports) > 1 and value == best else ''}{value:.2f}{said}")
        rows.append(cells)
    chart = bars(f"Scores of suite {reports[0].suite}", groups, names)
    metrics = sorted({result.metric for report in reports for result in report.tasks.values()})
    told = f'<p class="dim">Metric: {escape(", ".join(metrics))}. Brackets: 95 % bootstrap interval.</p>'
    return (legend(names) if len(names) > 1 else "") + chart + _table(["task", *names], rows) + told


def _differences(comparison: Comparison) -> str:
    rows = []
    for row in comparison.rows:
        if row.difference is None:
            rows.append([escape(row.name), f"{row.first:.2f}", f"{row.second:.2f}", "-", escape(row.unlike or ""), ""])
            continue
        kind = ("[up]" if row.difference > 0 else "[down]") if row.significant else ""
        bounds = f"[{row.interval[0]:+.2f}, {row.interval[1]:+.2f}]" if row.interval else "-"
        p = f"{row.p:.3g}" if row.p is not None else "-"
        cells = [escape(row.name), f"{row.first:.2f}", f"{row.second:.2f}", f"{kind}{row.difference:+.2f}"]
        rows.append([*cells, f"<small>{bounds}</small>", p])
    head = f"<h3>{escape(comparison.second)} against {escape(comparison.first)}</h3>"
    notes = "".join(f'<p class="dim">{escape(note)}</p>' for note in comparison.notes)
    header = ["task", comparison.first, comparison.second, "difference", "95 % interval", "p"]
    told = '<p class="dim">Paired bootstrap; coloured where the interval leaves out 0.</p>'
    return head + _table(header, rows) + told + notes


def _distribution(result: TaskResult, bins: int = 30) -> str | None:
    """How a task's samples are spread: predictions by gold half, or values."""
    if result.samples is None:
        return None
    values = result.samples.values
    if "prediction" in values:
        prediction, gold = np.asarray(values["prediction"], float), np.asarray(values["gold"], float)
        middle = (gold.min() + gold.max()) / 2
        low, high = float(prediction.min()), float(prediction.max())
        parts = dict(zip(_HALVES, (prediction[gold <= middle], prediction[gold > middle]), strict=True))
        axis = "similarity"
    else:
        value = np.asarray(values["value"], float)
        low, high, parts, axis = float(value.min()), float(value.max()), {"samples": value}, result.metric
    if not high > low:
        return None
    counts = [(name, np.histogram(part, bins, (low, high))[0].tolist()) for name, part in parts.items()]
    return histogram(f"{result.name}: distribution", counts, low, high, axis)


def _geometry(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Plots of geometry tasks: cosines of positives and strangers, and the spectrum."""
    figures = []
    spectra = []
    for report, name in zip(reports, names, strict=True):
        for task, result in report.tasks.items():
            counts = result.details.get("cosine_counts")
            if counts:
                chart = histogram(f"{name}, {task}: cosines", list(counts.items()), -1, 1, "cosine")
                figures.append(_figure(f"{name}: {task}", chart + legend(list(counts))))
            if result.details.get("spectrum"):
                points = [(float(n + 1), math.log10(max(v, 1e-9))) for n, v in enumerate(result.details["spectrum"])]
                spectra.append((f"{name} {task}", points))
    if spectra:
        chart = lines("Singular values", spectra, "place of the singular value")
        figures.append(_figure("Spectrum: log10 of each share", chart + legend([name for name, _ in spectra])))
    if not figures:
        return ""
    keys = list(dict.fromkeys(k for r in reports for t in r.tasks.values() for k in t.metrics))
    rows = []
    for key in keys:
        cells = [[t.metrics[key] for t in r.tasks.values() if key in t.metrics] for r in reports]
        rows.append([escape(key), *(" / ".join(f"{value:.4f}" for value in found) or "-" for found in cells)])
    return f'{_table(["figure", *names], rows)}<div class="grid">{"".join(figures)}</div>'


def training_curves(run: Path) -> str:
    """Loss, learning rate and scores by step of a run folder, from its ``log.jsonl``, as HTML.

    Raises
    ------
    DataError
        There is no log, or a line of it cannot be read.
    """
    path = run / "log.jsonl"
    if not path.is_file():
        raise DataError("no log.jsonl, so it is no run folder", where=str(run))
    rows = [row for _, row in read_jsonl(path)]
    figures = []
    for key in ("loss", "lr", "gradient_norm", "sentences_per_s"):
        points = [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
        if points:
            figures.append(_figure(key.replace("_", " "), lines(key, [(key, points)], "step")))
    scored = [(float(row["step"]), row["scores"]) for row in rows if isinstance(row.get("scores"), dict)]
    names = list(dict.fromkeys(name for _, scores in scored for name in scores))
    if names:
        series = [(name, [(step, float(scores[name])) for step, scores in scored if name in scores]) for name in names]
        figures.append(_figure("scores while training", lines("scores", series, "step") + legend(names)))
    return f'<h2>Training</h2><p class="dim">{escape(str(run))}</p><div class="grid">{"".join(figures)}</div>'


def _suite(reports: Sequence[Report]) -> str:
    names = [_name(report, place) for place, report in enumerate(reports)]
    parts = [f"<h2>Suite {escape(reports[0].suite)}</h2>"]
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        parts.append(f'<p class="note">{escape(note)}</p>')
    parts.append(_scores(reports, names))
    for other in reports[1:]:
        parts.append(_differences(compare_reports(reports[0], other)))
    parts.append(_geometry(reports, names))
    figures = []
    for report, name in zip(reports, names, strict=True):
        for task, result in report.tasks.items():
            drawn = _distribution(result)
            if drawn is not None:
                figures.append(_figure(f"{task}: {name}" if len(reports) > 1 else task, drawn))
    if figures:
        halves = any("prediction" in t.samples.values for r in reports for t in r.tasks.values() if t.samples)
        told = legend(_HALVES) if halves else ""
        parts.append(f'<h3>Distributions</h3>{told}<div class="grid">{"".join(figures)}</div>')
    return "".join(parts)


def _provenance(report: Report, place: int) -> str:
    content = report.to_json()
    kept = {key: content[key] for key in ("model", "settings", "timing")}
    details = {name: task["metrics"] | {"details": task["details"]} for name, task in content["tasks"].items()}
    for part in details.values():
        for key in ("spectrum", "cosine_counts"):
            part["details"].pop(key, None)
    title = f"{_name(report, place)}, {report.suite}"
    return (
        f"<details><summary>{escape(title)}: how to repeat it</summary>"
        f"<pre>{escape(json.dumps(kept, indent=1, ensure_ascii=False))}</pre></details>"
        f"<details><summary>{escape(title)}: every metric</summary>"
        f"<pre>{escape(json.dumps(details, indent=1, ensure_ascii=False))}</pre></details>"
    )


def html_report(reports: Sequence[Report], *, title: str = "embedkit evaluation", run: str | Path | None = None) -> str:
    """The report as one HTML text.

    Parameters
    ----------
    reports : sequence of Report
        Any number of models and suites; results of one suite stand side by side, the first is compared with the rest.
    title : str
    run : path, optional
        A run folder whose training curves are drawn.
    """
    if not reports:
        raise DataError("no result to report")
    suites: dict[str, list[Report]] = {}
    for report in reports:
        suites.setdefault(report.suite, []).append(report)
    cards = []
    for found in suites.values():
        for place, report in enumerate(found):
            bounds = _interval_of(report, report.main_name)
            said = f"95 %: {bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else escape(report.main_name)
            of = f'<span class="dim">{escape(report.suite)} {escape(report.main_name)}</span>'
            head = f"{escape(_name(report, place))}<br>{of}"
            cards.append(f'<div class="card">{head}<b>{report.main:.2f}</b><small class="dim">{said}</small></div>')
    date = max(str(report.settings.get("date", "")) for report in reports)
    version = escape(str(reports[0].settings.get("versions", {}).get("embedkit", "")))
    body = "".join(_suite(found) for found in suites.values())
    curves = training_curves(Path(run)) if run is not None else ""
    origin = "".join(_provenance(report, place) for found in suites.values() for place, report in enumerate(found))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="dim">embedkit {version}, {escape(date)}</p><div class="cards">{"".join(cards)}</div>'
        f"{body}{curves}<h2>Provenance</h2>{origin}</body></html>\n"
    )


def write_html(path: str | Path, reports: Sequence[Report], **options: Any) -> Path:
    """Write `html_report` to a file, replacing it in one step."""
    path = Path(path)
    text = html_report(reports, **options)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise DataError(f"cannot write the report: {error.strerror}", where=str(path)) from error
    return path
