"""``embedkit methods``: the registered training methods."""

from __future__ import annotations

from embedkit.cli.output import JsonFile, check_json, console, table, write_json


def methods(json_file: JsonFile = None) -> None:
    """List the training methods.

    With the roles of data each needs, and its paper.
    """
    check_json(json_file)
    from embedkit.methods import methods as registry

    rows = [
        {
            "name": name,
            "needs": sorted(entry.contract.requires),
            "uses": sorted(entry.contract.accepts),
            "paper": entry.paper,
        }
        for name, entry in registry.items()
    ]
    console(json_file).print(table(["method", "needs", "also uses", "paper"], [list(row.values()) for row in rows]))
    write_json(json_file, rows)
