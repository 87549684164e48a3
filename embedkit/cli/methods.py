"""``embedkit methods``: the registered training methods."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from embedkit.cli.completion import method_words
from embedkit.cli.output import JsonFile, check_json, console, entry_of, show, table, write_json


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show this one with its settings.", autocompletion=method_words),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """List the training methods, or show one.

    With the roles of data each needs, and its paper.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["methods", "pairs"])
    name: pairs
    needs: anchor, positive
    uses: group, label, negatives, score, scores
    paper: van den Oord et al. 2018, arXiv 1807.03748
    objective: infonce
    settings and defaults:
      prompts: none
    0
    """
    check_json(json_file)
    from embedkit.methods import methods as registry

    out = console(json_file)
    if name is not None:
        facts = _facts(name, entry_of(registry, name))
        for key, value in facts.items():
            if key != "settings" and value not in ("", None, []):
                out.print(f"{key}: {show(value)}")
        out.print("settings and defaults:")
        for key, value in facts["settings"].items():
            out.print(f"  {key}: {show(value)}")
        write_json(json_file, facts)
        return
    rows = [
        {key: value for key, value in _facts(name, entry).items() if key in ("name", "needs", "uses", "paper")}
        for name, entry in registry.items()
    ]
    out.print(table(["method", "needs", "also uses", "paper"], [list(row.values()) for row in rows]))
    write_json(json_file, rows)


def _facts(name: str, method: Any) -> dict[str, Any]:
    """What a method says of itself, as plain values."""
    parameters = inspect.signature(method).parameters.values()
    settings = {one.name: "required" if one.default is one.empty else one.default for one in parameters
                if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}  # fmt: skip
    return {
        "name": name,
        "needs": sorted(method.contract.requires),
        "uses": sorted(method.contract.accepts),
        "paper": method.paper,
        "objective": (method.objective or {}).get("name"),
        "settings": settings,
    }
