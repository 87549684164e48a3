"""Text files with one text a line."""

from __future__ import annotations

from collections.abc import Iterator

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


readers.add("txt")(Format((".txt",), read_txt))
