"""``embedkit suites``: the shipped evaluation suites."""

from __future__ import annotations

from embedkit.cli.output import JsonFile, check_json, console, table, write_json


def suites(json_file: JsonFile = None) -> None:
    """List the evaluation suites."""
    check_json(json_file)
    from embedkit.evaluation import describe_suites

    rows = [{"name": name, "description": description} for name, description in describe_suites()]
    console(json_file).print(table(["suite", "what it is"], [list(row.values()) for row in rows]))
    write_json(json_file, rows)
