"""Texts that say how an image differs from another one: the step between their vectors is the text's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, Template
from embedkit.data.schema.contract import Contract
from embedkit.methods.base import Row, View, methods
from embedkit.methods.clip import ImageText, chosen_texts
from embedkit.views.image import image_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.objectives.base import ObjectiveBatch


@methods.add("image-difference")
class ImageDifference(ImageText):
    """Pairs of similar images with a text of what differs (the data of Jhamtani and Berg-Kirkpatrick 2018, EMNLP).

    Their model writes the text; here it is found: the anchor is the difference of two unit vectors, that of ``image2``
    less that of ``image``, and the text is its positive, by the objective of CLIP. So the saved model is a dual encoder
    like any other, and ``encode(after) - encode(before)`` is compared with texts. Both images of a row are changed
    alike, by one draw, so that a crop is no difference.

    Parameters
    ----------
    transform, captions, template
        As in `ImageText`; without random changes if not given, since a crop may cut off what differs.

    Examples
    --------
    >>> method = ImageDifference()
    >>> rows = [{"image": b"a", "image2": b"b", "texts": ["the car has gone"]}]
    >>> list(method.views(rows, np.random.default_rng)), sorted(method.provides)
    (['image', 'image2', 'positive'], ['anchor', 'positive'])
    """

    paper: ClassVar[str] = "after Jhamtani and Berg-Kirkpatrick 2018, EMNLP, Learning to Describe Differences"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"image", "image2", "texts"}), accepts=frozenset({"label", "group"})
    )

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "none", captions: Count = 1, template: Template | None = None
    ) -> None:  # fmt: skip
        super().__init__(transform, captions, template)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        views = {}
        for role in ("image", "image2"):
            generators = [random(i) for i in range(len(rows))]  # the same draws for both
            texts = [chosen_texts(row["texts"], self.captions, g) for row, g in zip(rows, generators, strict=True)]
            images = image_inputs([row[role] for row in rows], self.transform, generators)
            views[role] = View(images, list(range(len(rows))), tower="image")
        owner = [i for i, captions in enumerate(texts) for _ in captions]
        views["positive"] = View([text for captions in texts for text in captions], owner, self.template)
        return views

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        import torch.nn.functional as F

        before, after = (F.normalize(outputs[role], dim=1) for role in ("image", "image2"))
        batch.owner["anchor"] = batch.owner["image"]
        batch.keys["anchor"] = batch.keys["image"] * 1_000_003 + batch.keys["image2"]
        return {"anchor": after - before, "positive": outputs["positive"]}
