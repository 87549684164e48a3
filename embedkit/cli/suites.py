"""``embedkit suites``: the shipped evaluation suites."""

from __future__ import annotations

from typing import Annotated

import typer

from embedkit.cli.completion import suite_words
from embedkit.cli.output import JsonFile, check_json, console, table, write_json


def suites(
    show: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this suite's file.", autocompletion=suite_words)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """List the evaluation suites, or print one: a start for a suite of your own.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["suites", "own-sts"])
    name: own-sts
    description: One's own sentence pairs with scores, Spearman of cosines x 100 (--data FILE)
    source: A table with two texts and a number a row, the higher the more alike (columns sentence1, sentence2, score)
    average: none
    main: data
    tasks:
      - {name: data, kind: sts, own: true}
    0
    """
    check_json(json_file)
    from embedkit.config.resources import suite_path
    from embedkit.evaluation import describe_suites, load_suite

    if show is not None:
        write_json(json_file, load_suite(show).model_dump(exclude_defaults=True))
        if json_file != "-":
            typer.echo(suite_path(show).read_text(encoding="utf-8"), nl=False)
        return
    rows = [{"name": name, "description": description} for name, description in describe_suites()]
    out = console(json_file)
    out.print(table(["suite", "what it is"], [list(row.values()) for row in rows]))
    out.print("A suite's file: embedkit suites NAME. Your own data: embedkit eval MODEL --data FILE_OR_FOLDER.")
    write_json(json_file, rows)
