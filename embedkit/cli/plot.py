"""``embedkit plot``: curves of runs, and the table of their evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedkit.cli.output import JsonFile, check_json, console, write_json


def plot(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Output folders of runs, one or several.")],
    output: Annotated[str, typer.Option("--output", "-o", help="File to draw: .svg, .png or .pdf.")] = "curves.svg",
    figure: Annotated[
        list[str] | None,
        typer.Option("--figure", "-f", help="A figure of the log, eval/NAME for a score; the usual ones when none."),
    ] = None,
    smooth: Annotated[float, typer.Option("--smooth", help="Running mean: 0 is none, 0.9 a strong one.")] = 0.0,
    json_file: JsonFile = None,
) -> None:
    """Draw the curves of one or several runs, and print a table of their evaluations.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> Path("faq").mkdir()
    >>> _ = Path("faq/log.jsonl").write_text('{"step": 1, "loss": 0.5}\\n{"step": 2, "loss": 0.4}\\n')
    >>> main(["plot", "faq", "--output", "faq.svg"])
    faq: 2 steps, loss 0.4000
    curves in faq.svg
    0
    """
    check_json(json_file)
    from embedkit.training.monitor.curves import curves_json, plot_runs, score_table

    read = plot_runs(runs, output, figures=figure, smooth=smooth)
    out = console(json_file)
    for run in read:
        loss = run.last("loss")
        steps = max(steps[-1] for steps, _ in run.figures.values())
        out.print(f"{run.name}: {steps:,} steps" + (f", loss {loss:.4f}" if loss is not None else ""))
    rows = score_table(read)
    if rows:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("run", "score", "first", "best", "at step", "last"):
            table.add_column(name, justify="left" if name in ("run", "score") else "right")
        for row in rows:
            numbers = [f"{row[name]:.2f}" for name in ("first", "best", "last")]
            table.add_row(row["run"], row["score"], numbers[0], numbers[1], f"{row['step']:,}", numbers[2])
        out.print(table)
    out.print(f"curves in {Path(output)}")
    write_json(json_file, curves_json(read))
