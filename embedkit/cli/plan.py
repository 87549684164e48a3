"""``embedkit plan``: what a recipe would do, before it does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from embedkit.cli.output import JsonFile, Overrides, RecipeName, Smoke, check_json, console, show, table, write_json
from embedkit.cli.recipe_words import check_own_data, open_recipe

_HEADLINE = ("recipe", "method", "objective", "device", "precision")


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    smoke: Smoke = False,
    all: Annotated[bool, typer.Option("--all", help="Print every figure, as the JSON has it.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Show what a recipe would do.

    Warnings first, then the line that ``train`` begins with (rows, steps, cut and repeated texts), the figures that
    decide (negatives that an anchor sees, learning rate, memory, time, evaluation), and how settings and columns are
    read. The data is opened and the model built; nothing is trained. Of a recipe with stages there is one page each, by
    the model that the first one starts from.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["plan", "quickstart", "--smoke"])
    quickstart: pairs with infonce, temperature 0.1, on ...
    256 rows; 4 steps of 16 rows (0.25 epochs)
    data           builtin:pairs-train
    negatives      15 for each anchor (15 in batch)
    ...
    0
    """
    check_json(json_file)
    config = open_recipe(recipe, overrides or [], smoke=smoke)
    check_own_data(recipe, config, smoke=smoke, command="plan")
    from embedkit.config.recipe_io import stage_recipes
    from embedkit.config.stages import of_each
    from embedkit.training import plan as make_plan

    out, every = console(json_file), []
    stages = stage_recipes(config)
    for stage, plan_of_stage in zip(stages, of_each(stages, make_plan), strict=True):
        facts = plan_of_stage.to_dict()
        every.append(facts)
        for line in page(facts):
            out.print(line)
        if stage.stage.rows is not None:
            name = stage.stage.rows.name
            out.print(f"rows           of data.train; embedkit {name} changes them by the model of the stage before")
        if all:
            _render(facts, out)
    if not all:
        out.print("Every figure: add --all.")
    write_json(json_file, {"stages": every} if config.stages else every[0])


def page(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the page: a headline, the warnings, the summary, a line for each figure that decides, the notes.

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
    yield facts["summary"]
    yield _line("data", _data(facts["rows"]))
    yield _line("negatives", _negatives(facts["negatives"], facts["batch"]["rows"]))
    rates = sorted({group["learning_rate"] for group in facts["parameters"]}, reverse=True)
    parameters = sum(group["parameters"] for group in facts["parameters"])
    yield _line("learning rate", f"{', '.join(map(show, rates))} at its peak, on {parameters:,} parameters")
    yield _line("memory", _memory(facts["memory"]))
    seconds, output = facts["seconds"], facts["output"]
    unknown = f"not known: {output} has no log of an earlier run to measure by"
    yield _line("time", unknown if seconds is None else f"about {_duration(seconds)} by the log of the last run")
    yield _line("output", f"{output}; a checkpoint each {facts['steps']['checkpoint_every']}")
    yield _line("evaluation", _evaluation(facts["evaluation"]))
    yield from (f"- {note}" for note in facts["notes"])


def _line(name: str, text: str) -> str:
    return f"{name:14} {text}"


def _data(rows: Mapping[str, Any]) -> str:
    """Names of the first sources, with the rows of each where there are several.

    Examples
    --------
    >>> _data({"rows": 300, "sources": [{"path": "a.csv", "rows": 100}, {"path": "b.csv", "rows": 200}]})
    'a.csv (100 rows), b.csv (200 rows)'
    """
    sources = rows.get("sources", [])
    several = len(sources) > 1
    names = [f"{s['path']} ({s['rows']:,} rows)" if several and "rows" in s else str(s["path"]) for s in sources]
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    return f"{', '.join(names[:3])}{more}" + (", read while training" if rows.get("rows") is None else "")


def _negatives(negatives: Mapping[str, int], batch: int) -> str:
    if not negatives["total"] and batch > 1:
        return "none: this objective sets no other row against an anchor"
    parts = [f"{value:,} {name.replace('_', ' ')}" for name, value in negatives.items() if name != "total" and value]
    return f"{negatives['total']:,} for each anchor" + (f" ({', '.join(parts)})" if parts else "")


def _memory(memory: Mapping[str, str]) -> str:
    """The peak in words.

    Examples
    --------
    >>> _memory({"peak": "145 MiB", "activations": "20 MiB", "per_token": "9 KiB of activations"})
    'about 145 MiB a process, of which activations 20 MiB'
    """
    text = f"about {memory['peak']} a process, of which activations {memory['activations']}"
    text += f" ({memory['saved']})" if "saved" in memory else ""
    text += f", chunks of {memory['chunk_tokens']} tokens" if "chunk_tokens" in memory else ""
    return text + (f"; encoding about {memory['encoding']}" if "encoding" in memory else "")


def _evaluation(facts: Mapping[str, Any]) -> str:
    suite = ""
    if "suite" in facts:
        suite = f"{facts['suite']}, split {facts['split']}, each {facts['every']}; "
        suite += f"{facts['chooses']} chooses the checkpoint"
    held_out = "the held-out rows, before and after training" if "holdout" in facts else facts.get("unscored", "")
    return "; ".join(filter(None, (suite, held_out))) or "none"


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
