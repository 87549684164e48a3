"""JSON lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterator

from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.files import text_lines
from embedkit.data.sources.formats.json_objects import json_object
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location


def read_jsonl(path: Location) -> Iterator[Record]:
    """The objects of a JSON Lines file; a key given twice is refused, blank lines are allowed at the end only.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("faq.jsonl").write_text('{"anchor": "a cat"}\\n["a dog"]\\n')
    >>> for number, cells in read_jsonl(Path("faq.jsonl")):
    ...     print(number, cells)
    1 {'anchor': 'a cat'}
    2 faq.jsonl:2: a JSON list, not an object; write {"column": value, ...} a line
    """
    blank: int | None = None
    for number, line in text_lines(path):
        if isinstance(line, BadRow):
            yield number, line
            continue
        if not line.strip():
            blank = blank or number
            continue
        if blank is not None:
            yield (
                blank,
                BadRow("blank line", "the line is blank", where=f"{path}:{blank}", remedy="remove it"),
            )
            blank = None
        try:
            yield number, json_object(line)
        except BadRow as bad:
            yield number, bad.at(f"{path}:{number}")


readers.add("jsonl")(Format((".jsonl", ".ndjson"), read_jsonl))
