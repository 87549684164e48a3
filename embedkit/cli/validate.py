"""``embedkit validate``: check a recipe, and its data on demand, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkit.cli.output import JsonFile, Overrides, RecipeName, Smoke, bar, check_json, console, table, write_json
from embedkit.cli.recipe_words import missing_files, open_recipe
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe
    from embedkit.data.sources.preflight import SourceReport
    from embedkit.methods.base import Method


_LISTED = 20  # rows that cannot be used, on the screen


def validate(
    recipe: RecipeName,
    overrides: Overrides = None,
    smoke: Smoke = False,
    full: Annotated[
        bool, typer.Option("--full", help="Read all data too: make every row, decode every image, list what is bad.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Check a recipe without running it.

    Keys, types, cross-field rules, the settings of method, objective and evaluation, and whether the files are there;
    no data is read and no model loaded. With --full all data is read: the rows that cannot be used are listed, 20 on
    the screen and all of them in the JSON, and what is allowed and looks like a mistake; the exit code is 2 where the
    recipe does not skip bad rows, or a run would refuse the data.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["validate", "quickstart", "train.lr=1e-3"])
    quickstart: the recipe is valid
    0
    """
    check_json(json_file)
    config = open_recipe(recipe, overrides or [], smoke=smoke)
    missing = missing_files(config)
    own_paths = [path for path in missing if path not in missing_files(open_recipe(recipe, [], smoke=smoke))]
    if own_paths:
        raise DataError("no such file or folder", where=own_paths[0], remedy="check the path")
    from embedkit.config.recipe_io import stage_recipes
    from embedkit.config.stages import of_each
    from embedkit.training import setup  # the objective's parts need torch; a wrong key or method is reported before

    stages = stage_recipes(config)
    checks = list(zip(stages, of_each(stages, setup.check), strict=True))
    out = console(json_file)
    for note in config.origin.notes:
        out.print(note)
    out.print(f"{config.name}: the recipe is valid")
    if missing:
        out.print(f"its data {missing[0]} is not here: name yours after the recipe, `embedkit validate {recipe} FILE`")
    if not full:
        write_json(json_file, config.model_dump(mode="json"))
        return
    documents, bad = [], []
    for stage, method in checks:
        if config.stages:
            out.print(f"{stage.name}:")
        reports = _read_all(stage, method)
        _show(reports, out)
        fatal = stage.data.on_bad_row == "error" and any(report.faults for report in reports)
        notes = [] if fatal else setup.open_rows(stage, method).notes  # refuses what a run would refuse
        for note in notes:
            out.print(note)
        documents.append({"sources": [report.to_json() for report in reports], "notes": notes})
        bad += reports if fatal else []
    write_json(json_file, {"stages": documents} if config.stages else documents[0])
    if bad:
        from embedkit.data.sources.preflight import check_nothing_bad

        check_nothing_bad(bad)


def _show(reports: list[SourceReport], out: Any) -> None:
    """The table of the sources, and the first rows that cannot be used."""
    lines: list[list[Any]] = []
    for report in reports:
        lines.append([report.path, report.read, report.filtered, report.good, report.bad.total()])
        lines += [[f"  {reason}", "", "", "", count] for reason, count in sorted(report.bad.items())]
    out.print(table(["source", "read", "left out by where", "good", "bad"], lines))
    faults = [fault for report in reports for fault in report.faults]
    for fault in faults[:_LISTED]:
        out.print(f"{fault['where']}: {fault['what']}")
    if len(faults) > _LISTED:
        out.print(f"... and {len(faults) - _LISTED:,} more; all of them: --json FILE")


def _read_all(recipe: Recipe, method: Method) -> list[SourceReport]:
    from embedkit.data.datasets.open import open_sources
    from embedkit.data.images.decoding import Decoding
    from embedkit.data.sources.preflight import inspect_sources
    from embedkit.training import setup

    data = recipe.data.model_copy(update={"on_bad_row": "skip"})
    sources = open_sources(data, setup.contract_of(recipe, method))
    with bar("rows") as show:
        return inspect_sources(
            sources, Decoding(None, recipe.data.workers, recipe.data.max_pixels), lambda count: show(count, count)
        )
