"""What docstrings say of settings, for the schema of recipes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

_ENTRY = re.compile(r"(\w[\w, ]*?)(?: : .*)?")
_SENTENCE = re.compile(r"(?<=[.;])\s+(?=[A-Z`(])")


def descriptions(part: Callable[..., Any]) -> dict[str, str]:
    """Name of a setting -> what it means: its entry below ``Parameters``, else the sentence that names it.

    An entry that only refers to another class, "See `PatchTerm`.", gives way to that of a class further up.

    Parameters
    ----------
    part : class or function
        Of a class also the docstrings of those that it is derived from are read.

    Examples
    --------
    >>> from embedkit.views.text import span_deletion
    >>> words = descriptions(span_deletion)
    >>> words["marker"], words["share"]  # an entry, and a sentence
    ('Stands for each span that is gone, such as "[MASK]"',
     'Drop up to `spans` disjoint spans, each `share` of the words long')
    """
    texts = [inspect.cleandoc(text) for text in _docstrings(part) if text]
    words: dict[str, str] = {}
    entries = [entry for text in texts for entry in _entries(text)]
    for name, line in sorted(entries, key=lambda entry: entry[1].startswith("See `")):  # what is said elsewhere last
        words.setdefault(name, line)
    for text in texts:
        prose = re.split(r"^\w[\w ]*\n-{3,}$", text, maxsplit=1, flags=re.MULTILINE)[0]
        for sentence in _SENTENCE.split(" ".join(prose.split())):
            for name in re.findall(r"`+(\w+)(?:[:=][^`]*)?`+", sentence):
                words.setdefault(name, sentence.rstrip(".;"))
    return words


def _docstrings(part: Callable[..., Any]) -> Iterator[str | None]:
    if not isinstance(part, type):
        yield part.__doc__
        return
    for each in part.__mro__[:-1]:
        yield each.__doc__


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """The entries of the section ``Parameters``: each name with its text on one line."""
    match = re.search(r"^Parameters\n-+\n(.*?)(?=\n\w[\w ]*\n-{3,}$|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    names: list[str] = []
    lines: list[str] = []
    for line in [*(match[1].splitlines() if match else ()), "end"]:
        if line[:1].strip():
            if lines:
                yield from ((name, " ".join(lines).rstrip(".")) for name in names)
            entry = _ENTRY.fullmatch(line)
            names, lines = [name.strip() for name in entry[1].split(",")] if entry else [], []
        elif line.strip():
            lines.append(line.strip())
