"""``embedkit export``: write a model in the format of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import AllowPickle, ModelName, Revision, TrustRemoteCode, console


def export(
    model: ModelName,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="sentence-transformers, transformers, onnx, sequence-classifier; dual: open_clip, clip, timm ...",
        ),
    ] = "sentence-transformers",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is no export.")] = False,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Images and texts compared, where they are.")] = 100,
    tower: Annotated[
        str | None, typer.Option("--tower", help="One tower: image of a dual model, or one by name.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="The first layers of a text encoder alone.")
    ] = None,
    route: Annotated[
        str | None, typer.Option("--route", help="One route of a Router of sentence-transformers: query, document ...")
    ] = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Write a model for another library.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> main(["export", "model", "for-others"])
    written to for-others
    0
    """
    from embedkit.formats import export as write
    from embedkit.formats import load
    from embedkit.formats.export import check_format

    check_format(format)  # what is missing is asked for before a model is read
    encoder = load(
        model, device="cpu", trust_remote_code=trust_remote_code, revision=revision, allow_pickle=allow_pickle,
        layers=layers, route=route,
    )  # fmt: skip
    write(encoder, output, format=format, overwrite=overwrite, samples=samples, tower=tower)
    console().print(f"written to {output}")
