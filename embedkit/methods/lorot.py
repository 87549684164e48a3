"""LoRot: a quarter of each image is turned, and a head tells which one and how far; by itself or beside a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.data.schema.contract import Contract
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.base import Method, Row, View, methods
from embedkit.views.image import ImageInput, Transform, image_inputs, turn_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

KINDS = 16  # quarters times right angles


@methods.add("lorot")
class LoRot(Method):
    """Localizable rotation (Moon et al. 2022, ECCV, section 3; the variant of explicit quarters, LoRot-E).

    One quarter of each image, drawn evenly, is turned by 0 to 3 right angles. A linear layer on the encoder's vector,
    before any projector, tells which of the 16 cases it is: cross-entropy, averaged over the images. Beside another
    method (``auxiliary: [{name: lorot, weight: 0.1}]``) all views of it that are cropped are turned, what a guide sees
    of them too, and the head reads the vectors of the view `view`; by itself there is one view.

    Parameters
    ----------
    transform : str or mapping
        Random changes before the turn when it stands by itself, with a crop.
    view : str
        The view that the head reads.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.data.images.pictures import Picture
    >>> rows = [{"image": Picture(Image.new("RGB", (40, 40)), key=b"1")}]
    >>> made = LoRot().views(rows, np.random.default_rng)["anchor"]
    >>> made.places.tolist() == [[4 * made.inputs[0].turn[0] + made.inputs[0].turn[1]]]
    True
    """

    paper: ClassVar[str] = "Moon et al. 2022, ECCV, Tailoring Self-Supervision for Supervised Learning, section 3"
    contract: ClassVar[Contract] = Contract(requires=frozenset({"image"}))
    objective: ClassVar[dict[str, Any] | None] = None
    reads_main: ClassVar[bool] = True

    def __init__(self, transform: str | Mapping[str, Any] = "weak", view: str = "anchor") -> None:
        self.transform, self.view = Transform.of(transform), view
        if self.transform is None or self.transform.crop is None:
            raise RecipeError("has no crop, so that nothing can be turned", where="method.transform",
                              remedy="use weak, or give crop")  # fmt: skip
        self.stands_alone = True

    @property
    def contract_beside(self) -> Contract:
        return Contract(frozenset())

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def adapt(self, model: Model) -> None:
        """Refuse a model without images."""
        if model.kind != "dual":
            raise ModelError(f"is a {model.kind} model", where="model.kind", remedy="use a dual model: it sees images")
        if self.stands_alone:
            model.train_images_alone()  # type: ignore[operator]

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({"turn": nn.Linear(model.training_dim, KINDS)})

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        generators = [random(i) for i in range(len(rows))]
        inputs = image_inputs([row["image"] for row in rows], self.transform, generators)
        view = View(inputs, list(range(len(rows))), tower="image")
        turn(view)
        return {"anchor": view}

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        """Turn the views of the method beside it."""
        self.stands_alone = False
        if views and not any(turn(view) for name, view in views.items() if view.tower == "image" and name == self.view):
            raise RecipeError(f"there is no view {self.view!r} of cropped images here", where="auxiliary.lorot",
                              remedy="put it beside a method on images whose transform has a crop")  # fmt: skip
        for name, view in views.items():
            if name != self.view and view.tower == "image":
                turn(view)
            elif name == self.view:
                view.settings.pop("key", None)  # a view of the running mean's alone is the encoder's too
        return {}

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """The cross-entropy of this process's images."""
        import torch.nn.functional as F

        logits = parts["turn"](outputs[self.view][batch.rows])
        cases = batch.places[self.view][batch.rows, 0]
        return {"turn": F.cross_entropy(logits, cases, reduction="sum") / batch.size}


def turn(view: View) -> bool:
    """Turn a quarter of each image of a view, and note which case of 16 it is as its place; False where one cannot.

    Examples
    --------
    >>> view = View([ImageInput(None, Transform.of("weak"), seed=(0, 1))], [0], tower="image")
    >>> turn(view), view.places.tolist() == [[4 * view.inputs[0].turn[0] + view.inputs[0].turn[1]]]
    (True, True)
    """
    if not all(isinstance(one, ImageInput) and one.transform and one.transform.crop for one in view.inputs):
        return False
    turns = [turn_of(one.seed) for one in view.inputs]
    view.inputs = [replace(one, turn=own) for one, own in zip(view.inputs, turns, strict=True)]
    view.own_shapes = False
    view.places = np.array([[4 * quarter + angle] for quarter, angle in turns], dtype=np.int64).reshape(-1, 1)
    return True
