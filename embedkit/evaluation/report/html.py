"""One HTML file that tells everything about some results: scores, differences, distributions, geometry, training.

The file needs no network, no script and no other file, and is readable in light and dark and on paper.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.evaluation.core.task import TaskResult
from embedkit.evaluation.report.charts import PARTS, Bar, bars, histogram, legend, lines
from embedkit.evaluation.report.comparison import Comparison, compare_reports
from embedkit.evaluation.report.report import Report, write_text
from embedkit.log_file import read_log

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
.grid.two{grid-template-columns:repeat(2,minmax(0,440px))}.grid.three{grid-template-columns:repeat(3,minmax(0,1fr))}
.tables{display:flex;flex-wrap:wrap;gap:8px 32px}
.sides{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:24px;align-items:start}
@media(max-width:820px){.sides,.grid.two,.grid.three{grid-template-columns:1fr}}
svg{width:100%;max-width:760px;height:auto;font:11px system-ui,sans-serif}svg text{fill:var(--fg)}
.grid line,line.grid{stroke:var(--edge)}line.axis{stroke:var(--dim)}line.whisker{stroke:var(--fg);stroke-width:1.2}
figure{margin:0}figcaption{font-weight:600}.legend span{margin-right:18px;white-space:nowrap}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.note{background:var(--soft);border-left:4px solid var(--bad);padding:8px 12px;margin:6px 0}
details{margin:8px 0}summary{cursor:pointer;font-weight:600}pre{background:var(--soft);padding:12px;overflow-x:auto;
font-size:12px;border-radius:6px}@media print{details{display:none}figure,.card{break-inside:avoid}}
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
    bounded = any(_interval_of(report, key) for report in reports for key in report.scores)
    told = f"Metric: {escape(', '.join(metrics))}." + (" Brackets: 95 % bootstrap interval." if bounded else "")
    told = f'<p class="dim">{told}</p>'
    return (legend(names) if len(names) > 1 else "") + chart + _table(["task", *names], rows) + told


def _differences(comparison: Comparison, place: int) -> str:
    """Table and bars of the differences from the first model; `place` is the second one's among the models."""
    rows = []
    for row in comparison.rows:
        if row.difference is None:
            rows.append([escape(row.name), "-", escape(row.unlike or ""), ""])
            continue
        kind = ("[up]" if row.difference > 0 else "[down]") if row.significant else ""
        bounds = f"[{row.interval[0]:+.2f}, {row.interval[1]:+.2f}]" if row.interval else "-"
        p = f"{row.p:.3g}" if row.p is not None else "-"
        rows.append([escape(row.name), f"{kind}{row.difference:+.2f}", f"<small>{bounds}</small>", p])
    head = f"<h3>{escape(comparison.second)} against {escape(comparison.first)}</h3>"
    notes = "".join(f'<p class="dim">{escape(note)}</p>' for note in comparison.notes)
    header = ["task", "difference", "95 % interval", "p"]
    told = '<p class="dim">Paired bootstrap; coloured where the interval leaves out 0.</p>'
    known = [(row.name, [Bar(row.difference, row.interval)]) for row in comparison.rows if row.difference is not None]
    chart = bars("Differences", known, [comparison.second], first=place, size=520) if known else ""
    return f'{head}<div class="sides"><div>{_table(header, rows)}{told}{notes}</div>{chart}</div>'


def _split_samples(result: TaskResult) -> tuple[dict[str, np.ndarray[Any, Any]], str]:
    """What a task's samples are, by part: predictions by gold half, or values; and the name of the axis."""
    values = result.samples.values if result.samples is not None else {}
    if "prediction" in values:
        prediction, gold = np.asarray(values["prediction"], float), np.asarray(values["gold"], float)
        middle = (gold.min() + gold.max()) / 2
        return dict(zip(_HALVES, (prediction[gold <= middle], prediction[gold > middle]), strict=True)), "similarity"
    return ({"samples": np.asarray(values["value"], float)} if "value" in values else {}), result.metric


def _distributions(reports: Sequence[Report], names: Sequence[str], bins: int = 30) -> str:
    """How each task's samples are spread, the models side by side on one axis."""
    figures, halves = [], False
    for task in dict.fromkeys(task for report in reports for task in report.tasks):
        found = [_split_samples(report.tasks[task]) if task in report.tasks else ({}, "") for report in reports]
        ends = [end for parts, _ in found for part in parts.values() if len(part) for end in (part.min(), part.max())]
        if not ends or not max(ends) > min(ends):
            continue
        low, high = float(min(ends)), float(max(ends))
        for (parts, axis), name in zip(found, names, strict=True):
            if parts:
                halves = halves or len(parts) == 2
                counts = [(key, np.histogram(part, bins, (low, high))[0].tolist()) for key, part in parts.items()]
                drawn = histogram(f"{task}: distribution", counts, low, high, axis)
                figures.append(_figure(f"{task}: {name}" if len(reports) > 1 else task, drawn))
    if not figures:
        return ""
    width = {2: " two", 3: " three"}.get(len(reports), "")
    told = legend(_HALVES, PARTS) if halves else ""
    return f'<h3>Distributions</h3>{told}<div class="grid{width}">{"".join(figures)}</div>'


def _geometry(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Plots of geometry tasks: cosines of positives and strangers, and the spectrum."""
    figures = []
    spectra = []
    for report, name in zip(reports, names, strict=True):
        for task, result in report.tasks.items():
            counts = result.details.get("cosine_counts")
            if counts:
                parts = list(reversed(counts.items()))  # what belongs together in the colour of the upper half
                chart = histogram(f"{name}, {task}: cosines", parts, -1, 1, "cosine")
                figures.append(_figure(f"{name}: {task}", chart + legend([part for part, _ in parts], PARTS)))
            if result.details.get("spectrum"):
                points = [(float(n + 1), math.log10(max(v, 1e-9))) for n, v in enumerate(result.details["spectrum"])]
                spectra.append((f"{name} {task}", points))
    if spectra:
        chart = lines("Singular values", spectra, "place of the singular value")
        figures.append(_figure("Spectrum: log10 of each share", chart + legend([name for name, _ in spectra])))
    if not figures:
        return ""
    return f'<div class="grid">{"".join(figures)}</div>'


def _metrics(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Every metric of every task, a table a task, folded where there are many."""
    parts = []
    for task in dict.fromkeys(task for report in reports for task in report.tasks):
        found = [report.tasks[task].metrics if task in report.tasks else {} for report in reports]
        keys = list(dict.fromkeys(key for metrics in found for key in metrics))
        rows = [[escape(key), *(f"{m[key]:.4f}" if key in m else "-" for m in found)] for key in keys]
        parts.append(f"<div><h3>{escape(task)}</h3>{_table(['metric', *names], rows)}</div>")
    opened = " open" if sum(part.count("<tr>") for part in parts) <= 16 else ""
    return f'<details{opened}><summary>Every metric</summary><div class="tables">{"".join(parts)}</div></details>'


def _subsets(reports: Sequence[Report], names: Sequence[str]) -> str:
    """The parts of tasks that have some: subsets of STS, groups of rows, classes."""
    rows = []
    for task in dict.fromkeys(task for report in reports for task in report.tasks):
        found = [_parts_of(report.tasks[task]) if task in report.tasks else {} for report in reports]
        keys = list(dict.fromkeys(key for parts in found for key in parts))
        rows += [[escape(f"{task}: {key}"), *(p.get(key, "-") for p in found)] for key in keys if len(keys) > 1]
    return f"<details><summary>Parts of tasks</summary>{_table(['part', *names], rows)}</details>" if rows else ""


def _parts_of(result: TaskResult) -> dict[str, str]:
    details = result.details
    found = {name: f"{part['spearman']:.2f}" for name, part in details.get("subsets", {}).items()}
    found |= {name: f"anisotropy {part['anisotropy']:.3f}" for name, part in details.get("groups", {}).items()}
    return found | {name: f"{value:.2f}" for name, value in details.get("by_class", {}).items()}


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
    rows = read_log(path)
    figures = []
    for key in ("loss", "lr", "gradient_norm", "sentences_per_s"):
        points = [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]
        if points:
            figures.append(_figure(key.replace("_", " "), lines(key, [(key, points)], "step")))
    scored = [(float(row["step"]), row["scores"]) for row in rows if isinstance(row.get("scores"), dict)]
    names = list(dict.fromkeys(name for _, scores in scored for name in scores))
    if names:
        known = {name: [(step, scores.get(name)) for step, scores in scored] for name in names}
        series = [(name, [(step, float(s)) for step, s in pairs if s is not None]) for name, pairs in known.items()]
        figures.append(_figure("scores while training", lines("scores", series, "step") + legend(names)))
    return f'<h2>Training</h2><p class="dim">{escape(str(run))}</p><div class="grid">{"".join(figures)}</div>'


def _suite(reports: Sequence[Report]) -> str:
    names = [_name(report, place) for place, report in enumerate(reports)]
    parts = [f"<h2>Suite {escape(reports[0].suite)}</h2>"]
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        parts.append(f'<p class="note">{escape(note)}</p>')
    parts.append(_scores(reports, names))
    for place, other in enumerate(reports[1:], start=1):
        parts.append(_differences(compare_reports(reports[0], other), place))
    parts += [_metrics(reports, names), _subsets(reports, names), _geometry(reports, names)]
    parts.append(_distributions(reports, names))
    return "".join(parts)


def _models(reports: Sequence[Report]) -> str:
    """What was scored: one row a report."""
    rows = []
    for place, report in enumerate(reports):
        model, settings, timing = report.model, report.settings, report.timing
        cells = [_name(report, place), report.suite, str(settings.get("split", "")), str(model.get("hash") or "")[:12]]
        cells += [str(settings.get("dim") or model.get("dim") or ""), str(settings.get("pooler") or "")]
        cells += [
            str(settings.get("max_length") or ""),
            str(settings.get("prompt") or ""),
            str(settings.get("precision") or ""),
        ]
        cells.append(f"{timing['encode_seconds']:.1f}" if "encode_seconds" in timing else "")
        rows.append([escape(cell) for cell in cells])
    header = ["model", "suite", "split", "hash", "dim", "pooler", "length", "prompt", "precision", "encoding, s"]
    return f"<h2>What was scored</h2>{_table(header, rows)}"


def _provenance(report: Report, place: int) -> str:
    content = report.to_json()
    kept = {key: content[key] for key in ("model", "settings", "timing")}
    title = f"{_name(report, place)}, {report.suite}"
    return (
        f"<details><summary>{escape(title)}: how to repeat it</summary>"
        f"<pre>{escape(json.dumps(kept, indent=1, ensure_ascii=False))}</pre></details>"
    )


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
            said = f"95 %: {bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else "no interval"
            result = report.tasks.get(report.main_name)
            metric = f" {result.metric}" if result is not None else f" of {len(report.tasks)} tasks"
            of = f'<span class="dim">{escape(report.suite)} {escape(report.main_name + metric)}</span>'
            head = f"{escape(_name(report, place))}<br>{of}"
            cards.append(f'<div class="card">{head}<b>{report.main:.2f}</b><small class="dim">{said}</small></div>')
    date = max(str(report.settings.get("date", "")) for report in reports)
    version = escape(str(reports[0].settings.get("versions", {}).get("embedkit", "")))
    body = "".join(_suite(found) for found in suites.values())
    curves = "".join(training_curves(Path(run)) for run in runs)
    origin = "".join(_provenance(report, place) for found in suites.values() for place, report in enumerate(found))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="dim">embedkit {version}, {escape(date)}</p><div class="cards">{"".join(cards)}</div>'
        f"{body}{curves}{_models(reports)}<h2>Provenance</h2>{origin}</body></html>\n"
    )


def write_html(path: str | Path, reports: Sequence[Report], **options: Any) -> Path:
    """Write `html_report` to a file, replacing it in one step."""
    return write_text(Path(path), html_report(reports, **options), "the report")
