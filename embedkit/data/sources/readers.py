"""Readers of text formats: csv, tsv, jsonl and txt, one `Record` after the other in constant memory.

Cells of csv, tsv and txt are text and stay text: ``001``, ``NA`` and ``null`` are never turned into something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.files import MAX_LINE, chomp, text_lines
from embedkit.errors import DataError


def read_txt(path: Path) -> Iterator[Record]:
    """One sentence a line, in the column ``text``."""
    for number, line in text_lines(path):
        yield number, line if isinstance(line, BadRow) else {"text": chomp(line)}


def read_tsv(path: Path) -> Iterator[Record]:
    """Tab-separated cells below a header line; no quoting, so a quotation mark is an ordinary character."""
    yield from _table(path, ((number, number, _split_tabs(line)) for number, line in text_lines(path)))


def read_csv(path: Path) -> Iterator[Record]:
    """Comma-separated cells below a header line, with quoting as in RFC 4180 (a quoted cell may span lines)."""
    yield from _table(path, _csv_rows(path))


def read_jsonl(path: Path) -> Iterator[Record]:
    """One JSON object a line; a key given twice in an object is refused, blank lines are allowed at the end only."""
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


def _split_tabs(line: str | BadRow) -> list[str] | BadRow:
    return line if isinstance(line, BadRow) else chomp(line).split("\t")


def _table(path: Path, rows: Iterator[tuple[int, int, list[str] | BadRow]]) -> Iterator[Record]:
    """Rows of cells to records, the first row being the header."""
    header: list[str] | None = None
    for number, last, cells in rows:
        if header is None:
            if isinstance(cells, BadRow):
                raise cells
            header = check_header(cells, f"{path}:{number}")
            if header == [""]:
                raise DataError("the header line is blank", where=f"{path}:{number}", remedy="name the columns there")
        elif isinstance(cells, BadRow):
            yield number, cells
        elif cells == header and len(header) > 1:
            what = "the line repeats the header"
            yield number, BadRow("repeated header", what, where=f"{path}:{number}", remedy="remove it")
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        else:
            yield number, _ragged(path, number, last, cells, header)


def _ragged(path: Path, number: int, last: int, cells: Sequence[str], header: Sequence[str]) -> BadRow:
    lines = f"{path}:{number}" if last == number else f"{path}:{number}-{last}"
    what = "the line is blank" if list(cells) == [""] else f"{len(cells)} cells where the header has {len(header)}"
    return BadRow("ragged row", what, where=lines, remedy="check separators and quotation marks on this line")


def check_header(names: Sequence[str], where: str) -> list[str]:
    """The names of the columns, checked to be different; raises `DataError` for a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"column {name!r} occurs twice in the header", where=where, remedy="rename one of them")
        seen.add(name)
    return list(names)


def _csv_rows(path: Path) -> Iterator[tuple[int, int, list[str] | BadRow]]:
    """First line, last line and cells of each csv row."""
    cells: list[str] = []
    pieces: list[str] = []  # a quoted cell that goes on over the end of the line
    size, first = 0, 0
    for number, line in text_lines(path):
        if isinstance(line, BadRow):
            yield number, number, line
            cells, pieces, size = [], [], 0
            continue
        if not pieces:
            first = number
            if '"' not in line:  # the usual case, many times faster
                yield number, number, chomp(line).split(",")
                continue
        size += len(line)
        if size > MAX_LINE:
            break
        try:
            if _scan(line, cells, pieces):
                continue
        except BadRow as bad:
            yield first, number, bad.at(f"{path}:{number}")
        else:
            yield first, number, cells
        cells, pieces, size = [], [], 0
    if pieces:
        raise DataError(
            "a quotation mark opened here is never closed",
            where=f"{path}:{first}",
            remedy='close it, or write a quotation mark inside quoted text twice ("")',
        )


def _scan(line: str, cells: list[str], pieces: list[str]) -> bool:
    """Append the cells of one line; True when a quoted cell goes on in the next line (its text so far in `pieces`)."""
    end = len(chomp(line))
    at, quoted = 0, bool(pieces)
    while True:
        if quoted or line.startswith('"', at):
            at += 0 if quoted else 1
            quoted = False
            at = _quoted(line, at, pieces)
            if at < 0:
                return True
            cells.append("".join(pieces))
            pieces.clear()
            if at < end and line[at] != ",":
                raise BadRow(
                    "bad quotes",
                    f"column {at + 1}: text after the closing quotation mark",
                    remedy='write a quotation mark inside quoted text twice ("")',
                )
        else:
            stop = line.find(",", at, end)
            stop = end if stop < 0 else stop
            cells.append(line[at:stop])
            at = stop
        if at >= end:
            return False
        at += 1  # the comma


def _quoted(line: str, at: int, pieces: list[str]) -> int:
    """Append the text up to the closing mark to `pieces`; the position after the mark, or -1 when it is not there."""
    while True:
        mark = line.find('"', at)
        if mark < 0:
            pieces.append(line[at:])
            return -1
        if line.startswith('"', mark + 1):
            pieces.append(line[at : mark + 1])
            at = mark + 2
        else:
            pieces.append(line[at:mark])
            return mark + 1


def json_object(line: str) -> dict[str, Any]:
    """A JSON object, every key once and every text whole; raises `BadRow` without a place."""
    try:
        value = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise BadRow("bad JSON", f"not JSON ({error.msg}, column {error.colno})", remedy="one object a line") from error
    except RecursionError as error:
        raise BadRow("bad JSON", "JSON nested too deeply", remedy="one flat object a line") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise BadRow("bad JSON", f"not usable JSON ({error})", remedy="shorten the number") from error
    if not isinstance(value, dict):
        raise BadRow(
            "bad JSON", f"a JSON {type(value).__name__}, not an object", remedy='write {"column": value, ...} a line'
        )
    if "\\u" in line:
        _check_escapes(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRow("duplicate key", f"key {twice!r} occurs twice in one object", remedy="rename one of them")
    return made


def _check_escapes(value: Any) -> None:
    """Refuse texts that JSON escapes can smuggle in and UTF-8 cannot hold: NUL and lone surrogates."""
    if isinstance(value, str):
        check_characters(value)
    elif isinstance(value, list):
        for item in value:
            _check_escapes(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_characters(key)
            _check_escapes(item)


def check_characters(text: str) -> None:
    """Raise `BadRow` when a text holds NUL or a lone surrogate, which no UTF-8 file and no tokenizer can take."""
    if "\0" in text:
        raise BadRow("NUL byte", f"NUL character at character {text.index(chr(0))}", remedy="remove it")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise BadRow(
                "lone surrogate",
                f"lone surrogate U+{code:04X} at character {error.start}",
                remedy="write the file again with whole characters",
            ) from error


TEXT_READERS = {"csv": read_csv, "tsv": read_tsv, "jsonl": read_jsonl, "txt": read_txt}
"""Reader of each text format."""
