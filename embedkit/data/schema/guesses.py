"""A reading that the data suggests and nobody has set: kept, printed as one line, and set otherwise by a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Guess:
    """One reading that was chosen because no other is possible.

    Attributes
    ----------
    where : str
        The source.
    what : str
        How it is read.
    key : str
        The setting of the source that says otherwise: ``format``, ``columns``, ``split`` ...

    Examples
    --------
    >>> print(Guess("faq.csv", "question is the anchor", "columns"))
    faq.csv: question is the anchor (set 'columns' to change that)
    """

    where: str
    what: str
    key: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} (set {self.key!r} to change that)"


Tell = Callable[[Guess], None]
"""Takes a guess; whoever opens a source says where its guesses go."""
