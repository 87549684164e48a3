"""DiscoEval's files: a folder a task with train.txt, valid.txt and test.txt, a row a line, cells between tabs.

The form is that of the authors' release (Chen, Chu and Gimpel 2019; github.com/ZeweiChu/DiscoEval, folder data). RST
comes there as pickles, which are not read, since a pickle can run code; here it is ``train.jsonl`` ... with
``label``, ``first`` and ``second``, lists of the units of the two sub-trees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from embedkit.data.builtin import stories
from embedkit.errors import DataError
from embedkit.evaluation.datasets.tables import Table, read_jsonl, read_lines

Form = Literal["position", "order", "coherence", "section", "relation", "tree"]

SENTENCES: dict[Form, int] = {"position": 5, "order": 2, "coherence": 6, "section": 1, "relation": 2, "tree": 2}
"""Sentences of a row by the form of the task."""

_BUILTIN = "builtin:"


def read_discourse(data: Path | None, name: str, folder: str | None, form: Form, split: str) -> Table:
    """A split of a task as a table: ``label`` (not for "order") and ``text_1`` ...; lists of texts for "tree".

    `split` is the name of the file, "valid" being DiscoEval's word. `name` is the folder below `data`, ``SP/wiki`` say,
    or ``builtin:stories``. An empty sentence is read as a full stop, as the authors' example does.

    Raises
    ------
    DataError
        The folder or file is missing, or a line has another number of cells.

    Examples
    --------
    >>> table = read_discourse(None, "builtin:stories", None, "section", "test")
    >>> sorted(table.columns), len(table)
    (['label', 'text_1'], 120)
    """
    if name.startswith(_BUILTIN):
        rows = list(enumerate(stories.rows(form, split), start=1))
        return _table(rows, form, f"{name}/{form}/{split}")
    path = _file(data, name, folder, split, ".jsonl" if form == "tree" else ".txt")
    if form == "tree":
        return _trees(path)
    rows = []
    for number, line in read_lines(path):
        cells = line.strip("\n").split("\t")
        width = SENTENCES[form] + (form != "order")
        if len(cells) != width:
            what = f"{len(cells)} cells between tabs, a row of the form {form!r} has {width}"
            raise DataError(what, where=f"{path}:{number}", remedy="give the files of the release as they are")
        rows.append((number, cells))
    if not rows:
        raise DataError("no rows", where=str(path), remedy="check that the file is complete")
    return _table(rows, form, str(path))


def _file(data: Path | None, name: str, folder: str | None, split: str, ending: str) -> Path:
    if data is None:
        remedy = "clone github.com/ZeweiChu/DiscoEval and name its folder data: --data, in recipes evaluation.data"
        raise DataError("DiscoEval has no data on the hub", remedy=remedy)
    bases = [data, *([data / folder] if folder else []), data / "data"]
    for base in bases:
        if (base / name / f"{split}{ending}").is_file():
            return base / name / f"{split}{ending}"
    there = next((base / name for base in bases if (base / name).is_dir()), None)
    if there is not None:
        raise DataError(f"no file {split}{ending}", where=str(there), remedy="its name is as in the release")
    raise DataError(f"no folder {name}", where=str(data), remedy="choose the tasks whose data are there with --tasks")


def _table(rows: list[tuple[int, list[str]]], form: Form, source: str) -> Table:
    texts = [cells if form == "order" else cells[1:] for _, cells in rows]
    columns: dict[str, list[Any]] = {
        f"text_{place + 1}": [row[place].strip() or "." for row in texts] for place in range(SENTENCES[form])
    }
    if form != "order":
        columns["label"] = [cells[0].strip() for _, cells in rows]
    return Table(columns, [number for number, _ in rows], source)


def _trees(path: Path) -> Table:
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {"label": [], "text_1": [], "text_2": []}
    for number, row in read_jsonl(path):
        for name, key in (("label", "label"), ("text_1", "first"), ("text_2", "second")):
            if key not in row:
                raise DataError(
                    f"there is no key {key!r}", where=f"{path}:{number}", remedy="give label, first, second"
                )
            columns[name].append(row[key])
        numbers.append(number)
    return Table(columns, numbers, str(path))
