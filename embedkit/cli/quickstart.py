"""``embedkit quickstart``: train, score and use a small encoder in under two minutes."""

from __future__ import annotations

from typing import Annotated

import typer

from embedkit.cli.output import JsonFile, Smoke, check_json, console, write_json


def quickstart(
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the run; a new one below runs/ when not given.")
    ] = None,
    smoke: Smoke = False,
    json_file: JsonFile = None,
) -> None:
    """Train, score and use a small encoder.

    From scratch on built-in data, without a download, in less than two minutes on two cores.
    """
    check_json(json_file)
    from embedkit.cli.first_run import run

    write_json(json_file, run(output, console(json_file), smoke=smoke))
