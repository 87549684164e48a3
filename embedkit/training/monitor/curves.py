"""Curves of runs that are over or under way: losses and rates of ``log.jsonl`` and the scores of its evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.errors import DataError, UserError, nearest
from embedkit.formats.detect import stage_folders
from embedkit.system.disk import writing
from embedkit.system.log_file import RATES

SUFFIXES = (".svg", ".png", ".pdf")
_USUAL = ("loss", "lr", "gradient_norm", *RATES)
Curve = tuple[list[int], list[float]]
"""Steps and values."""


@dataclass
class RunCurves:
    """What a run's log says over its steps.

    Attributes
    ----------
    name : str
        Of the run: its folder.
    figures : dict of str to (list of int, list of float)
        Name of a figure -> steps and values; scores of evaluations are ``eval/NAME``.

    Examples
    --------
    >>> RunCurves("faq", {"loss": ([10, 20], [0.9, 0.5])}).last("loss")
    0.5
    """

    name: str
    figures: dict[str, Curve] = field(default_factory=dict)

    def last(self, name: str) -> float | None:
        """The last value of a figure; None where the run has none of this name."""
        values = self.figures.get(name, ([], []))[1]
        return values[-1] if values else None


def read_run(folder: str | Path) -> RunCurves:
    """The curves of a run's folder; of a run of stages one after the other, with steps that go on.

    Raises
    ------
    DataError
        The folder is no run, or its log has no rows or one that is not JSON.

    Examples
    --------
    >>> Path("faq").mkdir()
    >>> _ = Path("faq/log.jsonl").write_text('{"step": 1, "loss": 0.5}\\n{"step": 1, "scores": {"avg": 61.0}}\\n')
    >>> read_run("faq").figures
    {'loss': ([1], [0.5]), 'eval/avg': ([1], [61.0])}
    """
    place = Path(folder)
    place = place.parent if place.name == "model" else place
    run, offset = RunCurves(place.name or str(place)), 0
    for part in stage_folders(place) or [place]:
        offset = _read_log(part / "log.jsonl", run, offset)
    return run


def _read_log(path: Path, run: RunCurves, offset: int) -> int:
    """The last step, after the rows of a log were added behind step `offset`."""
    if not path.is_file():
        raise DataError("there is no log.jsonl", where=str(path.parent), remedy="give the output folder of a run")
    last = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            step = int(row["step"]) + offset
            figures = {f"eval/{name}": value for name, value in row["scores"].items()} if "scores" in row else row
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "take the line out, which a stopped run may have written in part"
            raise DataError("is no row of a log", where=f"{path}:{number}", remedy=remedy) from error
        for name, value in figures.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = run.figures.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
        last = max(step, last or 0)  # scores of the saved model, an earlier one, may stand last
    if last is None:
        raise DataError("the log is empty", where=str(path), remedy="wait for the first log step")
    return last


def score_table(runs: Sequence[RunCurves]) -> list[dict[str, Any]]:
    """The scores of the evaluations of runs: for each run and score the first, the best with its step, and the last.

    Examples
    --------
    >>> run = RunCurves("faq", {"eval/avg": ([1, 2, 3], [50.0, 61.0, 60.0])})
    >>> score_table([run])
    [{'run': 'faq', 'score': 'avg', 'first': 50.0, 'best': 61.0, 'step': 2, 'last': 60.0}]
    """
    rows = []
    for run in runs:
        for name, (steps, values) in run.figures.items():
            if name.startswith("eval/"):
                best = max(range(len(values)), key=values.__getitem__)
                rows.append({"run": run.name, "score": name.removeprefix("eval/"), "first": values[0],
                             "best": values[best], "step": steps[best], "last": values[-1]})  # fmt: skip
    return rows


def check_plot(output: str | Path) -> Path:
    """The file that curves are drawn to, when it can be one.

    Raises
    ------
    UserError
        Its ending is none of `SUFFIXES`, or matplotlib is not installed.

    Examples
    --------
    >>> check_plot("curves.jpg")
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: curves.jpg: drawn are .svg, .png, .pdf; name the file so
    """
    path = Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"drawn are {', '.join(SUFFIXES)}", where=str(output), remedy="name the file so")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("curves need the package matplotlib", where=str(output),
                        remedy="pip install 'embedkit[plot]'") from error  # fmt: skip
    return path


def plot_runs(
    runs: Sequence[str | Path], output: str | Path, *, figures: Sequence[str] | None = None, smooth: float = 0.0
) -> list[RunCurves]:
    """The curves of runs, drawn to a file: a panel a figure, a line a run.

    Parameters
    ----------
    runs : sequence of str or Path
        Folders of runs.
    output : str or Path
        ``.svg``, ``.png`` or ``.pdf``.
    figures : sequence of str, optional
        Names of the log's figures, ``eval/NAME`` for scores; when None loss, rate, gradient norm, speed, and all scores
        of evaluations (the means alone where there are more than six).
    smooth : float
        Share of the mean so far in each value of a running mean, 0 to below 1; raw values stay visible behind it.

    Raises
    ------
    DataError, UserError
        A folder is no run, no run has a figure, or the file cannot be drawn.

    Examples
    --------
    >>> Path("quick").mkdir()
    >>> _ = Path("quick/log.jsonl").write_text('{"step": 1, "loss": 0.5}\\n{"step": 2, "loss": 0.4}\\n')
    >>> [run.name for run in plot_runs(["quick"], "curves.svg")]
    ['quick']
    """
    path = check_plot(output)
    if not 0 <= smooth < 1:
        raise UserError(f"smooth is {smooth}", where="plot", remedy="give a number from 0 to below 1")
    read = [read_run(folder) for folder in runs]
    _tell_apart(read, runs)
    names = _chosen(read, figures)
    _draw(read, names, path, smooth)
    return read


def _tell_apart(read: Sequence[RunCurves], folders: Sequence[str | Path]) -> None:
    """Runs in folders of one name are called by more of their path."""
    names = [run.name for run in read]
    for run, folder in zip(read, folders, strict=True):
        if names.count(run.name) > 1:
            run.name = "/".join(Path(folder).parts[-2:])


def _chosen(read: Sequence[RunCurves], figures: Sequence[str] | None) -> list[str]:
    there = list(dict.fromkeys(name for run in read for name in run.figures))
    if figures is not None:
        for name in figures:
            if name not in there:
                raise UserError(f"no run has a figure {name!r}", where="plot", remedy=nearest(name, there))
        return list(dict.fromkeys(figures))
    scores = [name for name in there if name.startswith("eval/")]
    if len(scores) > 6:
        scores = [name for name in scores if name in ("eval/avg", "eval/mean", "eval/score")] or scores[:6]
    return [name for name in _USUAL if name in there] + scores


def _draw(read: Sequence[RunCurves], names: Sequence[str], path: Path, smooth: float) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context({"svg.hashsalt": "embedkit", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.3), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, name in zip(panels, names, strict=False):
            for place, run in enumerate(read):
                steps, values = run.figures.get(name, ([], []))
                if steps:
                    colour = f"C{place}"
                    marker = "o" if len(steps) < 30 else None
                    if smooth:
                        panel.plot(steps, values, color=colour, alpha=0.25)
                    panel.plot(steps, _smoothed(values, smooth), color=colour, marker=marker, ms=3, label=run.name)
            panel.set(title=name, xlabel="step")
            panel.grid(alpha=0.3)
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        legends = [panel.get_legend_handles_labels() for panel in panels]
        handles = {label: handle for pair in legends for handle, label in zip(*pair, strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=min(4, len(handles)))
        with writing(path, "the curves") as file:
            data = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(file, format=path.suffix.lower()[1:], dpi=150, metadata=data)


def _smoothed(values: Sequence[float], share: float) -> list[float]:
    """A running mean without the pull of its start (as Adam's): after n values each has its share of the weight."""
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        out.append(mean / weight)
    return out


def curves_json(read: Sequence[RunCurves]) -> Mapping[str, Any]:
    """The curves and the table of scores of runs, for programs.

    Examples
    --------
    >>> curves_json([RunCurves("faq", {"loss": ([1], [0.5])})])
    {'runs': {'faq': {'loss': {'steps': [1], 'values': [0.5]}}}, 'scores': []}
    """
    curves = {
        run.name: {name: {"steps": steps, "values": values} for name, (steps, values) in run.figures.items()}
        for run in read
    }
    return {"runs": curves, "scores": score_table(read)}
