"""From lines of results to the table of `eval/methods.py`: means over seeds, paired bootstrap against simcse-unsup."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from methods_cases import BASE, UNTRAINED, cases

STS = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")
SEVERAL = 2  # rows of the same method from which on a deviation is printed
RESAMPLES = 1000


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What two lines must share to stand in one table."""
    return {"steps": options.steps, "batch": options.batch, "backbone": options.backbone, "text": options.text,
            "threads": options.threads}  # fmt: skip


def finished(out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What `results.jsonl` says of each (method, rate, seed) with these settings; later lines add what earlier lack.

    A line that a kill cut short is left out.
    """
    path = out / "results.jsonl"
    found: dict[tuple[str, float, int], dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["settings"].items() >= settings(options).items():
            key = row["method"], row["rate"], row["seed"]
            found[key] = row | found.get(key, {})
    return list(found.values())


def row_of(method: str, rate: float | None, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What is known of a run with these settings; empty where it is not finished."""
    rows = finished(Path(options.out), options)
    return next((row for row in rows if (row["method"], row["rate"], row["seed"]) == (method, rate, seed)), {})


def best_rate(rows: Sequence[dict[str, Any]], method: str) -> float | None:
    """The learning rate with the best STS-B dev of the seed that all rates were tried with; None before any run."""
    tried: dict[float, dict[int, float]] = {}
    for row in rows:
        if row["method"] == method and row.get("dev") is not None:
            tried.setdefault(row["rate"], {})[row["seed"]] = row["dev"]
    if not tried:
        return None
    common = set.intersection(*(set(seeds) for seeds in tried.values()))
    seed = min(common) if common else None
    return max(tried, key=lambda rate: tried[rate].get(seed, -1.0) if seed is not None else -1.0)


def transfer_key(options: argparse.Namespace) -> str:
    """Under what the scores of the transfer suite stand: "transfer", behind it the settings that were changed."""
    return " ".join(["transfer", *filter(None, options.transfer.split(","))])


def missing(row: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The suites asked for that a run has not been scored on."""
    keys = [transfer_key(options) if suite == "transfer" else suite for suite in options.suites.split(",")]
    return [key for key in keys if key not in row]


def columns_of(rows: list[dict[str, Any]], transfer: str) -> dict[str, float | None]:
    """The figures of one table row as means over seeds; `transfer` is the key of those scores."""

    def mean(*path: str) -> float | None:
        values = []
        for row in rows:
            value: Any = row
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                values.append(float(value))
        return statistics.fmean(values) if values else None

    found = {task: mean("sts", task) for task in STS}
    found |= {"avg": mean("sts", "avg"), "dev": mean("dev"), "transfer": mean(transfer, "avg")}
    found |= {key: mean("geometry", key) for key in ("alignment", "uniformity")}
    return found | {key: mean(key) for key in ("seconds", "memory_gib")}


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry a method at its best rate, the untrained ones first: means, and the deviation of the STS average."""
    entries = []
    known = cases(Path(options.out))
    for method in (*UNTRAINED, *known):
        rate = best_rate(rows, method)
        own = [row for row in rows if row["method"] == method and row["rate"] == rate and "sts" in row]
        if not own:
            continue
        averages = [row["sts"]["avg"] for row in own]
        deviation = statistics.stdev(averages) if len(averages) >= SEVERAL else None
        tried = sorted(row["rate"] for row in rows if row["method"] == method and row["seed"] == own[0]["seed"])\
            if method in known else []  # fmt: skip
        entries.append({
            "method": method, "rate": rate, "tried": tried, "seeds": sorted(row["seed"] for row in own),
            **columns_of(own, transfer_key(options)), "avg_deviation": deviation,
            "note": known[method].note if method in known else "",
        })  # fmt: skip
    return entries


def paired(first: Sequence[Any], second: Sequence[Any], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Difference of the STS averages of some seeds' reports: ``second - first``, with its 95 % interval and p.

    A draw takes pairs of seeds with replacement, and the rows of each task with replacement, the same rows for all
    reports: so both what the seed and what the choice of test rows does is in the interval.
    """
    import numpy as np

    from embedkit.evaluation.core.stats import draw_weights, generator, interval

    tasks = list(first[0].tasks)
    sides = [[{task: report.tasks[task] for task in tasks} for report in side] for side in (first, second)]
    count = min(len(first), len(second))
    seeds = generator(seed, "seeds").integers(0, count, (resamples, count))
    draws = np.zeros(resamples)
    for task in tasks:
        rng = generator(seed, task)
        built = [[reports[task].samples.build() for reports in side[:count]] for side in sides]
        unit, samples = first[0].tasks[task].unit, sides[0][0][task].samples
        for number in range(resamples):
            weights = draw_weights(samples, rng)
            chosen, times = np.unique(seeds[number], return_counts=True)
            gains = [built[1][place](weights) - built[0][place](weights) for place in chosen]
            draws[number] += unit * float(times @ np.array(gains)) / count / len(tasks)
    sides_avg = [statistics.fmean(report.scores["avg"] for report in side[:count]) for side in (first, second)]
    below, above = int((draws <= 0).sum()) + 1, int((draws >= 0).sum()) + 1
    p = min(1.0, 2 * min(below, above) / (resamples + 1))
    return {"difference": sides_avg[1] - sides_avg[0], "interval": interval(draws), "p": p}


def with_differences(entries: list[dict[str, Any]], folder_of: Any, resamples: int = RESAMPLES) -> None:
    """Put the difference from simcse-unsup into the entries; `folder_of` gives a run's folder by method, rate, seed."""
    from embedkit.evaluation.report.report import Report

    base = next((entry for entry in entries if entry["method"] == BASE), None)
    if base is None:
        return

    def reports(entry: dict[str, Any], seeds: Sequence[int]) -> list[Any]:
        return [Report.load(folder_of(entry["method"], entry["rate"], seed) / "sts.json") for seed in seeds]

    for entry in entries:
        if entry is base:
            continue
        if entry["rate"] is None:  # untrained: the same model beside each seed
            seeds = base["seeds"]
            own = reports(entry, entry["seeds"]) * len(seeds)
        else:
            seeds = [seed for seed in base["seeds"] if seed in entry["seeds"]]
            own = reports(entry, seeds)
        entry["versus"] = paired(reports(base, seeds), own, resamples)


def markdown(entries: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table for people."""
    known = settings(options)
    head = (
        f"{known['backbone']}, {known['steps']} steps of {known['batch']} rows, threads: {known['threads']}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    names = ["method", "rate", *STS, "STS average", f"over {BASE}", "95 %", "p", transfer_key(options), "alignment",
             "uniformity", "s a run", "rows/s", "time", "count", "seeds", "note"]  # fmt: skip
    base = next((entry["avg"] for entry in entries if entry["method"] == BASE), None)
    measured = Path(options.out) / "speed.json"
    speeds = {row["method"]: row for row in json.loads(measured.read_text())} if measured.exists() else {}
    lines = [
        f"# Sentence methods side by side\n\n{head}\n",
        "| " + " | ".join(names) + " |",
        "|" + " --- |" * len(names),
    ]
    for entry in entries:
        spread = "" if entry["avg_deviation"] is None else f" ± {entry['avg_deviation']:.2f}"
        over = None if base is None or entry["avg"] is None else entry["avg"] - base
        versus = entry.get("versus")
        over = over if versus is None else versus["difference"]  # of the seeds that both have
        limits, p = ("", "") if versus is None else (
            f"[{versus['interval'][0]:+.2f}, {versus['interval'][1]:+.2f}]", f"{versus['p']:.3f}"
        )  # fmt: skip
        cells = [entry["method"], "" if not entry["rate"] else f"{entry['rate']:g}",
                 *(_figure(entry[task], 2) for task in STS), _figure(entry["avg"], 2) + spread,
                 "" if over is None else f"{over:+.2f}", limits, p, _figure(entry["transfer"], 2),
                 _figure(entry["alignment"], 3), _figure(entry["uniformity"], 3), _figure(entry["seconds"], 0),
                 *(_figure(speeds.get(entry["method"], {}).get(key), digits)
                   for key, digits in (("rows_per_s", 0), ("factor", 2), ("count", 2))),
                 str(len(entry["seeds"])), entry["note"]]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
