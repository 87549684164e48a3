"""Contrast between any number of named modalities, of which a row may have some only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedkit.config.settings import NotNegative
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.kinds import modality_role
from embedkit.data.schema.roles import IMAGE_ROLES
from embedkit.data.vectors.rows import ColumnRows
from embedkit.errors import DataError, RecipeError, nearest
from embedkit.factory.folder_settings import tower_kinds
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from embedkit.config.model import ModelConfig
    from embedkit.data import TrainingRows
    from embedkit.models.base import Model

_OWN = ("modality-pairs", "modality-views")


@methods.add("modalities")
class Modalities(Method):
    """Rows of several modalities into one space (CMC, Tian et al. 2020, section 3.3).

    The names are those of ``model.modalities``; each is a role of the rows, and the name of an embedding. The objective
    is one of anchor and positive: it is summed over pairs of modalities, each over the rows that have both
    (``modality-pairs``). With ``form: views`` it is one of anchor and label: the modalities of a row are views of one
    thing (``modality-views``).

    Parameters
    ----------
    form : str
        "pairs" or "views".
    pairs : str or list of [str, str]
        "all" (CMC's full graph), the name of the one that each other is compared with (its core view), or a list.
    weights : mapping, optional
        Pair, written ``image-sound``, -> its weight; 1 for the others.
    transform : str or mapping
        Random changes of images, see `embedkit.views.image.Transform`.

    Examples
    --------
    >>> from embedkit.config.model import ModelConfig
    >>> towers = {"sound": {"kind": "feature"}, "caption": {"kind": "feature"}}
    >>> method = Modalities()
    >>> method.use_model(ModelConfig(kind="multi", dim=8, modalities=towers))
    >>> method.objective_of({"name": "siglip"})
    {'name': 'modality-pairs', 'names': ['sound', 'caption'], 'pairs': 'all', 'objective': {'name': 'siglip'}}
    """

    paper: ClassVar[str] = "Tian et al. 2020, ECCV, section 3.3"
    contract: ClassVar[Contract] = Contract(requires=frozenset(), accepts=frozenset({"label", "group"}))
    objective: ClassVar[dict[str, Any] | None] = {"name": "clip", "temperature": 0.07}
    takes_parts: ClassVar[bool] = False

    def __init__(
        self, form: Literal["pairs", "views"] = "pairs", pairs: str | list[list[str]] = "all",
        weights: dict[str, NotNegative] | None = None, transform: str | dict[str, Any] | None = "none",
    ) -> None:  # fmt: skip
        if form == "views" and (pairs != "all" or weights is not None):
            raise RecipeError("views have no pairs", where="method.pairs", remedy="leave pairs and weights out")
        if form == "views":
            self.objective = {"name": "supcon", "temperature": 0.07}  # type: ignore[misc]
        self.form, self.pairs, self.weights = form, pairs, weights
        self.transform = Transform.of(transform)
        self.roles_of_towers: Mapping[str, str] = {}
        self._counts = ""

    def use_model(self, config: ModelConfig) -> None:
        """Take the names of the model's towers for those of roles and embeddings."""
        kinds = tower_kinds(config)
        if not kinds:  # told where the objective is made
            return
        self.roles_of_towers = {name: name if kind == "dual" else modality_role(name) for name, kind in kinds.items()}
        for name in [self.pairs] if isinstance(self.pairs, str) else itertools.chain.from_iterable(self.pairs):
            if name != "all" and name not in kinds:
                raise RecipeError(f"there is no modality {name!r}", where="method.pairs", remedy=nearest(name, kinds))
        accepts = type(self).contract.accepts | frozenset(self.roles_of_towers.values())
        self.contract = replace(type(self).contract, accepts=accepts)  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(self.roles_of_towers)

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return self.provides

    def objective_of(self, config: dict[str, Any]) -> dict[str, Any]:
        names = list(self.roles_of_towers)
        if not names:
            raise RecipeError("the model has no named towers", where="model.kind",
                              remedy="set model: {kind: multi, modalities: {...}}")  # fmt: skip
        if config.get("name") in _OWN:
            return {"names": names, **config}
        if self.form == "views":
            return {"name": "modality-views", "names": names, "objective": config}
        weights = {} if self.weights is None else {"weights": self.weights}
        return {"name": "modality-pairs", "names": names, "pairs": self.pairs, **weights, "objective": config}

    def check_data(self, rows: TrainingRows) -> None:
        from embedkit.objectives.compose.modalities import pairs_of

        counts = {name: rows.having(role) for name, role in self.roles_of_towers.items()}
        for name, count in counts.items():
            if count == 0:
                raise DataError(f"no row has the modality {name!r}", where="data.train",
                                remedy=f"give rows with it, or set model.modalities.{name}: null")  # fmt: skip
        roles = self.roles_of_towers
        both = {(one, two): rows.having(roles[one], roles[two]) for one, two in pairs_of(list(counts), self.pairs)}
        if both and self.form == "pairs" and all(count is not None and count < 2 for count in both.values()):
            listing = ", ".join(f"{one} and {two}" for one, two in both)
            raise DataError(f"no rows have two modalities that are compared ({listing})", where="data.train",
                            remedy="put what belongs together into one row: beside, with on and id")  # fmt: skip
        if None not in counts.values():
            alone = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            self._counts = f"rows with {alone}; with {', '.join(f'{a} and {b} {n:,}' for (a, b), n in both.items())}"

    def notes(self, model: Model) -> list[str]:
        return [self._counts] * bool(self._counts)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return {name: self._view(name, role, rows, random) for name, role in self.roles_of_towers.items()}

    def _view(self, name: str, role: str, rows: Sequence[Row], random: Callable[[int], Any]) -> View:
        """The inputs of a modality, those of the rows that have it."""
        if isinstance(rows, ColumnRows):  # none of its values is missing
            return View(rows.column(role), list(range(len(rows))), tower=name)
        owner = [i for i, row in enumerate(rows) if role in row and row[role] is not None]
        inputs = [rows[i][role] for i in owner]
        if role in IMAGE_ROLES:
            inputs = image_inputs(inputs, self.transform, [random(i) for i in owner])
        return View(inputs, owner, tower=name)

    def prepare(self, model: Any, name: str, view: View) -> Any:
        from embedkit.models.inputs.towers import TowerInputs
        from embedkit.views.image import prepare_images

        if self.roles_of_towers[name] not in IMAGE_ROLES:
            return model.prepare_tower(name, view.inputs, view.prompt)
        tower, shapes = model.tower(name), view.own_shapes
        return TowerInputs(name, prepare_images(tower.encoder if tower.kind == "chain" else tower, view.inputs, shapes))
