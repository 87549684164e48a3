"""``embedkit fuse``: several encoders as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import AllowPickle, TrustRemoteCode, console
from embedkit.errors import COMMAND_LINE, UserError


def fuse(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL...", help="Two or more folders or hub ids.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write.")],
    weight: Annotated[
        list[float] | None, typer.Option("--weight", "-w", help="Factor of a model's vectors, one for each; 1 if none.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not scale each model's vectors to length 1 first.")] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Scale the whole vector to length 1.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder of another program.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Write one model that gives the vectors of several encoders side by side, or of an encoder and its adapters.

    It is loaded, evaluated, searched with and mined with like any other; of multistage contrastive learning it is the
    representation by all stages: embedkit fuse runs/stage-1 runs/stage-2 both

    An adapter trained on an encoder's stored vectors becomes part of it: embedkit fuse MODEL runs/adapter whole

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> for dim in (4, 8):
    ...     _ = StaticEncoder(tokenizer(), dim=dim).save(f"words-{dim}")
    >>> main(["fuse", "words-4", "words-8", "both", "--weight", "1", "--weight", "0.5"])
    2 models side by side, 4 + 8 = 12 numbers, written to both
    0
    """
    if len(models) < 2:
        raise UserError(f"one model, {models[0]}, and the output {output}", where=COMMAND_LINE,
                        remedy="name two models or more, and the folder to write last")  # fmt: skip
    from embedkit.formats.fusion import fuse as run

    model = run(
        models, weights=weight, unit=not raw, normalize=normalize, device="cpu", trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )  # fmt: skip
    model.save(output, overwrite=overwrite)
    if model.kind == "chain":
        say = f"the adapter reads what {models[0]} gives: {model.dim} numbers, written to {output}"
        console().print(say)
        return
    sizes = " + ".join(str(member.dim) for member in model.models)
    console().print(f"{len(model.models)} models side by side, {sizes} = {model.dim} numbers, written to {output}")
