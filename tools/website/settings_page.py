"""The page of all recipe settings, from the JSON schema of recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

HEAD = """# All settings of a recipe

A recipe is a YAML file with the keys below. On the command line each is `section.key=value`, in Python
`section__key=value`. `embedkit recipes NAME --resolved` prints a shipped recipe with every setting written out, and
`embedkit schema FILE` writes the JSON schema from which this page is made; an editor completes and checks recipes with
it.
"""

SECTIONS = (
    ("data", "DataConfig"), ("data.train[]", "SourceConfig"), ("data.train[].beside[]", "BesideConfig"),
    ("model", "ModelConfig"), ("model.head[]", "HeadConfig"), ("model.lora", "LoraConfig"),
    ("model.feature", "FeatureConfig"), ("model.sequence", "SequenceConfig"), ("model.towers", "TowersConfig"),
    ("model.towers.text", "TextTowerConfig"), ("model.towers.image", "ImageTowerConfig"), ("guide", "GuideConfig"),
    ("train", "TrainConfig"), ("train.groups[]", "GroupConfig"), ("evaluation", "EvaluationConfig"),
    ("evaluation.vectors", "VectorsConfig"), ("stage", "StageConfig"),
)  # fmt: skip
"""Path of a section in a recipe, and its definition in the schema; [] marks entries of a list."""

SLOTS = """ Those of the similarity matrix also take other parts, such as
`direction: both`: [Objectives](objectives.md) lists them."""


def page() -> str:
    """The text of the page.

    Examples
    --------
    >>> "| `train.lr` | number > 0 | `2e-05` |" in page()
    True
    """
    from embedkit.cli.schema import recipe_schema

    contents = recipe_schema()
    sections = contents["$defs"]
    parts = [HEAD, "## A recipe\n", *_table("", contents["properties"], sections)]
    for path, name in SECTIONS:
        parts += [
            f"\n## {path}\n",
            f"{sections[name]['description']}\n",
            *_table(path, sections[name]["properties"], sections),
        ]
    for title, name, key, more in (
        ("Methods", "Method", "method", ""), ("Objectives", "Objective", "objective", SLOTS),
        ("Views", "View", "method.augment", ""),
    ):  # fmt: skip
        parts += [
            f"\n## {title}\n",
            f"Names for `{key}`, each with its own settings.{more}\n",
            *_named(sections[name], sections),
        ]
    return "\n".join(parts) + "\n"


def _table(path: str, properties: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    yield "| setting | values | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, node in properties.items():
        name = f"{path}.{key}" if path else key
        default = f"`{json.dumps(node['default'], ensure_ascii=False)}`" if node.get("default") is not None else ""
        yield f"| `{name}` | {_values(node, sections)} | {default} | {_cell(node.get('description', ''))} |"


def _named(node: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """A row for each part of a registry: its name, what it is, and its settings with their defaults."""
    yield "| name | what | settings |"
    yield "| --- | --- | --- |"
    for case in node["anyOf"][-1]["allOf"]:
        properties = dict(case["then"]["properties"])
        what = properties.pop("name")["description"]
        properties.pop("augment", None)
        cells = []
        for key, value in properties.items():
            if value.get("$ref", "").startswith("#/$defs/Slot-"):
                continue
            default = json.dumps(value["default"], ensure_ascii=False) if "default" in value else "?"
            cells.append(f"`{key}={default}`" if default != "?" else f"`{key}`")
        yield f"| `{case['if']['properties']['name']['const']}` | {_cell(what)} | {_cell(' '.join(cells))} |"


def _values(node: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """What a setting may be, in words."""
    if "$ref" in node:
        return f"see {node['$ref'].rsplit('/', 1)[1]}" if node["$ref"].rsplit("/", 1)[1] not in _PLACES else (
            f"[section](#{_anchor(_PLACES[node['$ref'].rsplit('/', 1)[1]])})"
        )  # fmt: skip
    if "anyOf" in node:
        words = [_values(one, sections) for one in node["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "enum" in node:
        names = [f"`{one}`" for one in node["enum"] if one is not None]
        return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    if node.get("type") == "array":
        return f"list of {_values(node['items'], sections)}" if node.get("items") else "list"
    bounds = [f"{sign} {node[key]:,}" for key, sign in _BOUNDS.items() if key in node]
    return " ".join([_TYPES.get(node.get("type", ""), "any"), ", ".join(bounds)]).strip()


_PLACES = {name: path for path, name in SECTIONS} | {
    "Method": "Methods", "Objective": "Objectives", "Auxiliary": "Methods", "View": "Views", "Views": "Views",
}  # fmt: skip
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "yes or no", "object": "mapping"}


def _anchor(path: str) -> str:
    """The anchor of a section's heading, as Python-Markdown makes it."""
    return "".join(letter for letter in path.lower() if letter.isalnum() or letter == "_")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
