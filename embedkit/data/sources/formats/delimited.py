"""Tables of text: csv and tsv, one `Record` after the other in constant memory.

Cells are text and stay text: ``001``, ``NA`` and ``null`` are never turned into something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.files import MAX_LINE, chomp, text_lines
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location
from embedkit.errors import DataError

SEPARATORS = {"\t": "tabs", ";": "';'", "|": "'|'"}
"""What separates cells where it is no comma, and its name."""

_SAMPLE = 1_000  # lines by which a file is judged


def read_tsv(path: Location, header: Sequence[str] | None = None) -> Iterator[Record]:
    """Rows of a tab-separated file with a header line; a quotation mark is an ordinary character.

    With `header`, the names of the columns, the first line is data.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("faq.tsv").write_text("question\\tanswer\\nWhat is 7\\"?\\t18 cm\\n")
    >>> list(read_tsv(Path("faq.tsv")))
    [(2, {'question': 'What is 7"?', 'answer': '18 cm'})]
    """
    yield from _table(path, ((number, number, _split_tabs(line)) for number, line in text_lines(path)), header)


def read_csv(path: Location, separator: str | None = None, header: Sequence[str] | None = None) -> Iterator[Record]:
    """Rows of a csv file with a header line; quoting as in RFC 4180 (a quoted cell may span lines).

    Without `separator` it is a comma, or what stands in the first line instead of any comma: tabs, ';' or '|'. With
    `header`, the names of the columns, the first line is data.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("faq.csv").write_text('question;answer\\n"Cash; or card?";Both.\\n')
    >>> list(read_csv(Path("faq.csv")))
    [(2, {'question': 'Cash; or card?', 'answer': 'Both.'})]
    """
    yield from _table(path, _csv_rows(text_lines(path), path, separator or _separator_of(path)), header)


def _separator_of(path: Location) -> str:
    """The separator of a csv file by its first line: a comma unless there is none, and one of `SEPARATORS` alone is."""
    first = next((line for _, line in text_lines(path)), "")
    if isinstance(first, BadRow) or "," in first:
        return ","
    signs = [sign for sign in SEPARATORS if sign in first]
    return signs[0] if len(signs) == 1 else ","


def _separator_guess(path: Location) -> tuple[str, str] | None:
    sign = _separator_of(path)
    return None if sign == "," else (f"cells are separated by {SEPARATORS[sign]}", "separator")


def _quotes_of(path: Location, headless: bool) -> tuple[str, dict[str, Any], str] | None:
    """Format and settings of a file with tabs whose first lines have quotation marks around cells that need them, as
    pandas, Excel and R write; None where they can be part of the texts."""
    lines = dict(islice(text_lines(path), _SAMPLE))
    if not any(isinstance(line, str) and '"' in line for line in lines.values()):
        return None
    width, needs_quotes = 0, False
    try:
        for first, last, cells in _csv_rows(lines.items(), path, "\t"):
            texts = [line for number in range(first, last + 1) if isinstance(line := lines[number], str)]
            if isinstance(cells, BadRow) or len(texts) <= last - first:
                return None
            plain = [chomp(text).split("\t") for text in texts]
            if not width:
                width = len(cells)
                needs_quotes = not headless and all(cell.startswith('"') for cell in plain[0])
            if cells == [""]:
                continue
            if len(cells) != width or (last > first and all(len(part) == width for part in plain)):
                return None
            alone = len(plain) == 1 and len(plain[0]) == width
            needs_quotes |= not alone or any(
                '"' in cell and cell != own for cell, own in zip(cells, plain[0], strict=True)
            )
    except DataError:  # a mark that is not closed, behind the sample perhaps
        if len(lines) < _SAMPLE:
            return None
    what = "quotation marks stand around cells, and are read as in csv"
    return ("csv", {"separator": "\t"}, what) if needs_quotes else None


def _split_tabs(line: str | BadRow) -> list[str] | BadRow:
    return line if isinstance(line, BadRow) else chomp(line).split("\t")


def _table(
    path: Location, rows: Iterator[tuple[int, int, list[str] | BadRow]], names: Sequence[str] | None
) -> Iterator[Record]:
    """Rows of cells to records, the first row being the header where `names` is None."""
    header = None if names is None else check_header(names, str(path))
    for number, last, cells in rows:
        if header is None:
            if isinstance(cells, BadRow):
                raise cells
            header = check_header([cell.strip() for cell in cells], f"{path}:{number}")
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


def _ragged(path: Location, number: int, last: int, cells: Sequence[str], header: Sequence[str]) -> BadRow:
    lines = f"{path}:{number}" if last == number else f"{path}:{number}-{last}"
    what = "the line is blank" if list(cells) == [""] else f"{len(cells)} cells where the header has {len(header)}"
    return BadRow("ragged row", what, where=lines, remedy="check separators and quotation marks on this line")


def check_header(names: Sequence[str], where: str) -> list[str]:
    """The column names as a list; raises `DataError` for a name that occurs twice.

    Examples
    --------
    >>> check_header(["anchor", "positive"], "faq.csv:1")
    ['anchor', 'positive']
    >>> check_header(["text", "text"], "faq.csv:1")
    Traceback (most recent call last):
    embedkit.errors.DataError: faq.csv:1: column 'text' occurs twice in the header; rename one of them
    """
    earlier: set[str] = set()
    for name in names:
        if name in earlier:
            remedy = "rename one of them"
            if not name.strip("0123456789. "):
                remedy += "; where this line is a row, write names before it, or in a recipe header: [NAME_1, ...]"
            raise DataError(f"column {name!r} occurs twice in the header", where=where, remedy=remedy)
        earlier.add(name)
    return list(names)


def _csv_rows(
    lines: Iterable[tuple[int, str | BadRow]], path: Location, separator: str
) -> Iterator[tuple[int, int, list[str] | BadRow]]:
    """First line, last line and cells of each csv row."""
    cells: list[str] = []
    pieces: list[str] = []  # a quoted cell that continues on the next line
    size, first = 0, 0
    for number, line in lines:
        if isinstance(line, BadRow):
            yield number, number, line
            cells, pieces, size = [], [], 0
            continue
        if not pieces:
            first = number
            if '"' not in line:  # the usual case, many times faster
                yield number, number, chomp(line).split(separator)
                continue
        size += len(line)
        if size > MAX_LINE:
            break
        try:
            if _scan(line, cells, pieces, separator):
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


def _scan(line: str, cells: list[str], pieces: list[str], separator: str) -> bool:
    """Append the cells of one line; True when a quoted cell continues on the next (its text so far in `pieces`)."""
    end = len(chomp(line))
    at, in_quotes = 0, bool(pieces)
    while True:
        if in_quotes or line.startswith('"', at):
            at += 0 if in_quotes else 1
            in_quotes = False
            at = _quoted(line, at, pieces)
            if at < 0:
                return True
            cells.append("".join(pieces))
            pieces.clear()
            if at < end and line[at] != separator:
                raise BadRow(
                    "bad quotes",
                    f"column {at + 1}: text after the closing quotation mark",
                    remedy='write a quotation mark inside quoted text twice ("")',
                )
        else:
            stop = line.find(separator, at, end)
            stop = end if stop < 0 else stop
            cells.append(line[at:stop])
            at = stop
        if at >= end:
            return False
        at += 1  # the separator


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


readers.add("csv")(Format((".csv",), read_csv, options=("separator", "header"), guess=_separator_guess))
readers.add("tsv")(Format((".tsv", ".tab"), read_tsv, options=("header",), instead=_quotes_of))
