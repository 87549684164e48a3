"""Stages of a run: recipes that follow one another, each the recipe that they stand in with changes of its own.

A stage starts from the weights that the one before it has saved. Everything else (data, method, frozen parts, learning
rate) is what the recipe says, with the stage's own keys over it, as if it extended the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from embedkit.config.model import ModelConfig
from embedkit.config.overrides import assign, copied
from embedkit.config.recipe import Recipe, SourceConfig
from embedkit.config.sections import StageConfig
from embedkit.errors import RecipeError, UserError, nearest

NOT_OF_A_STAGE = ("stages", "fuse", "smoke", "description", "group", "extends")
"""Keys that belong to the whole recipe."""
MAKERS = ("label", "mine")
"""Commands that make the rows of a stage by the model of the stage before."""
READ_BY_MAKERS = ("path", "columns", "split", "where", "limit")
"""Keys of a source that they take."""
_OF_THE_RUN = {"output", "overwrite", "replace", "model", "progress", "load_options", *READ_BY_MAKERS}
_COMPONENTS = ("method", "objective")
Result = TypeVar("Result")
_ORIGINS: dict[str, Any] = {"name": None, "revision": None, "config": None, "tokenizer": None, "dim": None}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section; lists, values and parts of another name or kind are replaced.

    Examples
    --------
    >>> merged({"train": {"lr": 1e-5, "epochs": 1}, "method": "pairs"}, {"train": {"lr": 1e-4}, "method": "mlm"})
    {'train': {'lr': 0.0001, 'epochs': 1}, 'method': 'mlm'}
    >>> merged({"sound": {"kind": "feature", "feature": {"form": "mlp"}}}, {"sound": {"kind": "text", "name": "a/b"}})
    {'sound': {'kind': 'text', 'name': 'a/b'}}
    """
    result = dict(base)
    for key, value in changes.items():
        old, component = result.get(key), key in _COMPONENTS
        if component and isinstance(old, str):
            old = {"name": old}
        if not isinstance(value, Mapping) or not isinstance(old, Mapping):
            result[key] = value
            continue
        word = "name" if component else "kind"  # settings of one method, or of one kind of tower, are not another's
        own = old.get(word)
        result[key] = value if own is not None and value.get(word, own) != own else merged(old, value)
    return result


def refuse_trust(data: Mapping[str, Any], where: str) -> None:
    """A file may come from anyone: only who starts a run can allow code or pickles, in the command or in Python.

    Raises
    ------
    RecipeError
        The contents of a file allow one of them.

    Examples
    --------
    >>> refuse_trust({"model": {"name": "a/b", "trust_remote_code": True}}, "own.yaml")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: own.yaml: model.trust_remote_code: a file cannot allow trust_remote_code; take it ...
    """
    sections = {"model": data.get("model")}
    towers = (data.get("model") or {}).get("towers") if isinstance(data.get("model"), Mapping) else None
    if isinstance(towers, Mapping):
        sections |= {f"model.towers.{name}": tower for name, tower in towers.items()}
    for place, section in sections.items():
        for key in ("trust_remote_code", "allow_pickle"):
            if isinstance(section, Mapping) and section.get(key):
                raise RecipeError(
                    f"a file cannot allow {key}", where=f"{where}: {place}.{key}",
                    remedy=f"take it out, look at what the model brings, then add {place}.{key}=true to the command",
                )  # fmt: skip


def checked_stages(data: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The entries of ``stages`` as they stand, each a mapping with a name of its own.

    Raises
    ------
    RecipeError
        An entry is no mapping, has no name or that of another, or a key that belongs to the whole recipe.

    Examples
    --------
    >>> checked_stages({"stages": [{"name": "mlm"}, {"name": "mlm"}]}, "own.yaml")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: own.yaml: stages.1 has the name of another stage; give each stage its own name
    """
    stages = data.get("stages") or []
    if not isinstance(stages, list):
        raise RecipeError(
            "stages is no list", where=where, remedy="write one entry a stage: - {name: mlm, method: mlm}"
        )
    names: list[str] = []
    for number, stage in enumerate(stages):
        here = f"stages.{number}"
        if not isinstance(stage, Mapping) or not isinstance(stage.get("name"), str):
            raise RecipeError(f"{here} has no name", where=where, remedy="write - {name: mlm, method: mlm}")
        wrong = next((key for key in NOT_OF_A_STAGE if stage.get(key)), None)
        if wrong is not None:
            raise RecipeError(f"{here} has the key {wrong!r}", where=where, remedy="it belongs to the whole recipe")
        if stage["name"] in names:
            raise RecipeError(f"{here} has the name of another stage", where=where,
                              remedy="give each stage its own name")  # fmt: skip
        names.append(stage["name"])
    return [dict(stage) for stage in stages]


def resolved(
    data: Mapping[str, Any], where: str, changes: Iterable[tuple[str, Any, str]] = ()
) -> list[dict[str, Any]]:  # fmt: skip
    """The contents of every stage in full: the recipe, the stage's keys over it, and over both what the run changes.

    Parameters
    ----------
    data : mapping
        The contents of the recipe, before any change.
    where : str
        What is blamed.
    changes : iterable of (str, object, str)
        Dotted key, value, and what is blamed for it: of the smoke size, of the command line. A key holds for every
        stage; below ``stages.N`` for one.

    Examples
    --------
    >>> recipe = {"name": "two", "train": {"lr": 1e-5}, "stages": [{"name": "a"}, {"name": "b", "train": {"lr": 1e-4}}]}
    >>> stages = resolved(recipe, "own.yaml", [("train.epochs", 2, "here"), ("stages.1.seed", 7, "here")])
    >>> stages[0]["train"], stages[1]["train"], stages[1]["seed"]
    ({'lr': 1e-05, 'epochs': 2}, {'lr': 0.0001, 'epochs': 2}, 7)
    """
    plain = {key: value for key, value in data.items() if key not in NOT_OF_A_STAGE}
    documents = []
    for number, stage in enumerate(checked_stages(data, where)):
        document = copied(merged(plain, stage))
        own = f"stages.{number}."
        for key, value, origin in changes:
            if key.startswith(own) or not key.startswith("stages."):
                assign(document, key.removeprefix(own), copied(value), origin)
        documents.append(document)
    return documents


def of_each(stages: Sequence[Recipe], function: Callable[[Recipe], Result]) -> list[Result]:
    """What `function` gives for each stage; where there are several, an error says in which.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe, stage_recipes
    >>> from embedkit.training.setup import build_method
    >>> of_each(stage_recipes(load_recipe("adacontrast", {"method.hidden": 64})), build_method)
    Traceback (most recent call last):
    embedkit.errors.RecipeError: stages.0 (source): method.hidden: unknown setting 'hidden'; known: augment, heads, \
image, transform; method.hidden holds for every stage, stages.1.method.hidden for one
    """
    results = []
    for number, stage in enumerate(stages):
        try:
            results.append(function(stage))
        except UserError as error:
            if len(stages) > 1:
                here = f"stages.{number} ({stage.name})"
                if key := _key_of_all(stages, error.where or ""):
                    others = [str(other) for other in range(len(stages)) if other != number]
                    place = others[0] if len(others) == 1 else "N"
                    numbers = "" if len(others) == 1 else f" (N: {', '.join(others)})"
                    error.add(f"{key} holds for every stage, stages.{place}.{key} for one{numbers}")
                error.move(here if error.where is None else f"{here}: {error.where}")
            raise
    return results


def _key_of_all(stages: Sequence[Recipe], place: str) -> str | None:
    """The longest key that is set for every stage and is `place`, above it or below it."""
    parts, common = place.split("."), set.intersection(*(set(stage.origin.own) for stage in stages))
    fits = [key for key in common if all(a == b for a, b in zip(key.split("."), parts, strict=False))]
    return max(fits, key=lambda key: (len(key), key), default=None)


def _check_rows(stage: Recipe, where: str) -> None:
    """Refuse rows of a stage that no command can make."""
    rows = stage.stage.rows
    if rows is None:
        return
    if rows.name not in MAKERS:
        raise RecipeError(f"no command named {rows.name!r} makes rows", where=where, remedy=nearest(rows.name, MAKERS))
    idle = sorted(_OF_THE_RUN & set(rows.settings))
    if idle:
        raise RecipeError(f"{idle[0]} is known from data.train and the stage before", where=where,
                          remedy=f"take {idle[0]} out of stage.rows")  # fmt: skip
    if len(stage.data.train) != 1:
        raise RecipeError(
            f"{rows.name} makes rows of one source, and data.train has {len(stage.data.train)}", where=where,
            remedy=f"put them in one file, or run embedkit {rows.name} between two runs",
        )  # fmt: skip
    source = stage.data.train[0]
    plain = SourceConfig(path=source.path)
    other = [key for key, value in source if key not in READ_BY_MAKERS and value != getattr(plain, key)]
    if other:
        raise RecipeError(f"{rows.name} does not take data.train.0.{other[0]}", where=where,
                          remedy=f"leave it out, or run embedkit {rows.name} between two runs")  # fmt: skip


def check_place(stage: Recipe, number: int | None, where: str) -> Recipe:
    """The recipe itself; refused where there is no stage before to take from, or no command that makes its rows.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("mlm-simcse")
    >>> check_place(recipe.model_copy(update={"stage": StageConfig(rows="label")}), 0, "own.yaml")
    Traceback (most recent call last):
    embedkit.errors.RecipeError: own.yaml: stage.rows needs the model of a stage before, and there is none; ...
    """
    idle = [key for key, value in StageConfig() if getattr(stage.stage, key) != value]
    if idle and (number is None or (number == 0 and idle != ["start"])):
        raise RecipeError(f"stage.{idle[-1]} needs the model of a stage before, and there is none", where=where,
                          remedy="give it to a later entry of stages")  # fmt: skip
    _check_rows(stage, f"{where}: stage.rows")
    return stage


def folder_of_stage(output: Path, number: int, name: str) -> Path:
    """Where a stage's run is kept, in the folder of the whole run.

    Examples
    --------
    >>> folder_of_stage(Path("runs/mlm-simcse"), 0, "mlm").as_posix()
    'runs/mlm-simcse/1-mlm'
    """
    return output / f"{number + 1}-{name}"


def continued(stage: Recipe, before: Recipe, model: Path) -> Recipe:
    """A stage that starts from the weights in the folder `model`, which the stage `before` has saved.

    Where the first model came from is left out of its section. Layers that are kept are in the folder: those that
    `before` lists too are not added again; train-only ones start anew.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> recipe = load_recipe("simcse-unsup")
    >>> continued(recipe, recipe, Path("runs/mlm/model")).model.name
    'runs/mlm/model'
    """
    section = stage.model.model_dump() | _ORIGINS | {"name": str(model)}
    section |= {"trust_remote_code": False, "allow_pickle": False}
    heads = [[layer for layer in part.model.head if not layer.train_only] for part in (stage, before)]
    if heads[0] == heads[1]:
        section["head"] = [layer.model_dump() for layer in stage.model.head if layer.train_only]
    if section["towers"] is not None:
        section["towers"]["dim"] = None
        for tower in ("text", "image"):
            section["towers"][tower] |= {key: None for key in (*_ORIGINS, "size") if key in section["towers"][tower]}
            section["towers"][tower].pop("kind", None)
    update = {"model": ModelConfig.model_validate(section)}
    return stage.model_copy(update=update).with_origin(stage.origin)
