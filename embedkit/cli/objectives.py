"""``embedkit objectives``: the registered objectives."""

from __future__ import annotations

import inspect

from embedkit.cli.output import JsonFile, check_json, console, table, write_json


def objectives(json_file: JsonFile = None) -> None:
    """List the objectives."""
    check_json(json_file)
    from embedkit.objectives import objectives as registry

    rows = [
        {"name": name, "what": (inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")}
        for name, entry in registry.items()
    ]
    console(json_file).print(table(["objective", "what it is"], [list(row.values()) for row in rows]))
    write_json(json_file, rows)
