"""What methods on images alone share: random views of each, a projector, a running mean of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedkit.config.settings import Count, Whole
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View
from embedkit.methods.branches.image_projectors import ImageProjectors
from embedkit.views.crops import Crop, crops_of, named
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


class ImageViews(Method):
    """Base of methods on random views of an image with a projector.

    Views: ``anchor`` and ``positive``, the same image changed twice, or the images of the roles ``image`` and
    ``image2`` changed once each; ``view3`` ... with `views` (multi-crop, Caron et al. 2020). Each image is decoded once
    for all of them. The text tower of the model, if it has one, is frozen and not used.

    A guide that is a running mean (``guide: {ema: 0.99}``) covers encoder and projector, so that its vectors are those
    of the embeddings, as in BYOL (Grill et al. 2020, section 3.1). A view that the objective reads the guide's vector
    of, and takes no gradient through, is embedded by the running mean alone.

    Parameters
    ----------
    transform : str or mapping
        Random changes of both views, see `embedkit.views.image.Transform`.
    views : list of str or mapping
        Instead of `transform`: the transform of each view, with ``size``, ``count``, ``teacher``, ``patch_dropout``,
        see `embedkit.views.crops.crops_of`. Images of another size than the model's go through the same tower, whose
        position table is resampled as timm does.
    hidden, size, layers : int
        Width, output and linear layers of the projector, which is trained beside the model and not saved with it.
    norm, last_norm : bool
        Its batch normalisation, over all views of the whole batch, before each activation and behind the last layer.
    activation : str
        "relu" or "gelu".
    prototypes : int, optional
        The embeddings are cosines with so many learned prototypes (DINO, Caron et al. 2021).
    freeze_steps, freeze_epochs : int
        Steps, or epochs, at the start in which prototypes get no gradient.
    projectors : mapping
        Further projectors of some of the views: name -> `embedkit.methods.branches.image_projectors.ImageProjector`.
        What one makes of a view is the embedding NAME-VIEW, which the objective reads by ``inputs``; a running mean
        follows it as ``projector-NAME``.
    groups : int, optional
        Divide the batch into groups that share one random draw, for objectives that compare within them (CARE).

    Examples
    --------
    >>> rows = [{"image": b"one", "image2": b"another shot"}]
    >>> views = ImageViews("none").views(rows, np.random.default_rng)
    >>> [view.inputs[0].picture for view in views.values()]
    [b'one', b'another shot']
    """

    paper: ClassVar[str] = "Chen et al. 2020, ICML; views of several sizes: Caron et al. 2020, NeurIPS, section 3.2"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"image"}), accepts=frozenset({"image2", "label", "group"})
    )
    objective: ClassVar[dict[str, Any] | None] = {"name": "ntxent", "temperature": 0.1}
    _transform: ClassVar[str] = "simclr"
    _norm: ClassVar[bool] = True

    def __init__(
        self, transform: str | Mapping[str, Any] | None = None, hidden: Count = 2048, size: Count = 128,
        views: list[str | dict[str, Any]] | None = None, layers: Count = 2, norm: bool | None = None,
        last_norm: bool = False, activation: Literal["relu", "gelu"] = "relu", prototypes: Count | None = None,
        freeze_steps: Whole = 0, groups: Count | None = None, freeze_epochs: Whole = 0,
        projectors: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:  # fmt: skip
        if views is not None and transform is not None:
            raise RecipeError("both transform and views", where="method.views", remedy="leave method.transform out")
        for name, rest in (("freeze_steps", freeze_steps), ("freeze_epochs", freeze_epochs)):
            if rest and prototypes is None:
                raise RecipeError("has no prototypes to freeze", where=f"method.{name}", remedy="set prototypes")
        same = Crop(Transform.of(self._transform if transform is None else transform))
        self.crops = [same, same] if views is None else crops_of(views)
        self.says_teacher = any(isinstance(entry, dict) and "teacher" in entry for entry in views or ())
        self.hidden, self.size, self.layers, self.activation = hidden, size, layers, activation
        self.norm, self.last_norm = self._norm if norm is None else norm, last_norm
        self.prototypes, self.rest, self.row_groups = prototypes, (freeze_steps, freeze_epochs), groups
        usual = {name: getattr(self, name) for name in ("hidden", "size", "layers", "norm", "last_norm", "activation")}
        self.further = ImageProjectors(projectors, [name for name, _ in named(self.crops)], usual)

    @property
    def followed(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("projector", *self.further.parts)

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(name for name, _ in named(self.crops)) | frozenset(self.sizes) | self.gives

    @property
    def sizes(self) -> Mapping[str, int]:  # type: ignore[override]
        """Embeddings of further projectors with the sizes of their vectors."""
        return self.further.sizes

    @property
    def guided(self) -> frozenset[str]:  # type: ignore[override]
        views = {name for name, crop in named(self.crops) if crop.teacher}
        return frozenset(name for name, view in self.further.of_parts(self.guide_parts).items() if view in views)

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset() if self.row_groups is None else frozenset({"group"})

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return self.provides - self.gives

    @property
    def embedding_size(self) -> int | None:
        return self.prototypes or self.size

    def embedding_dim(self, model: Model) -> int:
        return self.prototypes or self.size

    def guide_dim(self, dim: int) -> int:
        return self.prototypes or self.size if "projector" in self.guide_parts else dim

    @property
    def listed_views(self) -> frozenset[str]:  # type: ignore[override]
        alone = {name for name, _ in named(self.crops) if not self.further.of_view(name)}
        return frozenset(alone - {"anchor", "positive"}) | frozenset(self.sizes)

    @property
    def view_sizes(self) -> frozenset[int]:  # type: ignore[override]
        return frozenset(crop.size for crop in self.crops if crop.size is not None)

    def picture_side(self, side: int) -> int:
        return max(crop.side(side) for crop in self.crops)

    def use_guide(self, guide: GuideConfig | None) -> None:
        super().use_guide(guide)
        if guide is None and self.says_teacher:
            raise RecipeError("there is no teacher", where="method.views", remedy="add guide: {ema: 0.996}, or leave "
                              "teacher out")  # fmt: skip
        if guide is not None and self.prototypes is not None and "projector" not in self.guide_parts:
            is_frozen = guide.ema is None
            raise RecipeError(
                "the teacher has no projector, so no prototypes that it assigns views to",
                where="guide" if is_frozen else "guide.parts",
                remedy=f"{'give guide: {ema: 0.996}' if is_frozen else 'leave it out'}, or leave method.prototypes out",
            )

    def adapt(self, model: Model) -> None:
        """Freeze what sees no image; refuse sizes that the tower cannot take."""
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model: it sees images")
        dual: Any = model
        dual.train_images_alone()
        tower = dual.image
        if any(crop.patch_dropout for crop in self.crops):
            if tower.patch_dropout:
                raise ModelError(
                    "patches are left out of all views and of some", where="model.towers.image.patch_dropout",
                    remedy="leave it out, or patch_dropout of the views",
                )  # fmt: skip
            tower.set_patch_dropout(0.0)
        check_sizes(model, self.view_sizes)

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.models.heads.projector import Prototypes, projector

        layers = projector(
            model.training_dim, self.hidden, self.size, layers=self.layers, norm=self.norm, last_norm=self.last_norm,
            activation=self.activation,
        )  # fmt: skip
        if self.prototypes is not None:
            layers.append(Prototypes(self.size, self.prototypes))
        return nn.ModuleDict({"projector": layers, **self.further.modules(model.training_dim)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators = [random(i) for i in range(len(rows))]
        pictures = [[row["image"] for row in rows]]
        pictures.append([row["image"] if row.get("image2") is None else row["image2"] for row in rows])
        views = {}
        for number, (name, crop) in enumerate(named(self.crops)):
            size = None if crop.size is None else (crop.size, crop.size)
            inputs = image_inputs(pictures[number % 2], crop.transform, generators, size)
            guided = crop.teacher and (self.guide_views is None or not self._names(name).isdisjoint(self.guide_views))
            views[name] = View(inputs, list(range(len(rows))), tower="image", guided=guided)
            if guided and self._is_key(name):
                views[name].settings = {"key": True}
            elif crop.patch_dropout:
                views[name].settings = {"patch_dropout": crop.patch_dropout}
        return views

    def _is_key(self, name: str) -> bool:
        """Whether a view is embedded by the running mean alone."""
        needed = {"projector", *self.further.parts}
        if self.trained_views is None or self.guide_views is None or not needed <= set(self.guide_parts):
            return False
        return bool(self._names(name) & self.guide_views) and not self._names(name) & self.trained_views

    def _names(self, view: str) -> set[str]:
        """Embeddings of a view."""
        return {view, *self.further.of_view(view)}

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """The vectors of a view; of one that only the running mean embeds, zeros."""
        import torch

        if settings.get("key"):
            return torch.zeros(len(inputs), model.training_dim, dtype=model.dtype, device=inputs.device)
        if "patch_dropout" not in settings:
            return model(inputs)  # type: ignore[no-any-return]
        with model.image.leaving_out(settings["patch_dropout"]):
            return model(inputs)  # type: ignore[no-any-return]

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        from embedkit.models.heads.projector import together

        layers: Any = parts["projector"]
        names = [name for name, _ in named(self.crops) if name in outputs]
        keys = {own: batch.guide[own] for name in names if self._is_key(name) for own in self._names(name)}
        vectors = {name: outputs[name] for name in names if name not in keys}
        self.further.note_owners(batch)
        others = {**self.further.project(vectors, parts), **keys}
        if self.resting(batch):
            return {**together(partial(layers[-1], learns=False), together(layers[:-1], vectors)), **others}
        return {**together(layers, vectors), **others}

    def resting(self, batch: ObjectiveBatch) -> bool:
        """Whether there are prototypes and they get no gradient yet."""
        return self.prototypes is not None and (batch.step < self.rest[0] or batch.epoch < self.rest[1])

    def project_guide(
        self, vectors: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:  # fmt: skip
        from embedkit.models.heads.projector import together

        own = together(parts["projector"], vectors) if "projector" in parts and vectors else vectors
        return {**own, **self.further.project(vectors, parts)}


def check_sizes(model: Model, sizes: frozenset[int]) -> None:
    """Refuse square images of sides that the image tower of a dual encoder cannot take.

    Raises
    ------
    ModelError
        The tower takes one size only, or cuts images into patches that do not fit.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> check_sizes(build(load_recipe("clip", smoke=True).model, 0), frozenset({16}))
    """
    tower: Any = model.image
    for size in sizes:
        with tower.sized((size, size)):
            pass
