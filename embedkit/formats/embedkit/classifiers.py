"""Heads that are kept with a model, in a folder of embedkit: ``classifiers.json`` and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.errors import ModelError
from embedkit.formats.folder import read_json, write_json
from embedkit.formats.tensors import load_exactly, read_safetensors, write_tensors

if TYPE_CHECKING:
    from embedkit.models.heads.classifier import TargetHead

FILE = "classifiers"
"""Name of both files, without ending."""


def write_classifiers(heads: Mapping[str, TargetHead], folder: Path) -> None:
    """Write the files of these heads, by name of their target; none where there are no heads.

    Examples
    --------
    >>> from embedkit.models.heads.classifier import TargetHead
    >>> Path("tones").mkdir()
    >>> write_classifiers({"tone": TargetHead(8, 2, "class", ["glad", "sad"])}, Path("tones"))
    >>> read_classifiers(Path("tones"))["tone"].classes
    ('glad', 'sad')
    """
    if not heads:
        return
    write_json(folder / f"{FILE}.json", {name: head.spec() for name, head in heads.items()})
    tensors = {f"{name}.{key}": tensor for name, head in heads.items() for key, tensor in head.state_dict().items()}
    write_tensors(tensors, folder, f"{FILE}.safetensors")


def read_classifiers(folder: Path) -> dict[str, TargetHead]:
    """The heads of a folder by name of their target, for use; empty where it has none.

    Raises
    ------
    ModelError
        The files are damaged, or do not belong together.

    Examples
    --------
    >>> read_classifiers(Path("."))
    {}
    """
    from embedkit.models.heads.classifier import TargetHead, kept

    place = folder / f"{FILE}.json"
    if not place.is_file():
        return {}
    specs, tensors = read_json(place), read_safetensors(folder / f"{FILE}.safetensors")
    heads = {}
    for name, spec in specs.items() if isinstance(specs, dict) else ():
        try:
            head = TargetHead(**spec)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"head {name!r} is damaged", where=str(place), remedy="write the folder again") from error
        own = {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}
        load_exactly(head, own, place)
        heads[name] = kept(head)
    return heads
