"""``embedkit train``: run a recipe."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from embedkit.cli.output import JsonFile, Overrides, RecipeName, Smoke, check_json, console, show, write_json
from embedkit.cli.recipe_words import check_own_data, open_recipe


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the run; wins over train.output.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest complete checkpoint.")] = False,
    smoke: Smoke = False,
    json_file: JsonFile = None,
) -> None:
    """Train a model by a recipe.

    A recipe with stages trains them one after another, each from the weights of the one before; with --resume what is
    done is not done again.

    On several processes: torchrun --nproc-per-node 2 -m embedkit train RECIPE

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["train", "quickstart", "--smoke", "--output", "run"])
    4 steps, loss ...; model in run/model
    0
    """
    check_json(json_file)
    from embedkit.config.recipe_io import stage_recipes
    from embedkit.config.stages import of_each
    from embedkit.training.setup import check_early

    config = open_recipe(recipe, overrides or [], smoke=smoke)
    check_own_data(recipe, config, smoke=smoke, command="train")
    early = of_each(stage_recipes(config), check_early)
    from accelerate import PartialState

    from embedkit.training.loop.run import train_recipe

    result = train_recipe(config, early, resume=resume, output=output)
    if not PartialState().is_main_process:
        return
    out = console(json_file)
    loss = "" if math.isnan(result.loss) else f", loss {result.loss:.4f}"  # no step was left to make
    out.print(f"{result.steps:,} steps{loss}; model in {result.output}")
    for name, score in result.scores.items():
        out.print(f"  {name}: {show(score)}")
    write_json(
        json_file,
        {
            "output": result.output, "steps": result.steps, "loss": result.loss, "scores": result.scores,
            "best": result.best,
        },
    )  # fmt: skip
