"""Read, override, check and write recipes.

YAML is read with a safe loader that refuses duplicate keys and aliases bombs, and reads ``1e-5`` as a number and
``no`` as text. Overrides are ``dotted.key=value``; the value is YAML and is checked like the file itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from embedkit.config.overrides import ARGUMENTS, assign, copied, from_mapping, left_out_random, parse_words
from embedkit.config.recipe import OLD_KEYS, Origin, Recipe
from embedkit.config.recipe_keys import wrong_key_or_value
from embedkit.config.stages import NOT_OF_A_STAGE, check_place, checked_stages, folder_of_stage, merged, refuse_trust
from embedkit.config.stages import resolved as resolved_stages
from embedkit.errors import COMMAND_LINE, RecipeError, nearest, without_secrets

_LARGEST_FILE = 1_000_000  # bytes; a recipe is a page of text
_SURROGATE = re.compile("[\ud800-\udfff]")

GROUPS = {
    "own-data": "For your own data",
    "methods": "Methods of papers, one recipe each",
    "variants": "Published variants: other backbones and stages",
}
"""What a recipe file may say as its ``group`` -> the heading that `embedkit recipes` lists it under, in this order."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: text that looks like a number is quoted, and so is odd white space."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        odd = any(c in data for c in "\x85\u2028\u2029\ufeff")  # line breaks to YAML, which only quotes protect
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if odd else None)


_Dumper.add_representer(str, _Dumper.represent_str)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers and booleans, unique keys, no aliases, no tags."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            what = f"tags like {event.tag!r} are not allowed"
            raise yaml.constructor.ConstructorError(None, None, what, event.start_mark)
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed in a recipe", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if not _SURROGATE.search(text):
            return text
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # JSON writes \ud83d\ude00


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":bool", ":timestamp", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false|True|False)$"), list("tfTF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+|([0-9][0-9_]*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)$"),
    list("-+0123456789."),
)


_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises
    ------
    RecipeError
        With line and column when the text is not YAML, a key stands twice, or a tag or alias is used.

    Examples
    --------
    >>> parse_yaml("{lr: 1e-5, on_bad_row: skip, language: no}", "here")
    {'lr': 1e-05, 'on_bad_row': 'skip', 'language': 'no'}
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)  # refuses control characters at once
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark is not None else where
        what = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"not a valid YAML text: {what}", where=place, remedy="correct the line") from None
    except (RecursionError, ValueError) as error:  # brackets a thousand deep, an integer of a thousand digits
        what = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise RecipeError(f"not a valid YAML text: {what}", where=where, remedy="write it shorter") from None
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path) -> Any:
    """The value of a YAML file of at most 1 MB; errors as in `parse_yaml`.

    Examples
    --------
    >>> _ = Path("own.yaml").write_text("extends: pairs\\ntrain: {lr: 1e-5}\\n")
    >>> read_yaml(Path("own.yaml"))
    {'extends': 'pairs', 'train': {'lr': 1e-05}}
    """
    try:
        if not path.is_file():
            raise RecipeError("no such file", where=str(path), remedy="give the path of a YAML file")
        if path.stat().st_size > _LARGEST_FILE:
            raise RecipeError("larger than 1 MB, so not a page of settings", where=str(path), remedy="check the path")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror})", where=str(path), remedy="check the path") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"byte {error.start} is not UTF-8", where=str(path), remedy="save it as UTF-8") from None
    return parse_yaml(text, str(path))


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    smoke: bool = False,
) -> Recipe:
    """The recipe of a name, a path or a mapping, with overrides applied and checked.

    Parameters
    ----------
    source : str, Path, mapping or Recipe
        The name of a shipped recipe, the path of a YAML file, or its contents. A file may say ``extends: NAME``, or
        give a list of names: the contents of those recipes come first, one over the other in the order of the list,
        and its own keys over them. A name is that of a file beside it, or else of a shipped recipe or base.
    overrides : sequence of str, or mapping
        ``dotted.key=value`` each, or dotted key -> value; they win over the file and over `smoke`.
    smoke : bool
        Apply the recipe's own ``smoke`` overrides first: a run of seconds.

    Raises
    ------
    RecipeError
        One line that names the key, what is wrong and the nearest known key.

    Examples
    --------
    >>> load_recipe("simcse-unsup-roberta-base", ["train.max_steps=100"]).model.name
    'roberta-base'
    """
    return _loaded(source, overrides, smoke)[0]


def grouped_recipes() -> list[tuple[str, Recipe]]:
    """The shipped recipes, sorted by name, each with its group: a key of `GROUPS`.

    Examples
    --------
    >>> {recipe.name: group for group, recipe in grouped_recipes()}["pairs"]
    'own-data'
    """
    from embedkit.config.resources import recipe_names

    entries = []
    for name in recipe_names():
        recipe, group = _loaded(name, (), False)
        if group is None:
            raise RecipeError("names no group", where=f"recipe {name}", remedy=f"add group: {' or '.join(GROUPS)}")
        entries.append((group, recipe))
    return entries


def _loaded(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any], smoke: bool
) -> tuple[Recipe, str | None]:
    """A recipe, and the group that its file or one that it extends names: where it is listed, not what it does."""
    layers = _contents(source)
    data: dict[str, Any] = {}
    for layer in layers:
        data = merged(data, layer.data)
    where = layers[-1].where
    own = {key for layer in layers for key in layer.own}
    notes = [note for layer in layers for note in layer.notes]
    group = data.pop("group", None)
    if group is not None and group not in GROUPS:
        raise RecipeError(f"no group is named {group!r}", where=where, remedy=nearest(str(group), GROUPS))
    if isinstance(source, str | Path):
        for part in (data, *checked_stages(data, where)):
            refuse_trust(part, where)
    plain, laid_over = copied(data), []
    if smoke:
        small = data.get("smoke") or {}
        if not isinstance(small, Mapping):
            raise RecipeError("smoke is not a mapping", where=where, remedy="write dotted.key: value lines below it")
        laid_over = [(new_key(key), value, f"{where}: smoke") for key, value in small.items()]
    origin = ARGUMENTS if isinstance(overrides, Mapping) else COMMAND_LINE
    changes = from_mapping(overrides) if isinstance(overrides, Mapping) else parse_words(overrides, parse_yaml)
    override_keys = []
    evaluated = bool(data.get("evaluation"))
    for change in changes:
        name = new_key(change.key)
        notes += [*change.notes, *([] if name == change.key else [_renamed_note(change.key, name)])]
        own |= {name, *(f"{name}.{'.'.join(place)}" for place in _places(change.value, ()))}
        laid_over.append((name, change.value, f"{origin}, {change.key}"))
        override_keys.append(name)
    for key, value, here in laid_over:
        assign(data, key, copied(value), here)
        if key == "stages":
            plain["stages"] = value
    further, lines = left_out_random(data, laid_over[len(laid_over) - len(override_keys) :])
    for key, value, here in further:
        assign(data, key, value, here)
    notes, laid_over = [*notes, *lines], [*laid_over, *further]
    if data.get("stages"):
        data["stages"] = resolved_stages(plain, where, [change for change in laid_over if change[0] != "stages"])
    recipe = check_recipe(data, where, override_keys, origin)
    if not evaluated:
        _check_evaluation(data.get("evaluation"), origin)
    notes += recipe.origin.notes
    recipe = recipe.with_origin(Origin(frozenset(own), tuple(dict.fromkeys(notes))))
    if recipe.stages:
        in_full = [stage.model_dump(mode="json", exclude=set(NOT_OF_A_STAGE)) for stage in stage_recipes(recipe, where)]
        recipe = recipe.model_copy(update={"stages": in_full}).with_origin(recipe.origin)
    return recipe, group


def stage_recipes(recipe: Recipe, where: str = "recipe") -> list[Recipe]:
    """The stages of a recipe in order, each as a recipe; without stages the recipe itself.

    Raises
    ------
    RecipeError
        What is wrong in a stage, with its number.

    Examples
    --------
    >>> [stage.method.name for stage in stage_recipes(load_recipe("mlm-simcse"))]
    ['mlm', 'simcse-unsup']
    """
    if not recipe.stages:
        return [check_place(recipe, None, where)]
    output, recipes = Path(recipe.train.output.replace("{name}", recipe.name)), []
    common = {key for key in recipe.origin.own if not key.startswith("stages")}
    for number, contents in enumerate(recipe.stages):
        start = f"stages.{number}."
        stage = check_place(check_recipe(contents, f"{where}: stages.{number}"), number, f"{where}: stages.{number}")
        stage.train.output = folder_of_stage(output, number, stage.name).as_posix()
        own = {key.removeprefix(start) for key in recipe.origin.own if key.startswith(start)}
        notes = recipe.origin.notes if number == 0 else ()
        recipes.append(stage.with_origin(Origin(frozenset(common | own), (*notes, *stage.origin.notes))))
    return recipes


def _check_evaluation(section: Any, where: str) -> None:
    """Refuse settings that say when to evaluate, but not what: a benchmark of the hub would be fetched for them."""
    if isinstance(section, Mapping) and section and not {"suite", "data", "tasks"} & set(section):
        raise RecipeError(
            f"the recipe has no evaluation, and {', '.join(f'evaluation.{key}' for key in section)} says nothing of "
            "what is scored", where=where,
            remedy="add evaluation.data=FILE for your own data, or a suite, evaluation.suite=sts",
        )  # fmt: skip


def new_key(key: str) -> str:
    """The name that a dotted key has now; `OLD_KEYS` lists those that were renamed.

    Examples
    --------
    >>> new_key("train.clip")
    'train.max_grad_norm'
    """
    parts = key.split(".")
    for old, new in OLD_KEYS.items():
        pattern = old.split(".")
        if len(parts) >= len(pattern) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=False)):
            numbers = (part for p, part in zip(pattern, parts, strict=False) if p == "*")
            return ".".join([next(numbers) if p == "*" else p for p in new.split(".")] + parts[len(pattern) :])
    return key


def _renamed_note(old: str, new: str) -> str:
    return f"{old} is called {new} now; the old name is read in this version only"


def _with_new_keys(data: dict[str, Any], where: str) -> list[str]:
    """Move the values at old keys of `data` to their new names; a line for each."""
    notes = []
    for key in [key for key in map(".".join, _places(data, ())) if new_key(key) != key]:
        name, value = new_key(key), _node(data, key).pop(key.rpartition(".")[2])
        if name not in map(".".join, _places(data, ())):
            assign(data, name, value, where)
        elif _node(data, name)[name.rpartition(".")[2]] != value:  # recipes that 0.1 wrote say some settings twice
            raise RecipeError(f"{key} and {name} are the same setting", where=where, remedy=f"remove {key}")
        notes.append(_renamed_note(key, name))
    return notes


def _node(data: Any, key: str) -> Any:
    """The mapping that holds the last part of a dotted key."""
    for part in key.split(".")[:-1]:
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def _places(value: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The keys that lead to every value, those of sections and lists too."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, str(key))
        yield from _places(item, (*place, str(key)))


def check_recipe(
    data: Mapping[str, Any], where: str = "recipe", override_keys: Sequence[str] = (), origin: str = COMMAND_LINE
) -> Recipe:
    """A checked `Recipe` made of a mapping: its keys, their types, and the rules between keys.

    The settings of method, objective and evaluation are looked at by `embedkit.training.setup.check`.

    Parameters
    ----------
    data : mapping
        The contents.
    where : str
        What is blamed: the file, or the recipe's name.
    override_keys : sequence of str
        Dotted keys that come from elsewhere; what is wrong with them is blamed on `origin`.
    origin : str
        Where the changes stand.

    Raises
    ------
    RecipeError
        With the key, and the nearest one that exists.

    Examples
    --------
    >>> contents = {"name": "faq", "method": "pairs", "model": {"name": "bert-base-uncased"},
    ...             "data": {"train": "faq.csv"}, "train": {"epoch": 1}}
    >>> check_recipe(contents, "faq.yaml")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: faq.yaml: unknown key 'train.epoch'; did you mean 'epochs'?
    """

    def place(dotted_key: str) -> str:
        return origin if any(_one_in_other(key, dotted_key) for key in override_keys) else where

    for key, value in _texts(data, ()):
        if _SURROGATE.search(value):  # in a path: a name on the disk that is not UTF-8
            raise RecipeError(
                f"{key} holds half a surrogate pair, which no file can take", where=place(key),
                remedy="write it as UTF-8",
            )  # fmt: skip
        if without_secrets(value) != value:
            raise RecipeError(
                f"{key} holds a password or an access token", where=place(key),
                remedy="a recipe is written beside every model: keep secrets out of it",
            )  # fmt: skip
    contents: dict[str, Any] = copied(data)
    notes = _with_new_keys(contents, where)
    try:
        recipe = Recipe.model_validate(contents).with_origin(Origin(notes=tuple(notes)))
    except ValidationError as error:
        what, remedy, dotted_key = wrong_key_or_value(error.errors())  # type: ignore[arg-type]
        raise RecipeError(what, where=place(dotted_key), remedy=remedy) from None
    checked_stages(contents, where)
    return recipe


def _one_in_other(one: str, other: str) -> bool:
    """Whether one of two dotted keys is the other or lies below it, numbers of lists aside."""
    parts = [[part for part in key.split(".") if part and not part.isdecimal()] for key in (one, other)]
    return all(a == b for a, b in zip(*parts, strict=False))


def _texts(value: Any, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every text of a recipe, keys too, with its dotted place."""
    if isinstance(value, str):
        yield ".".join(place), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield ".".join(place) or "recipe", str(key)
            yield from _texts(item, (*place, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _texts(item, (*place, str(number)))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe.

    Settings of None are written too: ``max_grad_norm: null`` is not the default.

    Examples
    --------
    >>> recipe = load_recipe("pairs", ["faq.csv", "train.lr=1e-5"])
    >>> "lr: 1.0e-05" in dump_recipe(recipe), load_recipe(parse_yaml(dump_recipe(recipe), "text")) == recipe
    (True, True)
    """
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class _Layer:
    """The contents of one file or object, keys by their new names; `own` are those that the user wrote."""

    data: dict[str, Any]
    where: str
    own: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def _layer(data: dict[str, Any], where: str, *, own: bool) -> _Layer:
    notes = _with_new_keys(data, where)
    keys = frozenset(".".join(place) for place in _places(data, ())) if own else frozenset()
    return _Layer(data, where, keys, tuple(f"{where}: {note}" for note in notes))


def _contents(source: str | Path | Mapping[str, Any] | Recipe) -> list[_Layer]:
    """What a recipe is made of, each layer over those before it."""
    if isinstance(source, Recipe):
        return [_Layer(source.model_dump(), f"recipe {source.name}", source.origin.own, source.origin.notes)]
    if isinstance(source, Mapping):
        return [_layer(copied(source), "recipe", own=True)]
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        from embedkit.config.resources import recipe_path

        path = recipe_path(str(source))
    layers: dict[Path, dict[str, Any]] = {}
    _read_layers(path, (), layers)
    from embedkit.config.resources import is_shipped

    return [_layer(data, str(file), own=not is_shipped(file)) for file, data in layers.items()]


def _read_layers(path: Path, above: tuple[Path, ...], layers: dict[Path, dict[str, Any]]) -> None:
    """Add the contents of a recipe file to `layers`, after those of each file that it ``extends``; each file once."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping of sections", where=str(path), remedy="see `embedkit recipes`")
    bases = data.pop("extends", None)
    for base in bases if isinstance(bases, list) else [] if bases is None else [bases]:
        file = _extended_file(base, path)
        if file in (*above, path):
            raise RecipeError("a recipe extends itself", where=str(path), remedy="take one of the extends away")
        if file not in layers:
            _read_layers(file, (*above, path), layers)
    layers[path] = data


def _extended_file(base: Any, path: Path) -> Path:
    """The file of one entry of ``extends`` in `path`: beside it, or else shipped with the package."""
    from embedkit.config.resources import recipe_path

    if not isinstance(base, str) or Path(base).is_absolute() or not Path(base).name or ".." in Path(base).parts:
        raise RecipeError(
            f"extends: {base!r} is no name", where=str(path),
            remedy="name a recipe in the same folder or a shipped one, or give a list of such names",
        )  # fmt: skip
    file = path.parent / (base if Path(base).suffix in (".yaml", ".yml") else f"{base}.yaml")
    if os.path.isfile(file):  # unlike Path.is_file no error for a name that is too long
        return file
    try:
        return recipe_path(base)
    except RecipeError as error:
        raise RecipeError(
            f"extends: {base!r}: no such file beside it, and no shipped recipe of that name", where=str(path),
            remedy=error.remedy,
        ) from None  # fmt: skip
