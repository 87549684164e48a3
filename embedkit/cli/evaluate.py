"""``embedkit eval``: score a model on a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedkit.cli.output import (
    Device,
    JsonFile,
    ModelName,
    TrustRemoteCode,
    bar,
    check_json,
    console,
    place,
    table,
    write_json,
)

if TYPE_CHECKING:
    from embedkit.evaluation import Report


def evaluate(
    model: ModelName,
    suite: Annotated[str, typer.Option("--suite", "-s", help="Name (see `embedkit suites`) or YAML file.")] = "sts",
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Folder with the suite's data; the hub when not given.")
    ] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Tasks of the suite, separated by commas.")] = None,
    split: Annotated[str, typer.Option("--split", help="Which split to score.")] = "test",
    prompt: Annotated[str | None, typer.Option("--prompt", help="Name of one of the model's prompts.")] = None,
    dim: Annotated[int | None, typer.Option("--dim", help="Keep the first coordinates only (Matryoshka).")] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals.")] = False,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
) -> None:
    """Score a model on a suite of tasks.

    The JSON holds everything needed to repeat the score.
    """
    check_json(json_file)
    from embedkit.evaluation import open_suite

    chosen = [task.strip() for task in tasks.split(",")] if tasks else None
    resamples = 1000 if intervals else 0
    opened = open_suite(suite, data, chosen, split, prompt=prompt, dim=dim, resamples=resamples)
    from embedkit.models import load

    state, device = place(device)
    loaded = load(model, device=device, trust_remote_code=trust_remote_code)
    with bar("encoding") as progress:
        report = opened.run(loaded, progress, distributed=state.num_processes > 1)
    if not state.is_main_process:
        return
    rows = [[task, f"{score:.2f}", _interval(report, task)] for task, score in report.scores.items()]
    console(json_file).print(table(["task", "score", "95 % interval"], rows))
    write_json(json_file, report.to_json())


def _interval(report: Report, task: str) -> str:
    bounds = report.tasks[task].interval if task in report.tasks else report.interval
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else ""
