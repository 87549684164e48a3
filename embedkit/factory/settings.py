"""Every setting of the `model` section is used, or refused: what a builder reads is recorded.

A builder gets a view of its section that looks like the section itself. What the user set and no builder read has no
effect on the model, and is an error that names the key.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from embedkit.config.model import ModelConfig, TextTowerConfig
from embedkit.config.sections import Settings
from embedkit.errors import ModelError

Section = TypeVar("Section", bound=Settings)


class RecordedSettings:
    """A view of a section that remembers which settings were read; sections inside are views too.

    Parameters
    ----------
    section : Settings
        What is viewed.
    where : str
        Its key in the recipe.

    Examples
    --------
    >>> from embedkit.config.model import HeadConfig
    >>> view = RecordedSettings(HeadConfig(kind="linear", dim=8), "model.head")
    >>> view.kind, view.unread()
    ('linear', ['model.head.dim'])
    """

    def __init__(self, section: Settings, where: str) -> None:
        self._section, self._where = section, where
        self._read: set[str] = set()
        self._inner: dict[str, list[RecordedSettings]] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section, name)
        if name not in type(self._section).model_fields:
            return value  # a property: what it looks at is not what a builder uses
        self._read.add(name)
        if isinstance(value, Settings):
            return self._views(name, [value])[0]
        if isinstance(value, list) and any(isinstance(entry, Settings) for entry in value):
            return self._views(name, value)
        return value

    def _views(self, name: str, sections: list[Settings]) -> list[RecordedSettings]:
        if name not in self._inner:
            single = len(sections) == 1
            keys = [name if single else f"{name}[{place}]" for place in range(len(sections))]
            self._inner[name] = [
                RecordedSettings(section, f"{self._where}.{key}") for section, key in zip(sections, keys, strict=True)
            ]
        return self._inner[name]

    def take(self, names: Iterable[str]) -> dict[str, Any]:
        """The settings among `names` that the user set, as they are; they count as read."""
        values = {name: getattr(self._section, name) for name in names if _is_set(self._section, name)}
        self._read.update(values)
        return values

    def remedy(self, key: str) -> str:
        """The remedy for a key without effect."""
        name = key.removeprefix(f"{self._where}.")
        whole = isinstance(self._section, ModelConfig) and self._section.kind == "dual"
        if whole and name in TextTowerConfig.model_fields:
            return f"it belongs to a tower: {self._where}.towers.text.{name}"
        for view in (view for views in self._inner.values() for view in views):
            if key in view.unread():
                return view.remedy(key)
        default = type(self._section).model_fields[name].get_default(call_default_factory=True)
        return f"leave it out, or set it to {json.dumps(default)} where the recipe has it"

    def unread(self) -> list[str]:
        """Keys that the user set and nobody read."""
        keys: list[str] = []
        for name in type(self._section).model_fields:
            if name in self._read:
                keys += [key for view in self._inner.get(name, []) for key in view.unread()]
            elif _is_set(self._section, name):
                keys.append(f"{self._where}.{name}")
        return keys


def _is_set(section: Settings, name: str) -> bool:
    """Whether the user set a setting to something else than its default."""
    field = type(section).model_fields[name]
    value = getattr(section, name)
    return name in section.model_fields_set and value != field.get_default(call_default_factory=True)


@contextlib.contextmanager
def every_setting_used(section: Section, where: str, elsewhere: Iterable[str] = ()) -> Iterator[Section]:
    """A view of `section` for a builder; at the end every setting that the user set must have been read.

    Parameters
    ----------
    section : Settings
        A section of the recipe.
    where : str
        Its key.
    elsewhere : iterable of str
        Settings that other parts of a run read.

    Raises
    ------
    ModelError
        Naming the settings without effect.

    Examples
    --------
    >>> from embedkit.factory.settings import every_setting_used
    >>> from embedkit.config.model import HeadConfig
    >>> with every_setting_used(HeadConfig(kind="linear", dim=8), "model.head") as head:
    ...     head.kind
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: model.head.dim: has no effect on this model; leave it out, or ...
    """
    view = RecordedSettings(section, where)
    view.take(elsewhere)
    yield cast(Section, view)
    refuse_unread(view)


def refuse_unread(view: RecordedSettings) -> None:
    """Raise `ModelError` for settings that nobody read.

    Examples
    --------
    >>> refuse_unread(RecordedSettings(ModelConfig(name="m", pooling="cls"), "model"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: model.name: has no effect on this model (and model.pooling); leave it out, or ...
    """
    keys = view.unread()
    if keys:
        more = f" (and {', '.join(keys[1:])})" if len(keys) > 1 else ""
        raise ModelError(f"has no effect on this model{more}", where=keys[0], remedy=view.remedy(keys[0]))


def taken(section: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The settings among `names` that the user set, of a section or of a view of one, where they count as read.

    Examples
    --------
    >>> taken(ModelConfig(name="m", pooling="cls"), ("pooling", "max_length"))
    {'pooling': 'cls'}
    """
    view: Any = section
    return view.take(names) if isinstance(view, RecordedSettings) else RecordedSettings(section, "").take(names)
