"""``embedkit quickstart``: train, score and use a small encoder in under two minutes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkit.cli.output import JsonFile, Smoke, check_json, console, write_json

if TYPE_CHECKING:
    from rich.console import Console

_SUITE = "builtin-sts"


def quickstart(
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the run; a new one below runs/ when not given.")
    ] = None,
    smoke: Smoke = False,
    json_file: JsonFile = None,
) -> None:
    """Train, score and use a small encoder.

    From scratch on built-in data, without a download, in less than two minutes on two cores.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["quickstart", "--smoke"])
    Training a text encoder from random weights on built-in sentences; nothing is downloaded.
    Spearman correlation x 100 on 2,000 held-out pairs:
    ...
    0
    """
    check_json(json_file)
    write_json(json_file, _first_run(output, console(json_file), smoke=smoke))


def _first_run(output: str | Path | None, console: Console, *, smoke: bool = False) -> dict[str, Any]:
    """The scores of the shipped recipe ``quickstart`` before and after training, which are shown too.

    Parameters
    ----------
    output : str or Path, optional
        Folder of the run; the model goes to ``OUTPUT/model``. The first free of ``runs/quickstart``,
        ``runs/quickstart-2`` and so on when not given.
    console : rich Console
        Where results are printed; progress goes to standard error.
    smoke : bool
        A few steps only, to see that everything runs.

    Returns
    -------
    dict
        ``model`` (Path), ``before`` and ``after`` (Spearman correlation x 100 on the held-out test pairs),
        ``sentences`` (three of them) and ``similarity`` (3 x 3 cosines).

    Raises
    ------
    CheckpointError
        The output folder holds a run already.
    """
    from embedkit.config.recipe_io import load_recipe

    recipe = load_recipe("quickstart", smoke=smoke)
    console.print("Training a text encoder from random weights on built-in sentences; nothing is downloaded.")
    from embedkit.data.builtin import sentences as builtin
    from embedkit.evaluation import open_suite
    from embedkit.factory import build
    from embedkit.formats import load
    from embedkit.training import train

    suite = open_suite(_SUITE, split="test")
    before = suite.run(build(recipe.model, recipe.seed)).main
    result = train(recipe, output=_free_folder() if output is None else output)
    model = load(result.output)
    after = suite.run(model).main
    console.print(f"Spearman correlation x 100 on {builtin.size('graded-test'):,} held-out pairs:")
    console.print(f"  before training {before:6.2f}\n  after {result.steps:,} steps {after:6.2f}")
    console.print(f"Model saved in {result.output}")

    sentences = builtin.examples()
    similarity = model.similarity(*[model.encode(sentences)] * 2)
    console.print("Cosine similarity of three held-out sentences:")
    for number, (sentence, row) in enumerate(zip(sentences, similarity, strict=True), start=1):
        console.print(f"  {number}  {'  '.join(f'{value:5.2f}' for value in row)}  {sentence}")
    return {
        "model": result.output, "before": before, "after": after, "sentences": sentences,
        "similarity": similarity.tolist(),
    }  # fmt: skip


def _free_folder() -> Path:
    base = Path("runs") / "quickstart"
    folders = (base if number == 1 else base.with_name(f"quickstart-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())
