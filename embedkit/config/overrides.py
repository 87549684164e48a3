"""Settings that win over a recipe: words of the command line (``train.lr=1e-5``, a file), or keyword arguments.

A short name stands for the one setting that has it (``lr`` for ``train.lr``), and so does what other trainers call it
(``learning_rate``, `embedkit.config.peer_names`); each such reading is a note of the recipe. A text in the place of the
data is a path, in the place of the model its name.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from embedkit.config.model import ImageTowerConfig, TextTowerConfig, TowersConfig
from embedkit.config.peer_names import ANSWERS, FLAGS, LOSS_ANSWERS, PARTS, SETTINGS, plain
from embedkit.config.recipe_keys import nearest_key, recipe_keys, short_keys
from embedkit.config.sections import Settings
from embedkit.errors import COMMAND_LINE, RecipeError, listed

ARGUMENTS = "in the arguments"
_SOURCES = "data.train"
_COMPONENTS = ("method", "objective")
_MODEL_FILES = ("config.json", "modules.json", "embedkit.json", "open_clip_config.json")
_ORIGINS: dict[str, tuple[type[Settings], tuple[str, ...]]] = {
    "": (TowersConfig, ("dim",)),
    "text": (TextTowerConfig, ("kind", "name", "revision", "trust_remote_code", "allow_pickle", "size", "config",
                               "tokenizer", "multi_prompt", "pooling", "dim", "ngrams", "buckets", "projection")),
    "image": (ImageTowerConfig, ("name", "revision", "allow_pickle", "size", "config", "quick_gelu", "pooling",
                                 "projection")),
}  # fmt: skip
"""Settings that say how the towers of a dual encoder are made, by their section."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DATA_FILE = re.compile(r"(?i).*\.(csv|tsv|jsonl?|ndjson|parquet|arrow|feather|txt|tar)(\.gz)?")


@dataclass(frozen=True)
class Override:
    """One setting that wins over the recipe.

    Attributes
    ----------
    key : str
        The dotted key.
    value : object
        As the recipe would have it.
    notes : tuple of str
        How the key or value was read, where it stands for another one.

    Examples
    --------
    >>> next(parse_words(["learning_rate=1e-5"], lambda text, where: float(text)))
    Override(key='train.lr', value=1e-05, notes=('learning_rate is read as train.lr',))
    """

    key: str
    value: Any
    notes: tuple[str, ...] = ()


def is_source(word: str) -> bool:
    """Whether a word of the command line names data: a file, folder, pattern, address, hub id or ``builtin:NAME``.

    Examples
    --------
    >>> [is_source(word) for word in ("faq.csv", "sentence-transformers/all-nli", "builtin:pairs-train", "lr")]
    [True, True, True, False]
    """
    return (
        word.startswith("builtin:") or "://" in word or bool(_DATA_FILE.fullmatch(word) or _HUB_ID.fullmatch(word))
        or (glob.has_magic(word) and "=" not in word) or os.path.exists(word)
    )  # fmt: skip


def is_data_file(word: str) -> bool:
    """Whether a word is the name of a file of rows, by its ending.

    Examples
    --------
    >>> is_data_file("faq.csv"), is_data_file("pairs")
    (True, False)
    """
    return bool(_DATA_FILE.fullmatch(word))


def parse_words(words: Sequence[str], parse: Callable[[str, str], Any]) -> Iterator[Override]:
    """The setting of each word; data files come first, as one list of sources.

    Parameters
    ----------
    words : sequence of str
        ``key=value``, or what `is_source` takes.
    parse : callable (text, where) -> value
        Reads the value of a setting.

    Raises
    ------
    RecipeError
        A word is neither a setting nor data, or its key is unknown.

    Examples
    --------
    >>> words = parse_words(["faq.csv", "lr=1e-5"], lambda text, where: float(text))
    >>> [(one.key, one.value) for one in words]
    [('data.train', [{'path': 'faq.csv'}]), ('train.lr', 1e-05)]
    """
    files, settings = [], []
    for word in words:
        name, _, text = word.partition("=")
        is_path = name in ("data", _SOURCES) or SETTINGS.get(plain(name)) == (_SOURCES,)
        if _is_file_word(word):
            files.append(word)
        elif is_path and text and not text.lstrip().startswith(("[", "{")):  # *.csv and {a,b}.csv are no YAML
            files.append(text)
        else:
            settings.append(word)
    if files:
        yield Override(_SOURCES, [_source_at(file, COMMAND_LINE) for file in files])
    for word in settings:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            raise _neither(word)
        key, text, notes = full_key(name, COMMAND_LINE, text)
        if key == _SOURCES and files:
            raise RecipeError(f"the data is named twice, {files[0]!r} and {word!r}", where=COMMAND_LINE,
                              remedy="leave one of them out, or give several files side by side")  # fmt: skip
        yield _with_own_names(Override(key, parse(text, f"{COMMAND_LINE}, {name}"), notes), COMMAND_LINE)


def _is_file_word(word: str) -> bool:
    """Whether a word as a whole is a path or name of data, whatever ``=`` it holds."""
    return is_source(word) if "=" not in word else os.path.exists(word)


def _neither(word: str) -> RecipeError:
    name = word.strip()
    if not name or name.startswith("="):
        return RecipeError(f"{word!r} is not key=value", where=COMMAND_LINE, remedy="write it like train.lr=1e-5")
    names = (name, *short_keys().get(name, ()), *SETTINGS.get(plain(name), ()))
    candidates = [key for key in names if key in recipe_keys()]
    what = f"{word!r} is neither a setting, key=value, nor a file that is there"
    remedy = f"write {candidates[0]}=VALUE" if candidates else "check the path, or write a setting like train.lr=1e-5"
    return RecipeError(what, where=COMMAND_LINE, remedy=remedy)


def full_key(name: str, where: str, text: str = "") -> tuple[str, str, tuple[str, ...]]:
    """The dotted key that a name stands for, the value as text (switches of other trainers set their own), and notes.

    Raises
    ------
    RecipeError
        No setting has that name, or several.

    Examples
    --------
    >>> full_key("learning_rate", "here", "1")
    ('train.lr', '1', ('learning_rate is read as train.lr',))
    >>> full_key("bf16", "here", "true")
    ('train.precision', 'bf16', ('bf16 is read as train.precision=bf16',))
    """
    top = name.partition(".")[0]
    if "." in name or (top in recipe_keys() and top not in FLAGS):
        whole = text.lstrip().startswith("{")
        return name if whole else {"model": "model.name", "data": _SOURCES}.get(name, name), text, ()
    short = plain(name)
    if short in ANSWERS:
        raise RecipeError(f"no setting {name!r}", where=where, remedy=ANSWERS[short])
    if short in FLAGS and text.strip().lower() in ("true", "false", "1", "0", "yes", "no", ""):
        if text.strip().lower() in ("false", "0", "no"):
            raise RecipeError(f"no setting {name!r}", where=where, remedy=f"leave it out, or set {FLAGS[short][0]}")
        key, text = FLAGS[short]
        return key, text, (f"{name} is read as {key}={text}",)
    keys = [key for key in short_keys() if plain(key) == short]
    candidates = short_keys()[keys[0]] if keys else SETTINGS.get(short, ())
    if len(candidates) > 1:
        raise RecipeError(f"{name!r} may be one of several settings", where=where,
                          remedy=f"write {listed(list(candidates), 'or')}")  # fmt: skip
    if not candidates:
        raise RecipeError(f"unknown key {name!r}", where=where, remedy=nearest_key(name))
    return candidates[0], text, (f"{name} is read as {candidates[0]}",)


def from_mapping(overrides: Mapping[str, Any]) -> Iterator[Override]:
    """The settings of keyword arguments; names are those of `full_key`.

    Examples
    --------
    >>> [(one.key, one.value) for one in from_mapping({"batch_size": 32, "bf16": True})]
    [('train.batch_size', 32), ('train.precision', 'bf16')]
    """
    for name, value in overrides.items():
        text = "{" if isinstance(value, Mapping) else str(value)
        key, new_text, notes = full_key(name, ARGUMENTS, text)
        yield _with_own_names(Override(key, copied(value) if new_text == text else new_text, notes), ARGUMENTS)


def copied(value: Any) -> Any:
    """A copy of `value`: mappings and lists of its own, paths as text.

    Examples
    --------
    >>> copied({"train": (Path("faq.csv"), {"limit": 5})})
    {'train': ['faq.csv', {'limit': 5}]}
    """
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _source_at(path: str, where: str) -> dict[str, Any]:
    """The source of a path; the folder of a model is refused."""
    if any((Path(path) / name).is_file() for name in _MODEL_FILES):
        raise RecipeError(
            f"{path!r} is the folder of a model, not data", where=where, remedy=f"write model.name={path}"
        )
    return {"path": path}


def assign(data: dict[str, Any], dotted_key: str, value: Any, where: str) -> None:
    """Set one dotted key; list entries are reached by number, a part given by name becomes a mapping.

    Raises
    ------
    RecipeError
        Something on the way has no keys, or a list no such entry.

    Examples
    --------
    >>> recipe = {"method": "pairs", "data": {"train": [{"path": "faq.csv"}]}}
    >>> assign(recipe, "data.train.0.limit", 100, "command line")
    >>> assign(recipe, "method.dropout", 0.1, "command line")
    >>> recipe
    {'method': {'name': 'pairs', 'dropout': 0.1}, 'data': {'train': [{'path': 'faq.csv', 'limit': 100}]}}
    """
    if dotted_key == _SOURCES:
        entries = value if isinstance(value, list) else [value]
        value = [_source_at(item, where) if isinstance(item, str) else item for item in entries]
    parts = dotted_key.split(".")
    node: Any = data
    for depth, part in enumerate(parts[:-1]):
        place: Any = _position(part, node, dotted_key, where) if isinstance(node, list) else part
        child = node[place] if isinstance(node, list) else node.get(place)
        if child is None:
            child = node[place] = {}
        elif isinstance(child, str) and part in _COMPONENTS:
            child = node[place] = {"name": child}
        elif not isinstance(child, dict | list):
            raise RecipeError(
                f"{'.'.join(parts[: depth + 1])!r} has no keys below it", where=where, remedy="give the whole of it"
            )
        node = child
    node[_position(parts[-1], node, dotted_key, where) if isinstance(node, list) else parts[-1]] = value


def left_out_random(
    data: Mapping[str, Any], changes: Sequence[tuple[str, Any, str]]
) -> tuple[list[tuple[str, Any, str]], list[str]]:
    """Settings that leave out of a recipe how it makes a model from random weights, where the user names a model
    (``model.name``), which brings its own: configuration and tokenizer of a text encoder, the towers of a dual encoder.
    Other settings of the model stay.

    Parameters
    ----------
    data : mapping
        The contents of the recipe, with the changes.
    changes : sequence of (key, value, place)
        What the user lays over it.

    Returns
    -------
    list of (key, value, place), list of str
        Further changes, and a line for the user; empty where the user says himself how towers are made.

    Examples
    --------
    >>> data = {"model": {"kind": "dual", "towers": {"dim": 8, "image": {"size": "vit-tiny-64", "patch_dropout": 0.5}}}}
    >>> left_out_random(data, [("model.name", "runs/clip", "here")])
    ([('model.towers.dim', None, 'here'), ('model.towers.image.size', None, 'here')], ['model.name brings its own ...'])
    """
    place = next((where for key, value, where in changes if key == "model.name" and value is not None), None)
    model: Any = data.get("model")
    if place is None or not isinstance(model, Mapping):
        return [], []
    if model.get("kind", "text") == "text":
        return _left_out_config(model, [key for key, _, _ in changes], place)
    towers = model.get("towers")
    if not isinstance(towers, Mapping) or model["kind"] != "dual":
        return [], []
    further = []
    for section, (part, names) in _ORIGINS.items():
        node = towers.get(section) if section else towers
        for name in names:
            key = ".".join(filter(None, ("model.towers", section, name)))
            if any(f"{one}.".startswith(f"{key}.") or key.startswith(f"{one}.") for one, _, _ in changes):
                return [], []
            if isinstance(node, Mapping) and node.get(name) is not None:
                further.append((key, part.model_fields[name].get_default(call_default_factory=True), place))
    left_out = [key.removeprefix("model.towers.") for key, _, _ in further]
    line = f"model.name brings its own towers: of model.towers {listed(left_out, 'and')} of the recipe are left out"
    return further, [line] if further else []


def _left_out_config(
    model: Mapping[str, Any], keys: Sequence[str], place: str
) -> tuple[list[tuple[str, Any, str]], list[str]]:
    """What `left_out_random` leaves out of a text encoder: a random configuration that the user did not give."""
    if model.get("config") is None or any(f"{key}.".startswith("model.config.") or key == "model" for key in keys):
        return [], []
    names = [name for name in ("config", "tokenizer") if model.get(name) is not None and f"model.{name}" not in keys]
    line = f"model.name brings its own weights: {listed([f'model.{name}' for name in names], 'and')} of the recipe are"
    return [(f"model.{name}", None, place) for name in names], [f"{line} left out"]


def _with_own_names(change: Override, where: str) -> Override:
    """Our name for a loss or method of another library in place of its own, where it can be one only.

    Raises
    ------
    RecipeError
        A loss of another library has no counterpart; the remedy says what is trained in its place.
    """
    kind, name = change.key.removesuffix(".name"), change.value
    if change.key == "train.trackers" and isinstance(name, str):  # Trainer's form: one name, or "none"
        return Override(change.key, [] if name.lower() == "none" else [name], change.notes)
    if kind == "objective" and isinstance(name, str) and plain(name) in LOSS_ANSWERS:
        raise RecipeError(f"{name} has no counterpart", where=where, remedy=LOSS_ANSWERS[plain(name)])
    own_names = PARTS.get(plain(name), ()) if kind in _COMPONENTS and isinstance(name, str) else ()
    if len(own_names) != 1 or name == own_names[0]:
        return change
    return Override(change.key, own_names[0], (*change.notes, f"{kind} {name} is read as {own_names[0]}"))


def _position(part: str, node: list[Any], dotted_key: str, where: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise RecipeError(
            f"{dotted_key!r}: {part!r} is not an entry of a list of {len(node)}", where=where, remedy="count from 0"
        )
    return int(part)
