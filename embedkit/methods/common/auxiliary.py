"""A method with the loss of others added to its own, whatever the methods are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.data import TrainingRows
    from embedkit.data.schema.targets import TargetFacts
    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch

_MARK = "of_auxiliary"


@dataclass(frozen=True)
class Auxiliary:
    """One added method: its terms are multiplied by ``weight * decay ** (step / decay_steps)``.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> auxiliary = Auxiliary(methods["mlm"](), "mlm", "auxiliary.0", weight=0.1, decay=0.5)
    >>> auxiliary.factor(0), auxiliary.factor(100)
    (0.1, 0.05)
    """

    method: Method
    name: str
    where: str
    weight: float = 0.1
    decay: float = 1.0
    decay_steps: float = 100.0

    def __post_init__(self) -> None:
        for key, low in (("weight", 0.0), ("decay", 0.0), ("decay_steps", 1.0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
                raise RecipeError(f"{key} is {value!r}", where=self.where, remedy=f"give a number from {low:g} on")

    def factor(self, step: int) -> float:
        """The factor at an optimiser step (0-based)."""
        return float(self.weight * self.decay ** (step / self.decay_steps))


class WithAuxiliaries(Method):
    """`main` as it is, and beside its views those of the auxiliaries, named ``NAME/VIEW``.

    An auxiliary sees its own outputs and parts only, or with `reads_main` those of the main method too; the objective
    sees the main method's embeddings only.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> method = WithAuxiliaries(methods["simcse-unsup"](), [Auxiliary(methods["mlm"](), "mlm", "auxiliary.0")])
    >>> list(method.views([{"anchor": "a cat"}], np.random.default_rng))
    ['anchor', 'positive', 'mlm/anchor', 'mlm/positive']
    """

    def __init__(self, main: Method, beside: Sequence[Auxiliary]) -> None:
        self.main, self.beside_main = main, list(beside)
        self._forms: dict[str, str] = {}
        self._layouts: dict[str, list[int]] = {}
        names = [auxiliary.name for auxiliary in beside]
        if len(set(names)) < len(names):
            raise RecipeError("one method stands twice", where="auxiliary", remedy="keep one of them")
        for auxiliary in beside:
            auxiliary.method.beside({})  # refuses a method that is none
            if main.reads_patches and auxiliary.method.reads_patches:
                raise RecipeError("both methods read patches, and the first stands by itself", where=auxiliary.where,
                                  remedy="put both beside simclr or another method on views of images")  # fmt: skip
            if auxiliary.method.reads_patches and not main.gives_patches:
                raise RecipeError("reads patches, and the method beside it has none: its image tower is locked",
                                  where=auxiliary.where, remedy="leave it out, or train with clip")  # fmt: skip
            auxiliary.method.use_main(main)
        self.paper = main.paper  # type: ignore[misc]
        self.objective = main.objective  # type: ignore[misc]
        self.anchors_a_row = main.anchors_a_row
        self.caches_images, self.takes_parts = main.caches_images, main.takes_parts  # type: ignore[misc]
        contracts = [auxiliary.method.contract_beside for auxiliary in beside]
        others = frozenset[str]().union(*(c.requires for c in contracts)) - {"anchor"}  # they read main's views
        needed = main.contract.requires | others
        accepted = main.contract.accepts.union(*(contract.accepts for contract in contracts))
        limits = {role: pair for contract in (main.contract, *contracts) for role, pair in contract.limits.items()}
        self.contract = Contract(needed, accepted - needed, limits)  # type: ignore[misc]

    @property
    def provides(self) -> frozenset[str]:
        return self.main.provides

    @property
    def turns(self) -> int:  # type: ignore[override]
        return self.main.turns

    def picture_side(self, side: int) -> int:
        return self.main.picture_side(side)

    @property
    def listed_views(self) -> frozenset[str]:  # type: ignore[override]
        return self.main.listed_views

    @property
    def view_sizes(self) -> frozenset[int]:  # type: ignore[override]
        return self.main.view_sizes

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        return self.main.gives

    @property
    def row_groups(self) -> int | None:  # type: ignore[override]
        return self.main.row_groups

    @property
    def shared_texts(self) -> frozenset[str]:  # type: ignore[override]
        return self.main.shared_texts.union(*(auxiliary.method.shared_texts for auxiliary in self.beside_main))

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]
        return self.main.reads.union(*(auxiliary.method.reads for auxiliary in self.beside_main))

    @property
    def reads_guide(self) -> bool:  # type: ignore[override]
        return self.main.reads_guide or any(auxiliary.method.reads_guide for auxiliary in self.beside_main)

    @property
    def widths(self) -> Mapping[str, int]:  # type: ignore[override]
        return self.main.widths

    @property
    def sizes(self) -> Mapping[str, int]:  # type: ignore[override]
        return self.main.sizes

    @property
    def guided(self) -> frozenset[str]:  # type: ignore[override]
        return self.main.guided

    @property
    def embedding_size(self) -> int | None:
        return self.main.embedding_size

    @property
    def feature_size(self) -> int:
        return self.main.feature_size

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return self.main.embedded(roles)

    def guide_dim(self, dim: int) -> int:
        return self.main.guide_dim(dim)

    def project_guide(
        self, vectors: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:  # fmt: skip
        return self.main.project_guide(vectors, batch, parts)

    def followed_parts(self, parts: nn.ModuleDict) -> dict[str, nn.Module]:
        own = self.main.followed_parts(parts["main"])  # type: ignore[arg-type]
        for auxiliary in self.beside_main:
            followed = auxiliary.method.followed_parts(parts[auxiliary.name])  # type: ignore[arg-type]
            own |= {f"{auxiliary.name}/{name}": part for name, part in followed.items()}
        return own

    def with_means(self, parts: Any, means: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {"main": self.main.with_means(parts["main"], self._own(means, None))}
        for auxiliary in self.beside_main:
            start = f"{auxiliary.name}/"
            theirs = {name.removeprefix(start): mean for name, mean in means.items() if name.startswith(start)}
            own[auxiliary.name] = auxiliary.method.with_means(parts[auxiliary.name], theirs)
        return own

    def embedding_dim(self, model: Model) -> int:
        return self.main.embedding_dim(model)

    def notes(self, model: Model) -> list[str]:
        every = (self.main, *(auxiliary.method for auxiliary in self.beside_main))
        return [note for method in every for note in method.notes(model)]

    def notes_of_rows(self, model: Model, rows: Sequence[Row]) -> list[str]:
        every = (self.main, *(auxiliary.method for auxiliary in self.beside_main))
        return [note for method in every for note in method.notes_of_rows(model, rows)]

    @property
    def start_rows(self) -> int:  # type: ignore[override]
        return max(method.start_rows for method in (self.main, *(auxiliary.method for auxiliary in self.beside_main)))

    def learn_start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        own = [("main", self.main), *((auxiliary.name, auxiliary.method) for auxiliary in self.beside_main)]
        for name, method in own:
            if method.start_rows:
                method.learn_start(model, parts[name], rows[: method.start_rows])  # type: ignore[arg-type]

    def keep(self, model: Model, parts: nn.ModuleDict) -> None:
        self.main.keep(model, parts["main"])  # type: ignore[arg-type]
        for auxiliary in self.beside_main:
            auxiliary.method.keep(model, parts[auxiliary.name])  # type: ignore[arg-type]

    def in_use(self, model: Model, parts: nn.ModuleDict) -> Model:
        return self.main.in_use(model, parts["main"])  # type: ignore[arg-type]

    def learn_targets(self, facts: Mapping[str, TargetFacts]) -> None:
        for method in (self.main, *(auxiliary.method for auxiliary in self.beside_main)):
            method.learn_targets(facts)

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        numbers = dict(self.main.targets(rows))
        for auxiliary in self.beside_main:
            numbers |= {f"{auxiliary.name}/{name}": own for name, own in auxiliary.method.targets(rows).items()}
        return numbers

    def objective_of(self, config: dict[str, Any]) -> dict[str, Any]:
        return self.main.objective_of(config)

    def check_data(self, rows: TrainingRows) -> None:
        self.main.check_data(rows)

    def check_rows(self, rows: Sequence[Row]) -> None:
        for method in (self.main, *(auxiliary.method for auxiliary in self.beside_main)):
            method.check_rows(rows)

    def check_patches(self, grid: tuple[int, int]) -> None:
        for method in (self.main, *(auxiliary.method for auxiliary in self.beside_main)):
            method.check_patches(grid)

    def check_tower(self, tower: Any) -> None:
        for method in (self.main, *(auxiliary.method for auxiliary in self.beside_main)):
            method.check_tower(tower)

    def fit_guide(self, parts: nn.ModuleDict, dim: int) -> None:
        for name, method in (("main", self.main), *((a.name, a.method) for a in self.beside_main)):
            method.fit_guide(parts[name], dim)  # type: ignore[arg-type]

    def prompt_of(self, model: Model, role: str) -> str | None:
        return self.main.prompt_of(model, role)

    def adapt(self, model: Model) -> None:
        for method in (self.main, *(auxiliary.method for auxiliary in self.beside_main)):
            method.adapt(model)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        others = {auxiliary.name: auxiliary.method.parts(model) for auxiliary in self.beside_main}
        return nn.ModuleDict({"main": self.main.parts(model), **others})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        own = self._of_one_shape(self.main.views(rows, random))
        if any(rider.method.reads_guide for rider in self._riders) and not any(v.guided for v in own.values()):
            for view in own.values():  # the guide is read by a loss of patches alone
                view.guided = view.tower == "image"
        if any(rider.method.guides_own_views for rider in self._riders):
            _guide_one(own)
        views = dict(own)
        for auxiliary in self.beside_main:
            for name, view in auxiliary.method.beside(own).items():
                view.settings = {**view.settings, _MARK: auxiliary.name}
                view.guided = False
                views[f"{auxiliary.name}/{name}"] = view
        return views

    def outline(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        own = self._of_one_shape(self.main.outline(rows, random))
        for auxiliary in self.beside_main:
            auxiliary.method.beside(own)
        return own

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        auxiliary = self._of(view.settings.get(_MARK))
        method, own = (self.main, name) if auxiliary is None else (auxiliary.method, name.partition("/")[2])
        inputs = method.prepare(model, own, view)
        if auxiliary is None and hasattr(inputs, "pixels"):
            self._forms[name] = _form(inputs, view.settings)
        return inputs

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        auxiliary = self._of(settings.pop(_MARK, None))
        if auxiliary is None:
            for other in self.beside_main:
                inputs = other.method.before_main(model, inputs)
            if self._riders and hasattr(inputs, "pixels"):
                return self._with_patches(model, parts, inputs, settings)
        method, name = (self.main, "main") if auxiliary is None else (auxiliary.method, auxiliary.name)
        return method.embed(model, parts[name], inputs, **settings)  # type: ignore[arg-type]

    def _of_one_shape(self, views: dict[str, View]) -> dict[str, View]:
        """The views, whose images have one shape where an auxiliary reads their patches."""
        for view in views.values():
            view.own_shapes = view.own_shapes and not self._riders
        return views

    @property
    def _riders(self) -> list[Auxiliary]:
        return [auxiliary for auxiliary in self.beside_main if auxiliary.method.reads_patches]

    @property
    def _inner_blocks(self) -> int:
        return max((rider.method.inner_blocks for rider in self._riders), default=0)

    def _with_patches(self, model: Any, parts: nn.ModuleDict, inputs: Any, settings: dict[str, Any]) -> Tensor:
        """The main method's output, and behind it the columns of each auxiliary that reads patches, of one pass."""
        covers = [rider.method.cover(inputs, self._parts(parts, rider)) for rider in self._riders]
        with model.patch_record(next((one for one in covers if one is not None), None), self._inner_blocks) as record:
            output = self.main.embed(model, parts["main"], inputs, **settings)  # type: ignore[arg-type]
        return self._columns(_form(inputs, settings), output, record, [
            rider.method.patch_columns(record[-1], self._parts(parts, rider), inputs)
            for rider in self._riders if record
        ])  # fmt: skip

    def use_guide(self, guide: GuideConfig | None) -> None:
        own = [auxiliary.name for auxiliary in self.beside_main]
        self.main.use_guide(_guide_of(guide, None, own))
        for auxiliary in self.beside_main:
            auxiliary.method.use_guide(_guide_of(guide, auxiliary.name, own))
            if auxiliary.method.reads_guide and guide is None:
                remedy = "add guide: {model: {name: ...}}, a frozen one, or guide: {ema: 0.99}"
                raise RecipeError(f"{auxiliary.name!r} has no teacher", where=auxiliary.where, remedy=remedy)
        if guide is not None and guide.models:
            for rider in self._riders:
                raise RecipeError(f"{rider.name} compares patches of one guide", where="guide.models",
                                  remedy="give one, as guide.model")  # fmt: skip

    def embed_guide(self, encoder: Any, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        if not self._riders or not hasattr(inputs, "pixels"):
            return self.main.embed_guide(encoder, parts["main"], inputs)  # type: ignore[arg-type]
        with encoder.patch_record(blocks=self._inner_blocks) as record:
            output = self.main.embed_guide(encoder, parts["main"], inputs)  # type: ignore[arg-type]
        columns = [
            rider.method.guide_columns(record[-1], self._parts(parts, rider), inputs)
            for rider in self._riders if record
        ]  # fmt: skip
        width = output.shape[1] + sum(own.shape[1] for own in columns)  # more for more patches: it tells the layout
        return self._columns(_of_guide(width), output, record, columns)

    @staticmethod
    def _parts(parts: Any, auxiliary: Auxiliary) -> Any:
        """The parts of an auxiliary, with those of the main method where it shares them."""
        own = parts[auxiliary.name]
        return {**own, "main": parts["main"]} if auxiliary.method.shares_parts else own

    def _columns(self, form: str, output: Tensor, record: list[PatchTokens], added: list[Tensor]) -> Tensor:
        import torch

        if not record:  # the main method has no pass of this view
            return output
        columns = [output, *(own.to(output.dtype) for own in added)]
        self._layouts[form] = [z.shape[1] for z in columns]
        return torch.cat(columns, dim=1)

    def _column_blocks(self, name: str, z: Tensor, guide: bool = False) -> dict[str | None, Tensor]:
        """The columns of a view's output that belong to the main method (None), and to the auxiliaries by name.

        They are told by the view's size and settings, of a guide's vectors by their width: raw vectors of a tower, or
        texts, may be as wide as vectors with patches behind them.
        """
        layout = self._layouts.get(_of_guide(z.shape[1]) if guide else self._forms.get(name, ""))
        if layout is None:
            return {None: z}
        names = [None, *(rider.name for rider in self._riders)]
        return dict(zip(names, z.split(layout, dim=1), strict=True))

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        blocks = {name: self._column_blocks(name, z, guide) for name, z in outputs.items()}
        main = self._own({name: own[None] for name, own in blocks.items()}, None)
        parcel = {name: own[None] for name, own in blocks.items()}
        parcel |= self.main.exchange(main, owner, parts["main"], guide)  # type: ignore[arg-type]
        for rider in self._riders:
            own = {name: block[rider.name] for name, block in blocks.items() if rider.name in block}
            visible = {**own, **{f"main/{name}": z for name, z in main.items()}}
            rows = {**owner, **{f"main/{name}": owner[name] for name in main}}
            parcel_of = rider.method.exchange(visible, rows, self._parts(parts, rider), guide)
            parcel |= {f"{rider.name}/{name}": z for name, z in parcel_of.items()}
        return parcel

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return self.main.project(self._own(outputs, None), batch, parts["main"])  # type: ignore[arg-type]

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        own = self._own(outputs, None)
        terms_by_name = self.main.terms(own, embeddings, self._main_batch(batch), parts["main"])  # type: ignore[arg-type]
        for auxiliary in self.beside_main:
            own = self._own(outputs, auxiliary)
            own_batch = self._batch(batch, auxiliary)
            terms = auxiliary.method.terms(own, {}, own_batch, self._parts(parts, auxiliary))
            terms_by_name |= {name: value * auxiliary.factor(batch.step) for name, value in terms.items()}
        return terms_by_name

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        terms = self.main.local_terms(name, embeddings, inputs, batch, model, parts["main"])  # type: ignore[arg-type]
        for auxiliary in self.beside_main:
            if type(auxiliary.method).local_terms is not Method.local_terms:
                own = auxiliary.method.local_terms(
                    name, embeddings, inputs, self._batch(batch, auxiliary), model,
                    parts[auxiliary.name],  # type: ignore[arg-type]
                )  # fmt: skip
                terms = terms | {term: value * auxiliary.factor(batch.step) for term, value in own.items()}
        return terms

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        main, main_batch = self._own(outputs, None), self._main_batch(batch)
        self.main.after_step(main, embeddings, main_batch, model, parts["main"])  # type: ignore[arg-type]
        for auxiliary in self.beside_main:
            own, own_batch = self._own(outputs, auxiliary), self._batch(batch, auxiliary)
            auxiliary.method.after_step(own, {}, own_batch, model, parts[auxiliary.name])  # type: ignore[arg-type]

    def _of(self, name: str | None) -> Auxiliary | None:
        return next((auxiliary for auxiliary in self.beside_main if auxiliary.name == name), None)

    def _own(self, outputs: Mapping[str, Tensor], auxiliary: Auxiliary | None) -> dict[str, Tensor]:
        """Outputs of the main method, or of an auxiliary under the names it gave them."""
        if auxiliary is None:
            others = tuple(f"{a.name}/" for a in self.beside_main)
            return {name: z for name, z in outputs.items() if not name.startswith(others)}
        start = f"{auxiliary.name}/"
        main = self._own(outputs, None) if auxiliary.method.reads_main else {}
        if auxiliary.method.reads_patches:
            main = {f"main/{name}": z for name, z in self._own(outputs, None).items()}
        return main | {name.removeprefix(start): z for name, z in outputs.items() if name.startswith(start)}

    def _main_batch(self, batch: ObjectiveBatch) -> ObjectiveBatch:
        """The batch as the main method sees it: its own parts and columns."""
        columns: dict[str, Any] = {
            kind: {
                name: self._column_blocks(name, z, guide)[None]
                for name, z in self._own(getattr(batch, kind), None).items()
            }
            for kind, guide in (("own", False), ("own_guide", True))
        }
        return replace(batch, guide_parts=batch.guide_parts.get("main", {}), **columns)

    def _batch(self, batch: ObjectiveBatch, auxiliary: Auxiliary) -> ObjectiveBatch:
        kinds = {name: getattr(batch, name) for name in ("owner", "keys", "lengths", "places", "targets")}
        own: dict[str, Any] = {name: self._own(kind, auxiliary) for name, kind in kinds.items()}
        own["guide_parts"] = self._parts(batch.guide_parts, auxiliary) if batch.guide_parts else {}
        if auxiliary.method.reads_patches:
            own["owner"] |= self._own(batch.owner, None)
            own["guide_parcel"] = self._own(batch.guide_parcel, auxiliary)
            for kind, guide in (("own", False), ("own_guide", True)):
                blocks = {name: self._column_blocks(name, z, guide) for name, z in getattr(batch, kind).items()}
                own[kind] = {name: block[auxiliary.name] for name, block in blocks.items() if auxiliary.name in block}
        return replace(batch, **own)


def _form(inputs: Any, settings: Mapping[str, Any]) -> str:
    """What decides how many numbers a view's output has: the size of its images, if they have one, and its settings."""
    return repr((getattr(inputs, "size", None), sorted(settings.items())))


def _of_guide(width: int) -> str:
    """The same of what a guide gives of images."""
    return f"guide {width}"


def _guide_of(guide: GuideConfig | None, name: str | None, others: Sequence[str]) -> GuideConfig | None:
    """The guide of a recipe with the parts of one method: NAME/PART those of an auxiliary, PART the main method's."""
    if guide is None or guide.parts is None:
        return guide
    pairs = [(part.partition("/"), part) for part in guide.parts]
    if name is None:
        own = [part for (start, _, _), part in pairs if start not in others]
    else:
        own = [rest for (start, mark, rest), _ in pairs if mark and start == name]
    return guide.model_copy(update={"parts": own})


def _guide_one(views: Mapping[str, View]) -> None:
    """Let a guide see the first view of images that the encoder learns from, where it sees none of these."""
    of_images = [view for view in views.values() if view.tower == "image" and not view.settings.get("key")]
    if of_images and not any(view.guided for view in of_images):
        of_images[0].guided = True
