"""``embedkit push``: a model on the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from embedkit.cli.output import console


def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model or of a run.")],
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="NAME or ORGANISATION/NAME on the hub.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository; the hub's default when not given.")
    ] = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Branch, made where it does not exist.")] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="The checkpoints of the run too.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.")] = None,
) -> None:
    """Push a model with its card and results to the hub; the token is that of `hf auth login` or HF_TOKEN.

    An upload that was broken off is continued by the same command.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["push", "runs/faq", "no/such/name"])
    2
    """
    from embedkit.evaluation.report.push import push as send

    address = send(model, repository, private=private, revision=branch, checkpoints=checkpoints, message=message)
    console().print(f"pushed to {address}")
