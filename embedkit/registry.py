"""Everything that is found by name: objectives, methods, views, towers, readers, suites; ours and those of plug-ins.

A registry is filled by a decorator in the modules of its homes, by the entry points of installed packages, and by names
like ``my.py:MyLoss``, which stand for a class in a Python file of the user.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from embedkit.errors import UserError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
Adopt = Callable[[str, Any], T]
"""``adopt(name, object)`` makes an entry of what a plug-in gives, or raises a `UserError` that says what it must be."""


class Registry(Generic[T]):
    """Names mapped to objects.

    Parameters
    ----------
    noun : str
        What one entry is called in messages, e.g. ``"objective"``.
    *homes : str
        Packages whose modules register entries. They are imported when the registry is first read, so that whoever
        reads it need not know its files, and none of them is imported before. Sub-packages are homes of their own;
        ``"embedkit.formats.*.reader"`` is the module ``reader`` of every folder that has one.
    plugins : str, optional
        Group of entry points whose objects are entries too, e.g. ``"embedkit.objectives"``. With it, names like
        ``my.py:MyLoss`` and ``package.module:MyLoss`` are entries as well.
    adopt : callable, optional
        Checks an object of a plug-in and makes an entry of it; the object itself is the entry when not given.

    Examples
    --------
    >>> poolers: Registry[str] = Registry("pooler")
    >>> _ = poolers.add("mean")("the mean")
    >>> poolers["mean"]
    'the mean'
    """

    def __init__(self, noun: str, *homes: str, plugins: str | None = None, adopt: Adopt[T] | None = None) -> None:
        self.noun = noun
        self._homes = homes
        self._plugins = plugins
        self._adopt = adopt
        self._complete = not homes
        self._entries: dict[str, T] = {}
        self._adopted: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under `name`.

        Raises
        ------
        UserError
            The name is taken.
        """

        def keep(entry: T) -> T:
            if name in self._entries:
                raise UserError(f"the {self.noun} {name!r} exists already", remedy="give yours another name")
            self._entries[name] = entry
            return entry

        return keep

    def _own(self) -> dict[str, T]:
        """The entries of the homes, with every module of them imported."""
        if not self._complete:
            self._complete = True  # before the imports: a home may read the registry
            for module in (module for home in self._homes for module in _modules(home)):
                importlib.import_module(module)
        return self._entries

    def _installed(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages by name.

        Raises
        ------
        UserError
            Two have one name, or one has a name of ours.
        """
        from importlib.metadata import entry_points  # a fifth of the time of --help

        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=self._plugins) if self._plugins else ():
            ours = point.name in self._own() and point.module not in sys.modules  # else its own decorator filed it
            if point.name in points or ours:
                package = point.dist.name if point.dist else point.value
                raise UserError(
                    f"the {self.noun} {point.name!r} exists already",
                    where=f"entry point {self._plugins} of {package}",
                    remedy="rename it in that package, or uninstall the package",
                )
            points[point.name] = point
        return points

    def _from_plugin(self, name: str, load: Callable[[], Any]) -> T:
        if name not in self._adopted:
            entry = load()
            self._adopted[name] = entry if self._adopt is None else self._adopt(name, entry)
        return self._adopted[name]

    def __getitem__(self, name: str) -> T:
        entries = self._own()
        if name in entries:
            return entries[name]
        if self._plugins and ":" in name:
            return self._from_plugin(name, lambda: load_object(name, self.noun))
        points = self._installed()
        if name in points:
            return self._from_plugin(name, lambda: load_object(points[name].value, self.noun))
        raise UserError(f"unknown {self.noun} {name!r}", remedy=nearest(name, [*entries, *points]))

    def __contains__(self, name: object) -> bool:
        own_file = self._plugins is not None and isinstance(name, str) and ":" in name
        return own_file or name in self._own() or name in self._installed()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._own(), *self._installed()}))

    def __len__(self) -> int:
        return len({*self._own(), *self._installed()})

    def items(self) -> list[tuple[str, T]]:
        """All entries, sorted by name; those of plug-ins are imported."""
        return [(name, self[name]) for name in self]

    def own(self) -> list[tuple[str, T]]:
        """The entries of embedkit itself, sorted by name: those of plug-ins are left out, and not imported."""
        installed = self._installed()
        return [(name, entry) for name, entry in sorted(self._own().items()) if name not in installed]


def _modules(home: str) -> Iterator[str]:
    """Names of the modules of a package, or of a pattern with one ``*`` for its folders."""
    package, _, name = home.partition(".*.")
    folders = importlib.import_module(package).__path__
    if name:
        files = sorted(file for folder in folders for file in Path(folder).glob(f"*/{name}.py"))
        yield from (f"{package}.{file.parent.name}.{name}" for file in files)
    else:
        yield from (f"{package}.{entry.name}" for entry in pkgutil.iter_modules(folders) if not entry.ispkg)


def not_a(noun: str, part: Any, where: str, remedy: str) -> UserError:
    """The error that an object of a plug-in is not what its registry holds.

    Examples
    --------
    >>> print(not_a("view", 3, "my.py:shout", "give a function"))
    my.py:shout: this int is no view; give a function
    """
    kind = "class" if isinstance(part, type) else type(part).__name__
    return UserError(f"this {kind} is no {noun}", where=where, remedy=remedy)


def derived_from(base: type[T], noun: str, remedy: str, *, defines: str | None = None) -> Adopt[type[T]]:
    """A check for `Registry`: a plug-in gives a class derived from `base` that leaves nothing abstract.

    Parameters
    ----------
    base : type
        Base class of the entries.
    noun : str
        What an entry is called in messages.
    remedy : str
        How to write one.
    defines : str, optional
        A method of `base` that is not abstract and must still be overridden; it is called with the arguments that the
        base class's has.

    Examples
    --------
    >>> class Shape:
    ...     def area(self, scale):
    ...         raise TypeError("no shape")
    >>> check = derived_from(Shape, "shape", "derive it from Shape", defines="area")
    >>> check("my.py:Square", type("Square", (Shape,), {"area": lambda self: 1}))
    Traceback (most recent call last):
    embedkit.errors.UserError: my.py:Square: area has a wrong signature (too many positional arguments); ...
    """

    def adopt(name: str, part: Any) -> type[T]:
        is_derived = isinstance(part, type) and issubclass(part, base)
        if not is_derived or (defines and getattr(part, defines) is getattr(base, defines)):
            raise not_a(noun, part, name, remedy)
        if abstract := getattr(part, "__abstractmethods__", None):
            raise UserError(f"does not define {min(abstract)}", where=name, remedy="define it")
        if defines:
            arguments = list(inspect.signature(getattr(base, defines)).parameters)
            try:
                inspect.signature(getattr(part, defines)).bind(*arguments)
            except TypeError as error:
                raise UserError(
                    f"{defines} has a wrong signature ({error})",
                    where=name,
                    remedy=f"write {defines}({', '.join(arguments)})",
                ) from None
        return part

    return adopt


def load_object(place: str, noun: str = "part") -> Any:
    """The object at ``file.py:name`` or ``package.module:name``.

    A file is looked for in the working folder; its code runs, as that of any script does.

    Raises
    ------
    UserError
        The file or module is missing or cannot be imported, or has no such name.

    Examples
    --------
    >>> load_object("posixpath:join")("a", "b")
    'a/b'
    """
    source, _, attribute = place.rpartition(":")
    if not source or not attribute:
        raise UserError(f"the name of the {noun} is missing", where=place, remedy=f"write {source or attribute}:NAME")
    try:
        module = _file_module(source) if source.endswith(".py") else importlib.import_module(source)
    except UserError:
        raise
    except Exception as error:  # the code of a plug-in can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the {noun} cannot be imported ({reason})", where=place, remedy=f"fix {source}, then run again"
        ) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise UserError(f"has no {attribute!r}", where=source, remedy=nearest(attribute, public))
    return getattr(module, attribute)


def _file_module(source: str) -> Any:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise UserError("no such Python file", where=source, remedy="give its path from the working folder")
    return _module_of(path)


@functools.cache
def _module_of(path: Path) -> Any:
    name = f"embedkit_own_parts.{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError("is not a Python file", where=str(path), remedy="give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class Services:
    """Functions that a room calls without knowing the room that has them.

    Models are saved by the formats, which know the models and not the other way round. Only the package itself
    (``embedkit/__init__.py``) knows both, and names the function as ``"module:name"``, imported at the first call.

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
