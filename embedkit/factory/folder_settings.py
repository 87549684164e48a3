"""The folder that a section names, and its settings with those of a recipe in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.config.model import ImageTowerConfig, ModelConfig
from embedkit.errors import ModelError, nearest
from embedkit.formats.detect import inspect, locate
from embedkit.formats.folder import FolderPlan


def folder_of(config: ModelConfig | ImageTowerConfig) -> Path:
    """The folder of ``name``; ``revision`` belongs to hub ids alone.

    Raises
    ------
    ModelError
        When there is none.

    Examples
    --------
    >>> Path("runs/faq/model").mkdir(parents=True)
    >>> Path("runs/faq/log.jsonl").touch()
    >>> folder_of(ModelConfig(name="runs/faq")).as_posix()
    'runs/faq/model'
    """
    assert config.name is not None
    local = Path(config.name).expanduser().is_dir()
    return locate(config.name, None if local else config.revision, **permissions(config))


def permissions(config: ModelConfig | ImageTowerConfig) -> dict[str, Any]:
    """The permissions for reading the folder of a section, as keywords of `locate` and `inspect`.

    Examples
    --------
    >>> permissions(ModelConfig(name="m", allow_pickle=True))
    {'trust_remote_code': False, 'allow_pickle': True}
    """
    code = getattr(config, "trust_remote_code", False)  # an image tower has no code of its own
    return {"trust_remote_code": code, "allow_pickle": config.allow_pickle}


def replaced(spec: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """The settings of a folder with those of the recipe in their place.

    Raises
    ------
    ModelError
        When the default prompt is no prompt of either.

    Examples
    --------
    >>> replaced({"pooling": "mean", "max_length": 512}, ModelConfig(name="m", pooling="cls"))
    {'pooling': 'cls', 'max_length': 512}
    """
    own = {"pooling": config.pooling, "max_length": config.max_length, "normalize": config.normalize}
    spec = {**spec, **{key: value for key, value in own.items() if value is not None}}
    if config.prompts:
        spec["prompts"] = {**(spec.get("prompts") or {}), **config.prompts}
    if config.default_prompt is not None:
        spec["default_prompt"] = checked_prompt(config.default_prompt, spec.get("prompts") or {}, "model")
    return spec


def of_another_kind(plan: FolderPlan, name: str, remedy: str | None = None) -> ModelError:
    """The error for a model of another kind than the one to train.

    Examples
    --------
    >>> print(of_another_kind(FolderPlan(Path("words"), Path("words"), "static"), "words"))
    words: is a static model; set model.kind to static
    """
    if plan.members:
        remedy = f"name one of the {len(plan.members)} that it is made of, {plan.members[0]} for example"
    return ModelError(f"is a {plan.kind} model", where=name, remedy=remedy or f"set model.kind to {plan.kind}")


def checked_prompt(name: str, prompts: dict[str, str], where: str) -> str:
    """`name`, refused when it is none of `prompts`.

    Raises
    ------
    ModelError
        With the nearest prompt.

    Examples
    --------
    >>> checked_prompt("quary", {"query": "query: ", "passage": "passage: "}, "model")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: model.default_prompt: no prompt 'quary'; did you mean 'query'?
    """
    if name not in prompts:
        remedy = nearest(name, prompts) if prompts else "the model has no prompts: add it to prompts"
        raise ModelError(f"no prompt {name!r}", where=f"{where}.default_prompt", remedy=remedy)
    return name


def tower_kinds(config: ModelConfig) -> dict[str, str]:
    """Name of each tower of a model of several modalities -> its kind, that of the encoder where it has a projection.

    Examples
    --------
    >>> towers = {"sound": {"kind": "feature"}, "word": {"kind": "static", "tokenizer": "builtin", "dim": 8}}
    >>> tower_kinds(ModelConfig(kind="multi", dim=8, modalities=towers)), tower_kinds(ModelConfig(name="bert"))
    ({'sound': 'feature', 'word': 'static'}, {})
    """
    if config.kind != "multi" or config.name is None:
        return {name: tower.kind for name, tower in (config.modalities or {}).items()}
    plan = inspect(folder_of(config))
    kinds = {}
    for name, folder in zip(plan.spec.get("modalities", []), plan.members, strict=False):
        tower = inspect(folder)
        kinds[name] = inspect(tower.members[0]).kind if tower.kind == "chain" else tower.kind
    return kinds
