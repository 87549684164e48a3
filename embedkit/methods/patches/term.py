"""The base of losses of patches: by themselves on two crops of an image, or beside any method on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View
from embedkit.views.image import Transform, image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


class PatchTerm(Method):
    """A loss of the patches of images, through a projector of its own that is not saved with the model.

    Beside a method (``auxiliary: [{name: densecl, weight: 1.0}]``) it reads the patches of that method's images in the
    same pass through the tower. By itself it has two views of each image, ``anchor`` and ``positive``. Patches of an
    image stay on the process that has the image; only what `exchange` gives is gathered.

    Parameters
    ----------
    transform : str or mapping
        Random changes of the two views when it stands by itself.
    hidden, size : int
        Width and output of the projector of patches: linear, ReLU, linear.

    Examples
    --------
    >>> PatchTerm.objective is None, sorted(PatchTerm.contract.requires), PatchTerm().size
    (True, ['image'], 128)
    """

    contract: ClassVar[Contract] = Contract(requires=frozenset({"image"}))
    objective: ClassVar[dict[str, Any] | None] = None
    reads_patches: ClassVar[bool] = True
    followed: ClassVar[tuple[str, ...]] = ("projector",)
    term: ClassVar[str] = ""
    """The name in the log."""
    needs_mean: ClassVar[bool] = False
    """Whether the guide must be a running mean of the encoder and of all that it follows here."""
    whole_grid: ClassVar[bool] = True
    """Whether it needs all patches of an image, so that patch dropout is refused."""

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count = 2048, size: Count = 128
    ) -> None:  # fmt: skip
        self.transform = Transform.of(transform)
        self.hidden, self.size = hidden, size
        self.stands_alone = True

    @property
    def contract_beside(self) -> Contract:
        return Contract(frozenset())

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        self.stands_alone = False
        if self.whole_grid and any("patch_dropout" in view.settings for view in views.values()):
            raise RecipeError(f"{self.term!r} patches need whole images, and a view lacks some", where="method.views",
                              remedy="leave patch_dropout out of the views")  # fmt: skip
        return {}

    def check_tower(self, tower: Any) -> None:
        import torch

        if self.whole_grid and tower.patch_dropout:
            raise ModelError(
                f"{self.term!r} patches need whole images", where="model.towers.image.patch_dropout",
                remedy="leave it out",
            )  # fmt: skip
        training = tower.training
        with torch.no_grad():  # tells what has no patches
            pixels = next(tower.parameters()).new_zeros(1, 3, *tower.size)
            tower.eval().patch_tokens(pixels, blocks=self.inner_blocks)
        tower.train(training)

    def adapt(self, model: Model) -> None:
        """Refuse a model whose images have no patches; freeze what sees no image where no other method needs it."""
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model: it sees images")
        self.check_tower(model.image)
        if self.stands_alone:
            model.train_images_alone()  # type: ignore[operator]
            model.projections["image"].requires_grad_(False)  # type: ignore[index,union-attr]

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        inputs = model.image.token_width  # type: ignore[union-attr]
        layers = (nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.size))  # type: ignore[arg-type]
        return nn.ModuleDict({"projector": nn.Sequential(*layers)})

    def use_guide(self, guide: GuideConfig | None) -> None:
        super().use_guide(guide)
        if self.needs_mean:
            self.need_means(guide)

    def need_means(self, guide: GuideConfig | None) -> None:
        """Refuse a run without running means of the encoder and of what stands behind it here."""
        frozen = guide is None or guide.ema is None
        if not frozen and all(name in self.guide_parts for name in self.followed):
            return
        raise RecipeError(
            f"{self.term!r} patches need a running mean of the encoder and of {', '.join(self.followed)}",
            where="guide" if frozen else "guide.parts",
            remedy="add guide: {ema: 0.99}" if frozen else "leave guide.parts out",
        )  # fmt: skip

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators, owner = [random(i) for i in range(len(rows))], list(range(len(rows)))
        pictures = [row["image"] for row in rows]
        return {
            name: View(image_inputs(pictures, self.transform, generators), owner, tower="image", own_shapes=False)
            for name in ("anchor", "positive")
        }

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """What the term needs of each image."""
        inputs = self.before_main(model, inputs)
        with model.patch_record(self.cover(inputs, parts), self.inner_blocks) as record:
            model(inputs)
        return self.patch_columns(record[0], parts, inputs)

    def embed_guide(self, encoder: Any, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        with encoder.patch_record(blocks=self.inner_blocks) as record:
            encoder(inputs)
        return self.guide_columns(record[0], parts, inputs)

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """The projected patches, row by row of the grid: (n, P size)."""
        return parts["projector"](patches.tokens).flatten(1)  # type: ignore[no-any-return]

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        return {}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}


def check_heads(width: int, heads: int) -> None:
    """Refuse heads of attention that a width cannot be divided into.

    Raises
    ------
    RecipeError
        With the nearest number that divides it.

    Examples
    --------
    >>> check_heads(16, 5)
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.heads: 5 heads do not divide a width of 16; set it to 4
    """
    if width % heads:
        near = min((number for number in range(1, width + 1) if width % number == 0), key=lambda n: abs(n - heads))
        raise RecipeError(f"{heads} heads do not divide a width of {width}", where="method.heads",
                          remedy=f"set it to {near}")  # fmt: skip


def two_views(names: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Both directions between the first two views that have patches.

    Raises
    ------
    ModelError
        There are not two.

    Examples
    --------
    >>> two_views({"anchor": 1, "positive": 2})
    [('anchor', 'positive'), ('positive', 'anchor')]
    """
    first = list(names)[:2]
    if len(first) < 2:
        raise ModelError(
            "compares the patches of two views of an image, and the method beside it has one", where="auxiliary",
            remedy="put it beside simclr or another method on two views",
        )  # fmt: skip
    return [(first[0], first[1]), (first[1], first[0])]
