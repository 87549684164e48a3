"""``embedkit eval``: score models on suites, and compare result files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkit.cli.output import (
    AllowPickle,
    Device,
    Dtype,
    JsonFile,
    Revision,
    TrustRemoteCode,
    bar,
    check_json,
    console,
    place,
    table,
    write_json,
)
from embedkit.errors import UserError

if TYPE_CHECKING:
    from embedkit.evaluation import MtebSuite, OpenSuite, Report

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL...", help="Model folders, run folders or hub ids; result files with --compare."),
]
Suites = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        "-s",
        help="Name (see `embedkit suites`), YAML file, mteb:TASK,TASK or mteb:BENCHMARK; "
        "may be repeated. Without it what --data can be read as, or sts.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the suite's tasks: aggregation=wmean; repeatable."),
]


def evaluate(
    models: Models = None,
    suite: Suites = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Folder with the suites' data, or your own file or folder; the hub without."),
    ] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Tasks of the one suite, separated by commas.")] = None,
    split: Annotated[str, typer.Option("--split", help="Which split to score.")] = "test",
    settings: Settings = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Name of one of the model's prompts.")] = None,
    truncate_dim: Annotated[
        int | None, typer.Option("--truncate-dim", "--dim", help="Keep the first coordinates only (Matryoshka).")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="Replace the model's pooling: cls, mean, first-last ...")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Replace the model's length in tokens.")
    ] = None,
    dtype: Dtype = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals.")] = False,
    resamples: Annotated[
        int | None, typer.Option("--resamples", help="Bootstrap draws for the intervals; 1000 with --intervals.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Print every metric by its name, not only the scores.")
    ] = False,
    cache: Annotated[
        str | None, typer.Option("--cache", metavar="DIR", help="Keep the embeddings there for later calls.")
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE.html", help="Write a report for people, one HTML file.")
    ] = None,
    mteb_results: Annotated[
        str | None,
        typer.Option("--mteb-results", metavar="DIR", help="Also write mteb's own result files, for its leaderboard."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare result files, the first with each of the others.")
    ] = False,
    card: Annotated[
        bool, typer.Option("--card/--no-card", help="Write whole suites' scores into the card of a local model folder.")
    ] = True,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Score models on suites of tasks, or compare result files.

    Suites share the embeddings of a model. The JSON holds everything needed to repeat the scores, and what
    --compare needs: embedkit eval --compare A.json B.json

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> _ = Path("faq.csv").write_text("query,positive\\nhow do I pay?,pay by card\\nwhere are you?,we are in town\\n")
    >>> main(["eval", "model", "--data", "faq.csv", "--no-card"])
    faq.csv: taken for questions and answers (columns 'query', 'positive'); suite own-retrieval ...
    task  metric   score
    faq   ndcg@10  100.00
    0
    """
    check_json(json_file)
    _check_paths(report, cache, mteb_results)
    if compare:
        _compare(models or [], resamples, seed, report, json_file)
        return
    names = _distinct(models or [])
    from embedkit.evaluation import metric_names, open_suites
    from embedkit.evaluation.report.report import reports_text, save_reports

    if tasks is not None and len(suite or []) > 1:
        raise UserError("--tasks goes with one --suite", remedy="give a suite file of your own for several")
    options: dict[str, Any] = {"split": split, "prompt": prompt, "truncate_dim": truncate_dim, "seed": seed}
    options["tasks"] = [task.strip() for task in tasks.split(",")] if tasks else None
    options["resamples"] = (1000 if intervals else 0) if resamples is None else resamples
    suites = suite or [_recognised(data, json_file)]
    for one in suites:
        metric_names(one, options["tasks"], split, data)  # wrong names are reported before anything is read
    _check_models(names, trust_remote_code, allow_pickle)
    evaluations = open_suites(suites, data, settings=_settings(settings or []), **options)
    _keep_mteb_results(evaluations, mteb_results)
    reports, cards = [], []
    loading = {"device": device, "trust_remote_code": trust_remote_code, "dtype": dtype, "revision": revision}
    loading["allow_pickle"] = allow_pickle
    replaced = {"pooling": pooling, "max_length": max_length}
    replaced = {key: value for key, value in replaced.items() if value is not None}
    for name, scored in _run(names, evaluations, cache, {**loading, **replaced}):
        reports += scored
        standard = not (tasks or settings or prompt is not None or truncate_dim or dtype or replaced)
        if card and standard and scored:
            cards.append((_folder(name), scored))
    if not reports:  # the other processes have nothing to tell
        return
    _print(reports, metrics, json_file)
    if json_file == "-":
        sys.stdout.write(reports_text(reports))
    elif json_file is not None:
        save_reports(json_file, reports)
    _write_report(report, reports, [run for run in map(_run_folder, names) if run is not None])
    for folder, scored in cards:  # last: scores must not be lost because a model's folder cannot be written
        _write_card(folder, scored)


def _recognised(data: str | None, json_file: str | None) -> str:
    """The suite that the data can be read by, printed for the user."""
    from embedkit.evaluation import recognise

    reading = recognise(data)
    if reading.taken_for:
        words = f"taken for {reading.taken_for}; suite {reading.suite} (--suite chooses another)"
        console(json_file).print(f"{data}: {words}")
    return reading.suite


def _keep_mteb_results(evaluations: Sequence[OpenSuite | MtebSuite], folder: str | None) -> None:
    """Have mteb's tasks write their result files into a folder too."""
    from embedkit.evaluation import MtebSuite

    suites = [one for one in evaluations if isinstance(one, MtebSuite)] if folder is not None else []
    if folder is not None and not suites:
        raise UserError("--mteb-results is for mteb's tasks, and none is scored", remedy="add --suite mteb:TASK")
    for one in suites:
        one.results = Path(str(folder))


def _check_paths(report: str | None, cache: str | None, mteb_results: str | None = None) -> None:
    """Refuse what cannot be written before any work is done."""
    if report is not None and not Path(report).absolute().parent.is_dir():
        raise UserError("the folder of the report does not exist", where=report, remedy="make it first")
    for noun, path in (("the cache", cache), ("--mteb-results", mteb_results)):
        if path is not None and Path(path).exists() and not Path(path).is_dir():
            raise UserError(f"{noun} is a file, not a folder", where=path, remedy="give a folder, or a new name")


def _check_models(names: Sequence[str], trust_remote_code: bool, allow_pickle: bool) -> None:
    """Refuse folders that hold no model before data is looked for, which the hub may have to give."""
    from embedkit.formats.detect import inspect, locate

    for name in names:
        if _folder(name).is_dir():
            inspect(_folder(name), trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        elif name.count("/") > 1:  # no id of the hub
            locate(name)


def _distinct(models: Sequence[str]) -> list[str]:
    if not models:
        raise UserError("no model is given", remedy="embedkit eval MODEL --suite NAME")
    for name in models:
        if list(models).count(name) > 1:
            raise UserError("the model is given twice", where=name)
    return list(models)


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings as the command line has them, values read as YAML."""
    from embedkit.config.recipe_io import parse_yaml

    settings = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"the setting {word!r} is not KEY=VALUE", remedy="write it like --set aggregation=wmean")
        # nothing after the sign is the empty text, an empty prompt say, not YAML's null
        settings[key] = parse_yaml(text, f"--set {key}") if text.strip() else ""
    return settings


def _folder(model: str) -> Path:
    """The model's folder: `model`, or the folder ``model`` of a run."""
    from embedkit.formats.detect import locate

    return locate(model) if Path(model).is_dir() else Path(model)


def _run_folder(model: str) -> Path | None:
    """The folder of the run that made the model, when it is one of embedkit's on this disk."""
    folder = _folder(model).absolute().parent
    return folder if (folder / "log.jsonl").is_file() else None


def _run(
    names: Sequence[str], evaluations: Sequence[OpenSuite | MtebSuite], folder: str | None, loading: dict[str, Any]
) -> Iterator[tuple[str, list[Report]]]:
    """Each model's name and reports; no reports on processes other than the first. `loading` is for ``load``."""
    from embedkit.evaluation import EmbeddingCache
    from embedkit.formats import load

    state, loading["device"] = place(loading["device"])
    for name in names:
        path, cache = _folder(name), EmbeddingCache(folder)  # of this model only: memory holds one model's vectors
        model = load(str(path) if path.is_dir() else name, **loading)
        with bar("encoding") as progress:
            distributed = state.num_processes > 1
            scored = [one.run(model, progress, cache=cache, distributed=distributed, name=name) for one in evaluations]
        yield name, scored if state.is_main_process else []


def _write_card(folder: Path, reports: Sequence[Report]) -> None:
    """Put the scores into the card of a model folder of embedkit, where it may be written."""
    if (folder / "embedkit.json").is_file() and os.access(folder, os.W_OK):
        from embedkit.evaluation import write_card

        write_card(folder, reports)


def _write_report(report: str | None, reports: Sequence[Report], runs: Sequence[Path]) -> None:
    if report is not None:
        from embedkit.evaluation import write_html

        write_html(report, reports, runs=list(dict.fromkeys(runs)))


def _print(reports: Sequence[Report], metrics: bool, json_file: str | None) -> None:
    """A table a suite, with a column a model, and what departs from the protocol."""
    out = console(json_file)
    suites: dict[str, list[Report]] = {}
    for report in reports:
        suites.setdefault(report.suite, []).append(report)
    for name, members in suites.items():
        title = name if len(suites) > 1 else None
        keys = list(dict.fromkeys(key for one in members for key in one.scores))
        kinds = {key: _metric(members, key) for key in keys}
        if len(members) == 1:
            rows = [[key, kinds[key], f"{members[0].scores[key]:.2f}", _interval(members[0], key)] for key in keys]
            bounded = any(row[-1] for row in rows)
            header = ["task", "metric", "score", "95 % interval"][: 4 if bounded else 3]
            out.print(table(header, [row[: len(header)] for row in rows], title))
        else:
            names = [str(one.model["name"]) for one in members]
            rows = [[key, kinds[key], *(_cell(one, key) for one in members)] for key in keys]
            out.print(table(["task", "metric", *names], rows, title))
        if metrics:
            out.print(table(["task", "metric", *(str(one.model["name"]) for one in members)], _every_metric(members)))
            for line in dict.fromkeys(line for one in members for line in one.definitions):
                out.print(line)
        for note in dict.fromkeys(note for one in members for note in one.notes):
            out.print(f"note: {note}")


def _metric(reports: Sequence[Report], task: str) -> str:
    """The name of a task's main metric; "mean" for the average."""
    return next((report.tasks[task].metric for report in reports if task in report.tasks), "mean")


def _every_metric(reports: Sequence[Report]) -> list[list[str]]:
    """Rows of task, metric and a value a model."""
    rows = []
    for task in dict.fromkeys(task for report in reports for task in report.tasks):
        columns = [report.tasks[task].metrics if task in report.tasks else {} for report in reports]
        for key in dict.fromkeys(key for one in columns for key in one):
            rows.append([task, key, *(f"{one[key]:.4f}" if key in one else "-" for one in columns)])
    return rows


def _cell(report: Report, task: str) -> str:
    if task not in report.scores:
        return "-"
    bounds = _interval(report, task)
    return f"{report.scores[task]:.2f}" + (f" ({bounds})" if bounds else "")


def _interval(report: Report, task: str) -> str:
    bounds = report.tasks[task].interval if task in report.tasks else report.interval
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else ""


def _compare(
    files: Sequence[str], resamples: int | None, seed: int, report: str | None, json_file: str | None
) -> None:  # fmt: skip
    """Print the differences of result files; an error when nothing in them can be compared."""
    from embedkit.evaluation import compare, load_reports

    comparisons = compare(files, resamples=2000 if resamples is None else resamples, seed=seed)
    out = console(json_file)
    for number, comparison in enumerate(comparisons):
        out.print(("\n" if number else "") + comparison.table())
    out.print("difference: second minus first; * where its 95 % interval (paired bootstrap) leaves out 0")
    write_json(json_file, [comparison.to_json() for comparison in comparisons])
    _write_report(report, [one for file in files for one in load_reports(file)], [])
    if all(row.difference is None for comparison in comparisons for row in comparison.rows):
        raise UserError("no task could be compared", remedy="the reasons stand beside the tasks")
