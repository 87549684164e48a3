"""``embedkit plan``: what a recipe would do, before it does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from embedkit.cli.output import JsonFile, Overrides, RecipeName, Smoke, check_json, console, show, table, write_json
from embedkit.cli.recipe_words import open_recipe

_HEADLINE = ("recipe", "method", "objective", "device", "precision")


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    smoke: Smoke = False,
    all: Annotated[bool, typer.Option("--all", help="Print every figure, as the JSON has it.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Show what a recipe would do.

    Warnings first, then the figures that decide: rows, steps, negatives that an anchor sees, learning rate, memory,
    evaluation. The data is opened and the model built; nothing is trained.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["plan", "quickstart", "--smoke"])
    quickstart: pairs with infonce, temperature 0.1, on ...
    rows           256, from builtin:pairs-train
    steps          4 of 16 rows, 0.25 epochs; a checkpoint each epoch
    negatives      15 for each anchor (15 in batch)
    ...
    0
    """
    check_json(json_file)
    config = open_recipe(recipe, overrides or [], smoke=smoke)
    from embedkit.training import plan as make_plan

    facts = make_plan(config).to_dict()
    out = console(json_file)
    for line in page(facts):
        out.print(line)
    if all:
        _render(facts, out)
    else:
        out.print("Every figure: add --all.")
    write_json(json_file, facts)


def page(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the page: a headline, the warnings, and a line for each figure that decides.

    Parameters
    ----------
    facts : mapping
        `embedkit.training.planning.Plan.to_dict`.

    Examples
    --------
    >>> facts = {"recipe": "pairs", "method": "pairs", "objective": "infonce", "device": "cpu", "precision": "fp32"}
    >>> next(page(facts))
    'pairs: pairs with infonce, on cpu in fp32'
    """
    recipe, method, objective, device, precision = (facts[name] for name in _HEADLINE)
    yield f"{recipe}: {method} with {objective}, on {device} in {precision}"
    yield from (f"! {warning}" for warning in facts["warnings"])
    rows, steps, batch, negatives = (facts[name] for name in ("rows", "steps", "batch", "negatives"))
    count = rows.get("rows")
    sources = [str(source["path"]) for source in rows.get("sources", [])]
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    held_out = f", {rows['held_out']:,} held out" if rows.get("held_out") else ""
    size = "a stream" if count is None else f"{count:,}"
    yield _line("rows", f"{size}{held_out}, from {', '.join(sources[:3])}{more}")
    epochs = f", {steps['epochs']:.3g} epoch{'s' * (steps['epochs'] != 1)}" if steps.get("epochs") else ""
    checkpoints = f"; a checkpoint each {steps['checkpoint_every']}"
    time = f", about {_duration(facts['seconds'])} by the log of the last run" if facts.get("seconds") else ""
    yield _line("steps", f"{steps['total']:,} of {batch['rows']:,} rows{epochs}{time}{checkpoints}")
    parts = [f"{value:,} {name.replace('_', ' ')}" for name, value in negatives.items() if name != "total" and value]
    yield _line("negatives", f"{negatives['total']:,} for each anchor" + (f" ({', '.join(parts)})" if parts else ""))
    rates = sorted({group["learning_rate"] for group in facts["parameters"]}, reverse=True)
    parameters = sum(group["parameters"] for group in facts["parameters"])
    yield _line("learning rate", f"{', '.join(map(show, rates))} at its peak, on {parameters:,} parameters")
    memory = facts["memory"]
    yield _line("memory", f"about {memory['peak']}, of which activations {memory['activations']}")
    yield _line("evaluation", _evaluation(facts["evaluation"]))


def _line(name: str, text: str) -> str:
    return f"{name:14} {text}"


def _evaluation(facts: Mapping[str, Any]) -> str:
    if "holdout" in facts:
        return "the held-out rows, before and after training"
    if not facts:
        return "none"
    return f"{facts['suite']}, split {facts['split']}, each {facts['every']}; {facts['chooses']} chooses the checkpoint"


def _duration(seconds: float) -> str:
    """Seconds in the unit that people use.

    Examples
    --------
    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _render(facts: Mapping[str, Any], out: Any) -> None:
    """Lists of mappings become tables, mappings indented lines, everything else a line."""
    for name, value in facts.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            columns = list(value[0])
            out.print(f"{title}:")
            out.print(table([c.replace("_", " ") for c in columns], [[row.get(c) for c in columns] for row in value]))
        elif isinstance(value, Mapping):
            out.print(f"{title}:")
            for key, item in value.items():
                out.print(f"  {key.replace('_', ' ')}: {show(item)}")
        else:
            out.print(f"{title}: {show(value)}")
