"""One data file as a part of a source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from embedkit.data.schema.guesses import Guess, Tell
from embedkit.data.schema.rows import Part
from embedkit.data.sources.registry import named_format, readers
from embedkit.data.sources.remote import Location
from embedkit.errors import DataError

NO_OPTIONS: Mapping[str, Any] = {}


def file_part(
    path: Location,
    format: str = "auto",
    options: Mapping[str, Any] = NO_OPTIONS,
    *,
    tell: Tell | None = None,
    label: str | None = None,
) -> Part:
    """The part that reads one data file.

    Parameters
    ----------
    path : Path or RemoteFile
        The file.
    format : str
        A name of `embedkit.data.sources.registry.readers`, or ``auto``: by the ending.
    options : mapping
        Settings of the format, such as ``separator``.
    tell : callable, optional
        Takes the guess where the file leaves a choice.
    label : str, optional
        How messages call it; its path when None.

    Raises
    ------
    DataError
        The extension implies no format, or the format has no such option.

    Examples
    --------
    >>> _ = Path("faq.csv").write_text("question;answer\\nHow do I pay?;By card.\\n")
    >>> part = file_part(Path("faq.csv"), tell=print)
    faq.csv: cells are separated by ';' (set 'separator' to change that)
    >>> part.format, list(part.records())
    ('csv', [(2, {'question': 'How do I pay?', 'answer': 'By card.'})])
    """
    name = label or str(path)
    kind = named_format(path.name, name) if format == "auto" else format
    instead = None if format != "auto" or (look := readers[kind].instead) is None else look(path, "header" in options)
    if instead is not None:
        kind, options = instead[0], {**instead[1], **options}
        if tell is not None:
            tell(Guess(name, instead[2], "format"))
    entry = readers[kind]
    unread = sorted(set(options) - set(entry.options))
    if unread:
        fits = [other for other, one in readers.items() if unread[0] in one.options]
        raise DataError(
            f"the format {kind} has no setting {unread[0]!r}", where=name,
            remedy=f"leave it out, or set 'format': {' or '.join(fits)}",
        )  # fmt: skip
    if tell is not None and entry.guess is not None:
        guess = entry.guess(path)
        if guess is not None and guess[1] not in options:
            tell(Guess(name, *guess))
    folder = path.parent if isinstance(path, Path) else None
    columns = None if entry.columns is None else partial(entry.columns, path)
    return Part(name, partial(entry.read, path, **options), folder, path, kind, columns=columns, uneven=entry.uneven)
