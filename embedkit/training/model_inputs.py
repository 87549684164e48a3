"""Vectors as inputs of a model: their size, whether it reads them at all, and what it learns from them at first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from embedkit.config.model import FeatureConfig, ModelConfig, SequenceConfig
from embedkit.data.schema.kinds import OPEN_ROLES, modality_role
from embedkit.data.vectors.column import BLOCK
from embedkit.data.vectors.rows import column_of
from embedkit.data.vectors.values import stacked
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data import TrainingRows

_READS = {"feature": "vector", "sequence": "sequence"}
"""Kind of a model -> kind of the roles that it reads, where these are no texts."""

_REMEDIES = {
    "text": "map a column of vectors, or choose another {where}.kind",
    "vector": "set {where}: {{kind: feature}}, or declare it a sequence of single numbers: kinds: {{ROLE: sequence}}",
    "sequence": "set {where}: {{kind: sequence}}, or map another column",
}


def fitted(
    config: ModelConfig, widths: Mapping[str, int], roles: frozenset[str], kinds: Mapping[str, str]
) -> ModelConfig:
    """The section ``model`` with the width of the data's vectors, where it sets none.

    Parameters
    ----------
    config : ModelConfig
        The section.
    widths : mapping
        Role -> numbers of its vectors, or of the steps of its sequences, of the roles that hold some.
    roles : frozenset of str
        All roles of the rows.
    kinds : mapping
        Role -> "text", "vector" or "sequence".

    Raises
    ------
    DataError
        The rows have texts where the model reads vectors, or the other way round, or vectors of another size.

    Examples
    --------
    >>> fitted(ModelConfig(kind="feature"), {"anchor": 384}, frozenset({"anchor"}), {"anchor": "vector"}).feature.width
    384
    """
    if config.kind != "multi":
        return _fitted(config, widths, {role: kinds.get(role, "text") for role in OPEN_ROLES if role in roles}, "model")
    towers = {}
    for name, tower in (config.modalities or {}).items():
        role, where = modality_role(name), f"model.modalities.{name}"
        own = {role: kinds.get(role, "text")} if role in roles else {}
        towers[name] = _fitted(tower, {role: widths[role]} if role in widths else {}, own, where)
    return config.model_copy(update={"modalities": towers}) if towers else config


def check_places(config: ModelConfig, rows: TrainingRows) -> None:
    """Refuse rows whose places are no latitude and longitude, where the model makes waves of them; not of streams.

    Raises
    ------
    DataError
        One of them is beyond its range; file and row are named.

    Examples
    --------
    >>> check_places(ModelConfig(kind="feature"), None)  # no waves
    """
    towers = (config.modalities or {}) if config.kind == "multi" else {}
    roles = [modality_role(name) for name, tower in towers.items() if _has_waves(tower)]
    roles += sorted(rows.widths) if config.kind != "multi" and _has_waves(config) else []
    roles = [role for role in roles if rows.widths.get(role) == 2]  # another width is told where the model is made
    if not roles:
        return
    from embedkit.data.datasets.in_memory import HeldRows
    from embedkit.models.vectors.places import REMEDY, first_bad_place

    if not isinstance(rows, HeldRows):
        return
    for role in roles:
        for start in range(0, rows.num_rows, BLOCK):
            batch = rows.block(range(start, min(start + BLOCK, rows.num_rows)))
            values = column_of(batch.rows, role) if len(batch.rows) else []
            there = [place for place, value in enumerate(values) if value is not None]
            bad = first_bad_place(stacked([values[place] for place in there])) if there else None
            if bad is not None:
                latitude, longitude = values[there[bad]]
                what = f"the place of {_name(role)} is {latitude:.6g}, {longitude:.6g}"
                raise DataError(what, where=rows.where(start + there[bad]), remedy=REMEDY)


def _has_waves(config: ModelConfig) -> bool:
    return config.feature is not None and config.feature.waves is not None


def _fitted(config: ModelConfig, widths: Mapping[str, int], kinds: Mapping[str, str], where: str) -> ModelConfig:
    """The section of a model of one tower, which reads the roles of `kinds`, with their width."""
    reads = _READS.get(config.kind, "text")
    for role, kind in kinds.items():
        if kind != reads:
            raise DataError(
                f"{_name(role)} is a {kind}, and a model of kind {config.kind} reads {reads}s", where="data.train",
                remedy=_REMEDIES[kind].format(where=where),
            )  # fmt: skip
    if reads == "text":
        return config
    width = _width_of(config)
    set_to = width
    for role, size in sorted(widths.items()):
        width = size if width is None else width
        if size != width:
            raise _two_widths(config, widths, role, where, set_to)
    if config.name is not None or width is None:
        return config
    empty = FeatureConfig() if config.kind == "feature" else SequenceConfig()
    section = (getattr(config, config.kind) or empty).model_copy(update={"width": width})
    return config.model_copy(update={config.kind: section})


def _two_widths(config: ModelConfig, widths: Mapping[str, int], role: str, where: str, set_to: int | None) -> DataError:
    """The vectors of a role are not as wide as the model, or as those of another role, which alone say its width."""
    nouns = {name: f"the {'vectors' if config.kind == 'feature' else 'steps'} of {_name(name)} have" for name in widths}
    what = f"{nouns[role]} {widths[role]} numbers, "
    if set_to is None:
        first = min(widths)
        what += f"those of {_name(first)} {widths[first]}, and one model reads one width"
        remedy = "give all roles vectors of one encoder, or train a tower for each: recipe align, columns: "
        remedy += "{COLUMN: first, OTHER_COLUMN: second}"
    elif config.name is not None:
        what += f"the model {config.name} reads {set_to}"
        remedy = "give the vectors that it was trained on, or leave the name out and train a new one"
    else:
        what += f"the model reads {set_to}"
        remedy = f"leave {where}.{config.kind}.width out: the data say it"
    return DataError(what, where="data.train", remedy=remedy)


def _name(role: str) -> str:
    return role.rpartition(":")[2]


def _width_of(config: ModelConfig) -> int | None:
    if config.name is not None:
        from embedkit.factory.folder_settings import folder_of
        from embedkit.formats.detect import inspect

        return inspect(folder_of(config)).spec.get("width")
    section = getattr(config, config.kind)
    return None if section is None else section.width


def learn_inputs(model: Any, rows: TrainingRows, say: Callable[[str], None]) -> None:
    """Show a model the vectors of all training rows, where it learns their scale before the first step.

    Every process reads all of them in one order, so that all learn the same.

    Examples
    --------
    >>> from embedkit.models import FeatureEncoder
    >>> learn_inputs(FeatureEncoder(width=2), None, print)  # has nothing to learn
    """
    for name, one, roles in _readers(model):
        if one.learns_inputs:
            own = sorted(rows.widths) if roles is None else roles
            one.learn_inputs(itertools.chain.from_iterable(rows.vectors(role) for role in own))
            of, what = "" if name is None else f" of {name}", "steps" if one.kind == "sequence" else "vectors"
            say(f"the scale of the inputs{of} was learnt from {int(one.count):,} {what}")


def _readers(model: Any) -> Iterator[tuple[str | None, Any, list[str] | None]]:
    """Name, model and roles of what may read vectors: each tower of several, or the model alone with all roles."""
    if model.kind != "multi":
        yield None, model, None
        return
    for name, tower in zip(model.names, model.models, strict=True):
        yield name, tower.encoder if tower.kind == "chain" else tower, [modality_role(name)]
