"""``embedkit new``: a recipe for one's own data, from a few questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkit.cli.completion import recipe_words
from embedkit.errors import COMMAND_LINE, DataError, RecipeError, UserError

if TYPE_CHECKING:
    from embedkit.config.recipe import Recipe

_CANDIDATES = (
    "clip-finetune", "scored-pairs", "classify", "pairs", "simclr", "simcse-unsup", "feature-supcon", "feature-pairs",
    "feature-simclr", "time-series",
)  # fmt: skip
"""Recipes for one's own data that may fit, of two that read as many columns the earlier one first."""


def new(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Your file or folder.")],
    output: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Recipe to write; the name of the data and .yaml.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="The shipped recipe to extend.", autocompletion=recipe_words)
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model folder or hub id to start from.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", min=0.0, help="Passes over the data.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take what is suggested.")] = False,
) -> None:
    """Write a recipe for your data: it finds out which shipped recipes fit, and asks for the rest.

    An option that is given is not asked for.

    \f
    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.cli.app import main
    >>> _ = Path("faq.csv").write_text("question,answer\\nHow do I pay?,By card.\\nWhere?,Here.\\n")
    >>> main(["new", "faq.csv", "--yes"])
    data.train[0] (faq.csv): question is the anchor, answer is the positive (set 'columns' to change that)
    faq.yaml: pairs on faq.csv; go on with `embedkit plan faq.yaml` and `embedkit train faq.yaml`
    0
    """
    file = Path(output or f"{Path(data).stem}.yaml")
    if file.exists():
        raise UserError("it exists already", where=str(file), remedy="name another file after the data")
    fitting, refusals = _fitting([recipe] if recipe else list(_CANDIDATES), data)
    if not fitting:
        raise refusals[-1]
    ask = sys.stdin.isatty() and not yes
    base = next(iter(fitting))
    if ask and recipe is None and len(fitting) > 1:
        base = _choice({name: one.description for name, (one, _) in fitting.items()})
    start, notes = fitting[base]
    for note in notes:
        typer.echo(note)
    name, length = model or start.model.name, epochs or start.train.epochs
    if ask and model is None and name is not None:
        name = typer.prompt("Model to start from", default=name)
    if ask and epochs is None and length is not None:
        length = typer.prompt("Passes over the data (epochs)", default=length, type=float)
    text = _written(base, file, data, start, name, length)
    from embedkit.system.disk import write_durably

    write_durably(file, text.encode(), "the recipe")
    typer.echo(f"{file}: {base} on {data}; go on with `embedkit plan {file}` and `embedkit train {file}`")


def _fitting(names: list[str], data: str) -> tuple[dict[str, tuple[Recipe, list[str]]], list[UserError]]:
    """Recipes that can read the data, those that read most of its columns first, with notes; and why others cannot."""
    from embedkit.config.recipe_io import load_recipe
    from embedkit.data.datasets.open import open_sources
    from embedkit.training import setup
    from embedkit.training.model_inputs import fitted

    fitting: dict[str, tuple[int, Recipe, list[str]]] = {}
    refusals: list[UserError] = []
    for name in names:
        recipe = load_recipe(name, {"data.train": data})
        try:
            sources = open_sources(recipe.data, setup.contract_of(recipe, setup.check(recipe)))
            for source in sources:  # whether the model reads texts where these are texts
                fitted(recipe.model, {}, frozenset(source.roles), source.kinds)
        except (DataError, RecipeError) as error:
            refusals.append(error)
            continue
        roles = {role for source in sources for role in source.roles}
        fitting[name] = (len(roles), recipe, [note for source in sources for note in source.notes])
    order = sorted(fitting, key=lambda name: -fitting[name][0])
    return {name: fitting[name][1:] for name in order}, refusals


def _choice(descriptions: dict[str, str]) -> str:
    """The recipe that the user takes of several."""
    names = list(descriptions)
    for number, name in enumerate(names, 1):
        typer.echo(f"  {number}  {name}: {descriptions[name]}")
    answer = typer.prompt("Which of these recipes", default="1")
    if answer in names:
        return str(answer)
    if answer.isdecimal() and 0 < int(answer) <= len(names):
        return names[int(answer) - 1]
    raise UserError(f"there is no recipe {answer!r} among them", where=COMMAND_LINE,
                    remedy=f"answer with a number from 1 to {len(names)}, or a name")  # fmt: skip


def _written(base: str, file: Path, data: str, start: Recipe, model: str | None, epochs: float | None) -> str:
    """The text of a recipe that extends `base`; checked before it is written."""
    import re

    import yaml

    from embedkit.config.recipe_io import load_recipe
    from embedkit.config.resources import SCHEMA, schema_path

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "own"
    contents: dict[str, Any] = {"extends": base, "name": name, "data": {"train": [{"path": data}]}}
    if model != start.model.name:
        contents["model"] = {"name": model}
    if epochs is not None and epochs != start.train.epochs:
        contents["train"] = {"epochs": epochs}
    load_recipe(base, {key: value for key, value in contents.items() if key != "extends"})
    schema = SCHEMA if (file.parent / SCHEMA).is_file() else schema_path().as_uri()
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# Run: embedkit train {file}        First: embedkit plan {file}",
        f"# Every setting: embedkit recipes {base} --resolved",
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)
