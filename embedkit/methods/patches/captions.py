"""The base of losses that read an image's patches and its captions, beside a method on image-text pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from embedkit.errors import RecipeError, nearest
from embedkit.methods.base import Method, Row, View
from embedkit.methods.patches.term import PatchTerm

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.objectives.base import ObjectiveBatch


class CaptionTerm(PatchTerm):
    """A loss of patches and captions.

    Parameters
    ----------
    view, image : str
        The views of the method beside it that have the texts and the images.

    Examples
    --------
    >>> CaptionTerm().views([], np.random.default_rng)
    Traceback (most recent call last):
    embedkit.errors.RecipeError: method.name: CaptionTerm has no views of its own; put it beside another ...
    """

    whole_grid: ClassVar[bool] = False
    followed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, view: str = "positive", image: str = "anchor") -> None:
        super().__init__(None)
        self.view, self.image = view, image

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        return Method.views(self, rows, random)

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        for tower, name_of in (("text", self.view), ("image", self.image)) if views else ():
            names = [name for name, view in views.items() if view.tower == tower]
            if name_of not in names:
                raise RecipeError(f"there is no view {name_of!r} of {tower}s to stand beside", where="auxiliary",
                                  remedy=nearest(name_of, names) if names else "put it beside clip")  # fmt: skip
        return super().beside(views)

    def own_place(self, places: Tensor, batch: ObjectiveBatch) -> Tensor:
        """Places of images of this process among its own, from those among all of the batch."""
        return places - int((batch.owner[self.image] < batch.rows.start).sum())
