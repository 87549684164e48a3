"""One decorator registry for everything that is found by name: methods, objectives, poolers, suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from embedkit.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names mapped to objects, filled by a decorator when modules are imported.

    Parameters
    ----------
    noun : str
        What one entry is called in messages, e.g. ``"objective"``.

    Examples
    --------
    >>> poolers: Registry[str] = Registry("pooler")
    >>> _ = poolers.add("mean")("the mean")
    >>> poolers["mean"]
    'the mean'
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under `name`; a name can be taken once."""

        def keep(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return keep

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UserError(f"unknown {self.noun} {name!r}", remedy=nearest(name, self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> list[tuple[str, T]]:
        """All entries, sorted by name."""
        return sorted(self._entries.items())
