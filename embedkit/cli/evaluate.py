"""``embedkit eval``: score a model on a suite."""

from __future__ import annotations

from typing import Annotated

import typer

from embedkit.cli.output import (
    Device,
    JsonFile,
    ModelName,
    TrustRemoteCode,
    check_json,
    console,
    table,
    write_json,
)


def evaluate(
    model: ModelName,
    suite: Annotated[str, typer.Option("--suite", "-s", help="Name of a suite, or a YAML file.")] = "sts",
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Folder with the suite's data; the hub when not given.")
    ] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Tasks of the suite, separated by commas.")] = None,
    split: Annotated[str, typer.Option("--split", help="Which split to score.")] = "test",
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
    opened = open_suite(suite, data=data, tasks=chosen, split=split)
    from embedkit.models import load

    report = opened.run(load(model, device=device, trust_remote_code=trust_remote_code))
    out = console(json_file)
    out.print(table(["task", "score"], [[task, f"{score:.2f}"] for task, score in report.scores.items()]))
    write_json(json_file, report.to_json())
