"""One decorator registry for everything that is found by name: methods, objectives, views, poolers, suites, formats."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from embedkit.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names mapped to objects, filled by a decorator when modules are imported.

    Parameters
    ----------
    noun : str
        What one entry is called in messages, e.g. ``"objective"``.
    *homes : str
        Packages whose modules register entries. They are imported when the registry is first read, so that whoever
        reads it need not know its files, and none of them is imported before. Sub-packages are homes of their own;
        ``"embedkit.formats.*.reader"`` is the module ``reader`` of every sub-package that has one.

    Examples
    --------
    >>> poolers: Registry[str] = Registry("pooler")
    >>> _ = poolers.add("mean")("the mean")
    >>> poolers["mean"]
    'the mean'
    """

    def __init__(self, noun: str, *homes: str) -> None:
        self.noun = noun
        self._homes = homes
        self._complete = not homes
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under `name`; a name can be taken once."""

        def keep(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return keep

    def _all(self) -> dict[str, T]:
        """The entries, with every module of the homes imported."""
        if not self._complete:
            self._complete = True  # before the imports: a home may read the registry
            for module in (module for home in self._homes for module in _modules(home)):
                importlib.import_module(module)
        return self._entries

    def __getitem__(self, name: str) -> T:
        entries = self._all()
        if name not in entries:
            raise UserError(f"unknown {self.noun} {name!r}", remedy=nearest(name, entries))
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> list[tuple[str, T]]:
        """All entries, sorted by name."""
        return sorted(self._all().items())


def _modules(home: str) -> Iterator[str]:
    """Names of the modules of a package, or of a pattern with one ``*`` for its sub-packages."""
    package, _, name = home.partition(".*.")
    for entry in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not name and not entry.ispkg:
            yield f"{package}.{entry.name}"
        elif name and entry.ispkg and importlib.util.find_spec(f"{package}.{entry.name}.{name}") is not None:
            yield f"{package}.{entry.name}.{name}"


class Services:
    """Functions that a room calls without knowing the room that has them.

    Models are saved by the formats, which know the models and not the other way round. Only the package itself
    (``embedkit/__init__.py``) knows both, and names the function as ``"module:name"``, imported at the first
    call.

    Examples
    --------
    >>> tools = Services()
    >>> tools["join"] = "posixpath:join"
    >>> tools["join"]("a", "b")
    'a/b'
    """

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def __setitem__(self, name: str, place: str) -> None:
        self._places[name] = place

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module, _, attribute = self._places[name].partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return function


services = Services()
"""What the package provides to its rooms."""
