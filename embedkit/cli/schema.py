"""``embedkit schema``: the JSON schema of recipes, for editors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from embedkit.cli.docstrings import descriptions
from embedkit.errors import UserError

if TYPE_CHECKING:
    from embedkit.objectives.registry import Preset
    from embedkit.registry import Registry

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_OWN = {"type": "string", "pattern": ":", "description": "a part of your own, my.py:Name or package.module:Name"}
_OF_AUXILIARY = {
    "weight": {"type": "number", "default": 1.0, "description": "factor on the loss"},
    "decay": {"type": "number", "default": 1.0, "description": "factor on the weight after every decay_steps"},
    "decay_steps": {"type": "number", "default": 100.0, "minimum": 1, "description": "steps between two decays"},
}


def schema(
    output: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="File to write; standard output when not given.")
    ] = None,
) -> None:
    """Write the JSON schema of recipes: an editor then completes and checks their keys.

    Editors with a YAML language server read it through the first line of a recipe:
    # yaml-language-server: $schema=recipe.schema.json
    It has the names of the plug-ins that are installed, which the one that comes with embedkit has not.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> main(["schema", "recipe.schema.json"])
    recipe.schema.json: name it in the first line of a recipe, # yaml-language-server: $schema=recipe.schema.json
    0
    """
    from embedkit.system.disk import write_durably

    if output is not None and Path(output).exists() and not _is_schema(Path(output)):
        raise UserError("it exists already, and is no schema of recipes", where=output, remedy="name another file")
    text = schema_text()
    if output is None:
        typer.echo(text, nl=False)
        return
    write_durably(output, text.encode(), "the schema")
    typer.echo(f"{output}: name it in the first line of a recipe, # yaml-language-server: $schema={output}")


def _is_schema(path: Path) -> bool:
    """Whether a file begins as one that this command wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _DRAFT.encode() in file.read(200)


def schema_text(installed: bool = True) -> str:
    """`recipe_schema` as the text of a file.

    Examples
    --------
    >>> schema_text(installed=False).splitlines()[1]
    ' "$schema": "https://json-schema.org/draft/2020-12/schema",'
    """
    return json.dumps(recipe_schema(installed), indent=1, ensure_ascii=False) + "\n"


def recipe_schema(installed: bool = True) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of recipe files, with the names and settings of all registered parts.

    It allows what a file may say: a part by its name alone, one source in place of a list, and, beside ``extends`` or
    in a file without ``name``, which others extend, leaving out what the other recipe says. Rules between keys are not
    in it; `embedkit validate` knows them.

    Parameters
    ----------
    installed : bool
        With what other installed packages add, parts of plug-ins and the architectures of open_clip. Without it the
        schema is the same on every machine: ``recipes/recipe.schema.json``, which comes with embedkit.

    Examples
    --------
    >>> contents = recipe_schema()
    >>> sorted(contents["properties"])[:4], "simcse-unsup" in contents["$defs"]["Method"]["anyOf"][0]["enum"]
    (['auxiliary', 'data', 'description', 'evaluation'], True)
    """
    from embedkit.config.recipe import Recipe
    from embedkit.config.recipe_io import GROUPS

    contents = Recipe.model_json_schema()
    sections, keys = contents["$defs"], contents["properties"]
    for section in (contents, *sections.values()):
        section["description"] = section.get("description", "").split("\n\n")[0]
    for name in ("DataConfig", "Component"):  # what a recipe does not say may stand in the one that it extends
        sections[name].pop("required")
    required = [key for key in contents.pop("required") if key != "name"]
    contents["$defs"] = sections = _parts(installed) | sections
    keys["method"] = {"$ref": "#/$defs/Method", "description": "what is done with a row"}
    keys["objective"] |= {"anyOf": [{"$ref": "#/$defs/Objective"}, {"type": "null"}]}
    keys["auxiliary"]["items"] = {"$ref": "#/$defs/Auxiliary"}
    source = {"anyOf": [{"type": "string", "description": "a path"}, {"$ref": "#/$defs/SourceConfig"}]}
    for section, key, entry in (
        ("DataConfig", "train", source),
        ("ModelConfig", "head", {"$ref": "#/$defs/HeadConfig"}),
    ):
        old = sections[section]["properties"]
        old[key] = _one_or_more(entry) | {"description": old[key]["description"]}
    for section, key, names in _suggestions(installed):
        old = sections[section]["properties"][key]
        sections[section]["properties"][key] = old | {"anyOf": [{"enum": list(names)}, *_alternatives(old)]}
    stage = {key: {"$ref": f"#/properties/{key}"} for key in keys if key not in ("stages", "smoke", "description")}
    keys["stages"]["items"] = {
        "type": "object", "properties": stage, "required": ["name"], "additionalProperties": False
    }  # fmt: skip
    keys["extends"] = _one_or_more({"type": "string"}) | {"description": "recipes that this one is laid over"}
    keys["group"] = {"enum": list(GROUPS), "description": "where a shipped recipe is listed"}
    whole = {"if": {"required": ["name"], "not": {"required": ["extends"]}}, "then": {"required": required}}
    return {"$schema": _DRAFT, **contents, "title": "Recipe of embedkit", **whole}


def _one_or_more(entry: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [entry, {"type": "array", "items": entry}]}


def _alternatives(node: dict[str, Any]) -> list[dict[str, Any]]:
    """What a node allows; its own keys are taken out."""
    return node.pop("anyOf") if "anyOf" in node else [{"type": node.pop("type")}]


def _entries(registry: Registry[Any], installed: bool) -> dict[str, Any]:
    """The entries of a registry by name, with or without those of plug-ins."""
    return dict(registry.items() if installed else registry.own())


def _suggestions(installed: bool) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Section, key, and names that an editor offers there; others are allowed."""
    from embedkit.config.resources import suite_names
    from embedkit.data.sources.registry import readers
    from embedkit.factory.tower_configs import IMAGE_SIZES, TEXT_SIZES
    from embedkit.formats.open_clip.architectures import architecture_names
    from embedkit.models.modules.poolers import poolers

    yield "ImageTowerConfig", "size", [*IMAGE_SIZES, *(architecture_names() if installed else ())]
    yield "TextTowerConfig", "size", TEXT_SIZES
    yield "ModelConfig", "pooling", poolers
    yield "TextTowerConfig", "pooling", poolers
    yield "EvaluationConfig", "suite", suite_names()
    yield "SourceConfig", "format", ["auto", *_entries(readers, installed)]


def _parts(installed: bool) -> dict[str, Any]:
    """The definitions of methods, objectives and views: their names, and the settings of each."""
    from embedkit.methods import methods
    from embedkit.objectives.registry import presets
    from embedkit.views.base import views

    sections: dict[str, Any] = {}
    by_view = {"augment": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Views"},
                           "description": "views of texts and vectors by the name of the method's view"}}  # fmt: skip
    of_methods = {
        name: _settings(sections, method, by_view | _views_of(method))
        for name, method in _entries(methods, installed).items()
    }
    of_views = {name: _settings(sections, view, {}) for name, view in _entries(views, installed).items()}
    of_objectives = {name: _objective(preset) for name, preset in _entries(presets, installed).items()}
    added = {name: part | {"properties": part["properties"] | _OF_AUXILIARY} for name, part in of_methods.items()}
    view = {"$ref": "#/$defs/View"}
    return sections | _slots() | {
        "Method": _named(of_methods), "Objective": _named(of_objectives), "Auxiliary": _named(added),
        "View": _named(of_views), "Views": {"anyOf": [view, {"type": "array", "items": view}]},
    }  # fmt: skip


def _slots() -> dict[str, Any]:
    """The slots of the kernel of similarity matrices: the names of their parts, alone or with settings."""
    from embedkit.objectives.parts.slots import SLOTS

    definitions = {}
    for slot, parts in SLOTS.items():
        names = {"enum": list(parts)}
        whole = {"type": "object", "properties": {"name": names}, "required": ["name"]}
        definitions[f"Slot-{slot}"] = {"anyOf": [names, whole], "description": f"{slot} part of the similarity matrix"}
    return definitions


def _objective(preset: Preset) -> dict[str, Any]:
    """Settings of an objective with its source; one of the kernel takes other parts, and then their settings too."""
    from embedkit.objectives.parts.slots import SLOTS, part_settings

    words = {name: text for part in reversed(preset.parts) for name, text in descriptions(part).items()}
    settings = {key: _default(value) | _described(words, key) for key, value in preset.settings.items()}
    if preset.family != "table":
        return {"properties": settings, "description": preset.paper}
    slots = {slot: {"$ref": f"#/$defs/Slot-{slot}"} for slot in SLOTS}
    others = {key for slot, parts in SLOTS.items() for name in parts for key in part_settings(slot, name)}
    pattern = f"^({'|'.join(sorted(others - slots.keys()))})$"
    return {"properties": settings | slots, "patternProperties": {pattern: {}}, "description": preset.paper}


def _views_of(method: Any) -> dict[str, Any]:
    """The settings of a method that are chains of views."""
    from embedkit.methods.views import Steps

    chain = {"$ref": "#/$defs/Views"}
    chains: dict[str, Any] = {}
    for name, hint in get_type_hints(method.__init__, include_extras=True).items():
        if hint == Steps or hint == Steps | None:
            chains[name] = chain
        elif Steps in getattr(hint, "__args__", ()):
            chains[name] = {"type": "array", "items": chain}
    return chains


def _settings(sections: dict[str, Any], part: Any, special: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a part with its first line; definitions that they need are added to `sections`."""
    from embedkit.config.settings import settings_model

    contents = settings_model(part).model_json_schema()
    for name, section in contents.get("$defs", {}).items():
        sections.setdefault(name, section)
    words = descriptions(part)
    settings = contents["properties"] | special
    settings = {key: {**node, **_described(words, key)} for key, node in settings.items()}
    return {"properties": settings, "description": (part.__doc__ or "").strip().split("\n")[0]}


def _described(words: Mapping[str, str], key: str) -> dict[str, Any]:
    return {"description": words[key]} if words.get(key) else {}


def _default(value: Any) -> dict[str, Any]:
    """A setting of which the default alone is known."""
    plain = isinstance(value, dict | list | str | int | float | bool | None)
    return {"default": value} if plain and value is not ... else {}


def _named(parts: Mapping[str, Any]) -> dict[str, Any]:
    """One of `parts`: its name alone, or a mapping with its name and settings; parts of the user with any."""
    name = {"anyOf": [{"enum": list(parts)}, _OWN]}
    cases = [
        {"if": {"properties": {"name": {"const": one}}, "required": ["name"]},
         "then": {"properties": {"name": {"description": part["description"]}, **part["properties"]},
                  "patternProperties": part.get("patternProperties", {}), "additionalProperties": False}}
        for one, part in parts.items()
    ]  # fmt: skip
    return {"anyOf": [*name["anyOf"], {"type": "object", "properties": {"name": name}, "allOf": cases}]}
