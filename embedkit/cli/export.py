"""``embedkit export``: write a model in the format of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import ModelName, TrustRemoteCode, console


def export(
    model: ModelName,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="sentence-transformers, transformers or onnx.")
    ] = "sentence-transformers",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is no export.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a model for another library."""
    from embedkit.api import export as write
    from embedkit.models import load

    write(load(model, device="cpu", trust_remote_code=trust_remote_code), output, format=format, overwrite=overwrite)
    console().print(f"written to {output}")
