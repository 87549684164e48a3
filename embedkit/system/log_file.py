"""Reading the log of a run, ``log.jsonl``: one object a line, with a step, and numbers or scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedkit.errors import DataError

Row = Mapping[str, Any]
"""``step``, and either numbers by name or ``scores``: number or None by ``suite/task``."""


RATES = tuple(f"{noun}_per_s" for noun in ("sentences", "images", "vectors", "sequences", "inputs"))
"""What a log calls the speed, by what the model reads; inputs where texts and images, say, are read in one step."""


def speed_of(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """What a row of a log counts, and how many of it a second; None for a row of an evaluation.

    Examples
    --------
    >>> speed_of({"step": 10, "images_per_s": 250.0})
    ('images', 250.0)
    """
    name = next((name for name in RATES if name in row), None)
    return None if name is None else (name.removesuffix("_per_s"), float(row[name]))


def read_log(path: Path) -> list[Row]:
    """The rows of the log of a run.

    Raises
    ------
    DataError
        It cannot be read, or a line is something else.

    Examples
    --------
    >>> path = Path("log.jsonl")
    >>> _ = path.write_text('{"step": 1, "loss": 2.5}\\n')
    >>> read_log(path)
    [{'step': 1, 'loss': 2.5}]
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), remedy="check the path") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_checked(json.loads(line.decode("utf-8"))))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            problem = f"not a line of a log ({type(error).__name__}: {error})"
            raise DataError(problem, where=f"{path}:{number}", remedy="fix or remove this line") from None
    return rows


def _checked(row: Any) -> Row:
    numbers = [row["step"], *(value for key, value in row.items() if key != "scores")]
    numbers += [value for value in row.get("scores", {}).values() if value is not None]
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{str(value)[:40]!r} is no number")
        if isinstance(value, int) and abs(value) > 2**63:
            raise ValueError("a number is out of range")
    return dict(row)
