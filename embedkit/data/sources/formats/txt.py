"""Text files with one text a line, with blank lines between documents, or of one document each."""

from __future__ import annotations

from collections.abc import Iterator

from embedkit.data.schema.parsers import is_blank
from embedkit.data.schema.rows import BadRow, Record
from embedkit.data.sources.files import chomp, text_lines
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location


def read_txt(path: Location) -> Iterator[Record]:
    """The lines of a text file, each in the column ``text``.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("sentences.txt").write_text("A cat sleeps.\\nA dog barks.\\n")
    >>> list(read_txt(Path("sentences.txt")))
    [(1, {'text': 'A cat sleeps.'}), (2, {'text': 'A dog barks.'})]
    """
    for number, line in text_lines(path):
        yield number, line if isinstance(line, BadRow) else {"text": chomp(line)}


def read_documents(path: Location) -> Iterator[Record]:
    """The documents of a text file with one sentence a line and blank lines between documents.

    Each is a list in the column ``sentences``; its number is that of its first line.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("stories.txt").write_text("A cat sleeps.\\nIt wakes.\\n\\nA dog barks.\\n")
    >>> list(read_documents(Path("stories.txt")))
    [(1, {'sentences': ['A cat sleeps.', 'It wakes.']}), (4, {'sentences': ['A dog barks.']})]
    """
    first, sentences = 0, list[str]()
    for number, line in text_lines(path):
        if isinstance(line, BadRow):
            yield number, line
        elif is_blank(chomp(line)):
            if sentences:
                yield first, {"sentences": sentences}
            sentences = []
        else:
            first = first if sentences else number
            sentences.append(chomp(line))
    if sentences:
        yield first, {"sentences": sentences}


def read_book(path: Location) -> Iterator[Record]:
    """A text file as one text, in the column ``text``.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("book.txt").write_text("A cat sleeps. It\\nwakes.\\n\\nA dog barks.\\n")
    >>> list(read_book(Path("book.txt")))
    [(1, {'text': 'A cat sleeps. It\\nwakes.\\n\\nA dog barks.\\n'})]
    """
    lines = []
    for number, line in text_lines(path):
        if isinstance(line, BadRow):
            yield number, line
            return
        lines.append(line)
    yield 1, {"text": "".join(lines)}


readers.add("txt")(Format((".txt",), read_txt))
readers.add("documents")(Format((), read_documents))
readers.add("book")(Format((), read_book))
