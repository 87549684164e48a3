"""Several views of images and of captions in one step, with projectors of branches: CLIP-rocket, SLIP, DreamLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Template
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Row, View, methods
from embedkit.methods.branches.captions import Texts, check_kinds, check_sentences, drawn_texts
from embedkit.methods.branches.projectors import Branches
from embedkit.methods.clip import ImageText
from embedkit.methods.common.image_views import check_sizes
from embedkit.views.crops import crop_of
from embedkit.views.image import image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("clip-views")
class ClipViews(ImageText):
    """Images and texts in several views (Fini et al. 2023; Mu et al. 2022; Zheng et al. 2024).

    Every view has its embedding in the shared space. A branch of `projectors` gives some of the views a second one,
    ``BRANCH-VIEW``, by a projector of training only: on what the tower gives, beside the model's own projection, so
    that what leaves the run is the plain model. Batch normalisation is over all rows of a view, of all processes. The
    objective names what it reads: ``sum`` with ``inputs``, ``view-pairs`` for one term over several views. With
    ``guide: {ema: ...}`` a branch that reads "shared" has a running mean of its projector, of that decay.

    Parameters
    ----------
    images : mapping
        View -> transform, as in `ImageText`, with ``size`` and ``teacher`` (`embedkit.views.crops.crop_of`). One is
        ``anchor``; a term of the objective or a projector reads each other one, as for texts.
    texts : mapping
        View -> what it draws of the captions, see `embedkit.methods.branches.captions.drawn_texts`: "caption", "first",
        "sentence", "same" or "negated", as the first; ``positive`` must be there. The key ``augment`` changes them.
    merged : int
        Neighbouring sentences of a drawn "sentence".
    negation : str, optional
        Words around a "negated" text, "This image does not show {}" if not given.
    projectors : mapping
        Branch -> `embedkit.methods.branches.projectors.ProjectorSettings`.

    Examples
    --------
    >>> method = ClipViews(texts={"positive": "first", "text1": "sentence", "text2": "sentence"})
    >>> rows = [{"image": b"", "texts": ["a dog", "A dog runs. It is brown."]}]
    >>> {name: view.inputs for name, view in method.views(rows, np.random.default_rng).items() if name != "anchor"}
    {'positive': ['a dog'], 'text1': ['It is brown.'], 'text2': ['A dog runs.']}
    """

    paper: ClassVar[str] = "Fini et al. 2023, TMLR; Mu et al. 2022, ECCV, SLIP; Zheng et al. 2024, ECCV, DreamLIP"

    def __init__(
        self, images: Mapping[str, Any] = {"anchor": "clip"}, texts: Mapping[str, Texts] = {"positive": "caption"},
        merged: Count = 1, negation: Template | None = None, projectors: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:  # fmt: skip
        self._images = {name: crop_of(value, f"method.images.{name}") for name, value in images.items()}
        self._says_teacher = any(isinstance(value, Mapping) and "teacher" in value for value in images.values())
        self._texts, self.merged = dict(texts), merged
        for name, key, views in (("anchor", "images", self._images), ("positive", "texts", self._texts)):
            if name not in views:
                raise RecipeError(f"there is no view {name!r}", where=f"method.{key}", remedy=f"give it: {name}: ...")
        for name in sorted(set(self._images) & set(self._texts)):
            raise RecipeError(f"{name!r} is a view of images and of texts", where="method.texts", remedy="rename it")
        self.negation = check_kinds(self._texts, merged, negation)
        self._branches = Branches(projectors, dict.fromkeys(self._images, "image") | dict.fromkeys(self._texts, "text"))

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({*self._images, *self._texts, *self.sizes})

    @property
    def sizes(self) -> Mapping[str, int]:  # type: ignore[override]
        return self._branches.sizes

    @property
    def listed_views(self) -> frozenset[str]:  # type: ignore[override]
        return self._branches.listed

    @property
    def guided(self) -> frozenset[str]:  # type: ignore[override]
        unseen = {name for name, crop in self._images.items() if not crop.teacher}
        return frozenset() if self.ema is None else self._branches.shared(unseen)

    def picture_side(self, side: int) -> int:
        return max(crop.side(side) for crop in self._images.values())

    @property
    def view_sizes(self) -> frozenset[int]:  # type: ignore[override]
        return frozenset(crop.size for crop in self._images.values() if crop.size is not None)

    def use_guide(self, guide: GuideConfig | None) -> None:
        super().use_guide(guide)
        if guide is None and self._says_teacher:
            raise RecipeError("there is no teacher", where="method.images", remedy="add a guide, or leave teacher out")

    def adapt(self, model: Model) -> None:
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model")
        check_sizes(model, self.view_sizes)

    def check_rows(self, rows: Sequence[Row]) -> None:
        if "sentence" in self._texts.values():
            check_sentences([row["texts"] for row in rows])

    def parts(self, model: Model) -> nn.ModuleDict:
        return self._branches.modules(model, self.ema is not None)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators, owner, views = [random(i) for i in range(len(rows))], list(range(len(rows))), {}
        pairs, kinds = zip(rows, generators, strict=True), self._texts
        draws = [drawn_texts(row["texts"], kinds, self.merged, g) for row, g in pairs]
        for name, crop in self._images.items():
            size = None if crop.size is None else (crop.size, crop.size)
            images = image_inputs([row["image"] for row in rows], crop.transform, generators, size)
            views[name] = View(images, owner, tower="image", guided=crop.teacher)
        for name in self._texts:
            around = self.negation if kinds[name] == "negated" else None
            views[name] = View([texts[name] for texts in draws], list(owner), around)
        for name in self._branches.raw_views:
            views[name].settings = {"raw": True}
        return views

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, raw: bool = False, **settings: Any) -> Tensor:
        """Vectors (n, D) in the shared space; with `raw` those of the tower behind them, (n, D + W)."""
        import torch

        if not raw:
            return model(inputs, **settings)  # type: ignore[no-any-return]
        name, vectors = model.tower_vectors(inputs, **settings)
        return torch.cat([model.projections[name](vectors), vectors], dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return self._branches.project(outputs, batch, parts)

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        self._branches.follow(parts, batch.guide_decay or 0.0)
